"""Tags and referrers of a real registry, compared with crane and oras, without a containerd.

docker-registry 2.8 has neither pagination nor the referrers API: the proxy in front of it responds like newer
registries, and oras and crane must read the responses like pyctrd does.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import pytest

from integration.faults.broken import plain
from integration.faults.case import on
from integration.rig import peers
from integration.rig.faultserver import Exchange, FaultServer, Reply
from integration.rig.publish import push
from integration.rig.registry import HTPASSWD, PASSWORD, USER, Registry
from integration.rig.tokens import TokenService
from integration.shell import REPOSITORY_ROOT
from integration.uploads import methods, run, running
from tests.support import shapes
from tests.support.images import OCI_INDEX, Graph

TAGS = b'{"name":"team/app","tags":["v1"]}'
SBOM, SIGNATURE = "application/spdx+json", "application/vnd.example.signature.v1"


class Command:
    """Runs pyctrd where there is no containerd."""

    def __init__(self, folder: Path) -> None:
        self.env = {
            **os.environ,
            "CONTAINERD_ADDRESS": "/nonexistent/containerd.sock",
            "PYTHONPATH": str(REPOSITORY_ROOT),
            "DOCKER_CONFIG": str(folder / "no-docker-config"),
        }

    def __call__(self, *arguments: str, code: int = 0) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [sys.executable, "-m", "pyctrd", *arguments],
            env=self.env,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == code, f"{arguments}: exit {done.returncode}\n{done.stderr}"
        assert "Traceback" not in done.stderr
        return done

    def json(self, *arguments: str) -> Any:
        return json.loads(self(*arguments, "--format", "json").stdout)


@pytest.fixture
def pyctrd(tmp_path: Path) -> Command:
    return Command(tmp_path)


def push_tags(registry: Registry, repository: str, count: int) -> list[str]:
    """Push one image under many tags; return the tags."""
    graph = shapes.single(salt=repository)
    tags = [f"v{number}" for number in range(count)]
    for tag in tags:
        push(graph, registry, repository, tag)
    return tags


def attach(folder: Path, image: str, artifact_type: str, text: str) -> str:
    """Attach an artifact with oras; return its digest."""
    (folder / "artifact.txt").write_text(text)
    command = [str(peers.tool("oras")), "attach", "--plain-http", "--artifact-type", artifact_type]
    words = [*command, "--format", "json", "--annotation", f"org.example.text={text}", image, "artifact.txt"]
    done = subprocess.run(words, cwd=folder, capture_output=True, timeout=60, check=True)
    return str(json.loads(done.stdout)["digest"])


def discovered(image: str, artifact_type: str = "") -> list[tuple[str, str, str]]:
    """List what oras discovers: digest, artifact type and annotation of each."""
    chosen = ["--artifact-type", artifact_type] if artifact_type else []
    found = json.loads(
        run("oras", "discover", "--plain-http", "--depth", "1", "--format", "json", *chosen, image)
    )
    return [_told(item) for item in found.get("referrers") or found.get("manifests") or []]


def listed(document: Any) -> list[tuple[str, str, str]]:
    return [_told(item) for item in document["referrers"]]


def _told(item: Mapping[str, Any]) -> tuple[str, str, str]:
    return item["digest"], item["artifactType"], item["annotations"]["org.example.text"]


# --- tags -------------------------------------------------------------------------------------------------


def test_tags_are_the_same_as_with_crane_and_oras(
    registry: Registry, repository: str, pyctrd: Command
) -> None:
    tags = push_tags(registry, repository, 120)
    name = f"{registry.host}/{repository}"
    ours = pyctrd("registry", "tags", name)
    assert ours.stderr == ""
    assert sorted(ours.stdout.split()) == sorted(tags)
    assert sorted(run("crane", "ls", "--insecure", name).decode().split()) == sorted(tags)
    assert sorted(run("oras", "repo", "tags", "--plain-http", name).decode().split()) == sorted(tags)
    registry.clear_requests()
    told = pyctrd.json("registry", "tags", name)
    assert (told["repository"], told["host"], told["mirror"]) == (name, registry.host, False)
    assert sorted(told["tags"]) == sorted(tags)
    assert [(one.method, one.query) for one in registry.requests()] == [("GET", "n=1000")]


def in_pages(registry: Registry, path: str, most: int, *, link: bool) -> None:
    """Let the proxy paginate the registry's list, as newer registries do."""

    def route(query: str, _headers: Mapping[str, str], _body: bytes) -> tuple[int, Mapping[str, str], bytes]:
        asked = parse_qs(query)
        with urllib.request.urlopen(f"http://{registry.direct_host}{path}") as answer:
            document = json.load(answer)
        tags = sorted(document["tags"])
        count = min(most, int(asked.get("n", ["1000"])[0]))
        start = tags.index(asked["last"][0]) + 1 if "last" in asked else 0
        page = tags[start : start + count]
        more = link and start + count < len(tags)
        headers = {"Link": f'<{path}?last={page[-1]}&n={count}>; rel="next"'} if more else {}
        return 200, headers, json.dumps({**document, "tags": page}).encode()

    registry.proxy.add_route(path, route)


def test_pages_of_tags(registry: Registry, repository: str, pyctrd: Command) -> None:
    tags = push_tags(registry, repository, 101)
    in_pages(registry, f"/v2/{repository}/tags/list", 20, link=True)
    name = f"{registry.host}/{repository}"
    registry.clear_requests()
    ours = pyctrd("registry", "tags", name).stdout.split()
    assert ours == sorted(tags)
    assert [one.query for one in registry.requests()] == [
        "n=1000",
        *(f"last={ours[at - 1]}&n=20" for at in range(20, 101, 20)),
    ]
    assert run("crane", "ls", "--insecure", name).decode().split() == ours


def test_a_warning_of_the_registry(registry: Registry, repository: str, pyctrd: Command) -> None:
    """Printed to stderr with control characters escaped; the list is unchanged."""
    path = f"/v2/{repository}/tags/list"

    def route(_query: str, _headers: Mapping[str, str], _body: bytes) -> tuple[int, Mapping[str, str], bytes]:
        warning = {"Warning": '299 - "\x1b[31mgone soon"'}
        return 200, warning, json.dumps({"name": repository, "tags": ["a"]}).encode()

    registry.proxy.add_route(path, route)
    done = pyctrd("registry", "tags", f"{registry.host}/{repository}")
    assert done.stdout == "a\n"
    assert "pyctrd: warning: " in done.stderr
    assert done.stderr.count("gone soon") == 1
    assert "\x1b" not in done.stderr


def test_tags_of_an_unknown_repository(registry: Registry, repository: str, pyctrd: Command) -> None:
    done = pyctrd("registry", "tags", f"{registry.host}/{repository}", code=3)
    name = f"{registry.host}/{repository}"
    assert done.stderr.startswith(f'pyctrd: failed to list the tags of "{name}": {name}: not found\nhint: ')


def test_a_repository_whose_tags_were_deleted(registry: Registry, repository: str, pyctrd: Command) -> None:
    graph = shapes.single(salt="gone")
    push(graph, registry, repository, "v1")
    run("crane", "delete", "--insecure", f"{registry.host}/{repository}@{graph.digest}")
    assert pyctrd("registry", "tags", f"{registry.host}/{repository}").stdout == ""
    assert pyctrd.json("registry", "tags", f"{registry.host}/{repository}")["tags"] == []


@pytest.fixture(params=["basic", "token"])
def guarded(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Registry]:
    """A registry that lets only USER in."""
    if request.param == "basic":
        registry = Registry(tmp_path / "guarded", auth=HTPASSWD)
    else:
        registry = Registry(tmp_path / "guarded", config=TokenService(tmp_path / "tokens", anonymous=False))
    with running(registry):
        yield registry


def test_with_and_without_a_login(guarded: Registry, pyctrd: Command) -> None:
    image = shapes.single(salt="guarded")
    name = push(image, guarded, "team/app", "v1")
    done = pyctrd("registry", "tags", f"{guarded.host}/team/app", code=5)
    assert "hint: Pass -u USER" in done.stderr
    login = ("-u", f"{USER}:{PASSWORD}")
    assert pyctrd("registry", "tags", *login, f"{guarded.host}/team/app").stdout == "v1\n"
    assert pyctrd.json("registry", "referrers", *login, name)["referrers"] == []
    done = pyctrd("registry", "referrers", "-u", f"{USER}:wrong horse", name, code=5)
    assert "wrong horse" not in done.stderr + done.stdout


def test_the_list_of_an_outdated_mirror_has_a_warning(
    registry: Registry, repository: str, pyctrd: Command, tmp_path: Path
) -> None:
    image = shapes.single(salt="behind")
    push(image, registry, repository, "old")
    folder = tmp_path / "certs.d" / "registry.invalid"
    folder.mkdir(parents=True)
    words = ("--hosts-dir", str(folder.parent), f"registry.invalid/{repository}")
    with running(Registry(tmp_path / "own")) as own:
        (folder / "hosts.toml").write_text(f'server = "{own.url}"\n[host."{registry.url}"]')
        for tag in ("old", "new"):
            push(image, own, repository, tag)
        registry.clear_requests()
        assert sorted(pyctrd("registry", "tags", *words).stdout.split()) == ["new", "old"]
        assert registry.requests() == []
    done = pyctrd("registry", "tags", *words)
    assert done.stdout == "old\n"
    assert (
        f"the list is from {registry.host}: a mirror may lack some of what registry.invalid has"
        in done.stderr
    )


# --- referrers --------------------------------------------------------------------------------------------


def test_referrers_attached_by_oras(
    registry: Registry, repository: str, pyctrd: Command, tmp_path: Path
) -> None:
    image = push(shapes.five_platform(salt="attached"), registry, repository, "v1")
    assert listed(pyctrd.json("registry", "referrers", image)) == discovered(image) == []
    digests = [attach(tmp_path, image, kind, text) for kind, text in ((SBOM, "one"), (SIGNATURE, "two"))]
    registry.clear_requests()
    found = pyctrd.json("registry", "referrers", image)
    assert methods(registry.requests()) == {"HEAD", "GET"}
    assert listed(found) == discovered(image)
    assert [item["digest"] for item in found["referrers"]] == digests
    assert (found["source"], found["host"], found["mirror"]) == ("tag", registry.host, False)
    ours = listed(pyctrd.json("registry", "referrers", "--artifact-type", SIGNATURE, image))
    assert ours == discovered(image, SIGNATURE) == [(digests[1], SIGNATURE, "two")]
    by_digest = f"{registry.host}/{repository}@{found['subject']}"
    assert listed(pyctrd.json("registry", "referrers", by_digest)) == listed(found)
    lines = pyctrd("registry", "referrers", image).stdout.splitlines()
    assert lines[0].split() == ["DIGEST", "ARTIFACT", "TYPE", "SIZE"]
    assert [line.split()[:2] for line in lines[1:]] == [[digests[0], SBOM], [digests[1], SIGNATURE]]


def test_referrers_copied_by_pyctrd(
    registry: Registry, repository: str, pyctrd: Command, tmp_path: Path
) -> None:
    image = push(shapes.single(salt="copied"), registry, repository, "v1")
    digest = attach(tmp_path, image, SBOM, "copied")
    copied = f"{registry.host}/{repository}-copied"
    pyctrd("copy", image, f"{copied}:v1")
    pyctrd("copy", f"{registry.host}/{repository}@{digest}", f"{copied}@{digest}")
    found = listed(pyctrd.json("registry", "referrers", f"{copied}:v1"))
    assert found == discovered(f"{copied}:v1") == [(digest, SBOM, "copied")]


def test_referrers_of_an_unknown_image(registry: Registry, repository: str, pyctrd: Command) -> None:
    push(shapes.single(salt="unknown"), registry, repository, "v1")
    for name in (f"{repository}:v2", f"{repository}@sha256:{'0' * 64}"):
        done = pyctrd("registry", "referrers", f"{registry.host}/{name}", code=3)
        assert "not found" in done.stderr


Route = Callable[[str, Mapping[str, str], bytes], tuple[int, Mapping[str, str], bytes]]


def keeping_lists(path: str, entries: list[dict[str, Any]], *, filters: bool) -> Route:
    """Respond like registries with the referrers API, with one entry per page."""

    def route(query: str, _headers: Mapping[str, str], _body: bytes) -> tuple[int, Mapping[str, str], bytes]:
        asked = parse_qs(query)
        kinds = asked.get("artifactType", []) if filters else []
        chosen = [item for item in entries if not kinds or item["artifactType"] in kinds]
        at = int(asked.get("at", ["0"])[0])
        kept = "".join(f"&artifactType={kind}" for kind in kinds).replace("+", "%2B")
        more = {"Link": f'<{path}?at={at + 1}{kept}>; rel="next"'} if at + 1 < len(chosen) else {}
        applied = {"OCI-Filters-Applied": "artifactType"} if kinds else {}
        document = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": chosen[at : at + 1]}
        return 200, {"Content-Type": OCI_INDEX, **more, **applied}, json.dumps(document).encode()

    return route


@pytest.mark.parametrize("filters", [True, False], ids=["filters", "all it has"])
def test_a_registry_with_the_referrers_api(
    registry: Registry, repository: str, pyctrd: Command, filters: bool
) -> None:
    graph: Graph = shapes.single(salt="kept")
    image = push(graph, registry, repository, "v1")
    entries = []
    for number, kind in enumerate((SBOM, SIGNATURE, SBOM)):
        artifact = shapes.artifact(subject=graph).described_as(artifactType=kind)
        text = {"annotations": {"org.example.text": str(number)}}
        entries.append({**artifact.root, "digest": f"sha256:{number:064x}", **text})
    path = f"/v2/{repository}/referrers/{graph.digest}"
    registry.proxy.add_route(path, keeping_lists(path, entries, filters=filters))
    found = pyctrd.json("registry", "referrers", image)
    assert (listed(found), found["source"]) == ([_told(item) for item in entries], "api")
    ours = listed(pyctrd.json("registry", "referrers", "--artifact-type", SBOM, image))
    assert ours == [_told(entries[0]), _told(entries[2])]
    assert discovered(image) == listed(found)
    assert discovered(image, SBOM) == ours


@pytest.mark.parametrize(
    ("before", "piece", "pause"),
    [
        (b"", b"0", 0.05),
        (b"9;x=", b"y", 0.05),
        (b"%x\r\n%b\r\n0\r\nX: " % (len(TAGS), TAGS), b"y", 0.05),
        (b"%x\r\n%b\r\n0\r\n" % (len(TAGS), TAGS), b"X: y\r\n", 0.05),
        (b"%x\r\n%b\r\n0\r\n" % (len(TAGS), TAGS), b"X: " + b"y" * 60_000 + b"\r\n", 0),
    ],
    ids=["chunk-size", "chunk-extension", "trailer", "trailers", "flood"],
)
def test_a_list_with_endless_framing(pyctrd: Command, before: bytes, piece: bytes, pause: float) -> None:
    def behave(exchange: Exchange) -> None:
        exchange.head(Reply(200, {"Content-Type": "application/json", "Transfer-Encoding": "chunked"}))
        exchange.raw(before)
        while True:
            exchange.raw(piece)
            exchange.hold(pause)

    with FaultServer(plain("tags"), on("", behave)) as server:
        options = ("--stall-timeout", "0.5", "--retry-budget", "0")
        done = pyctrd("registry", "tags", *options, f"{server.host}/team/app", code=5)
        assert server.host in done.stderr
    assert "timed out while waiting" in done.stderr or "malformed HTTP response" in done.stderr

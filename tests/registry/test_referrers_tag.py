"""Lists of referrers: from the referrers API, from the tag, and invalid ones.

A real registry without such lists: integration/test_discovery.py.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from pyctrd.errors import AuthenticationFailed, NotFound, RegistryContentError, RegistryError
from pyctrd.oci import mediatypes
from pyctrd.oci.model import MAX_MANIFEST_BYTES, Digest
from pyctrd.registry import listing, pagination
from tests.cli.stub import run
from tests.registry.conftest import RemoteMaker
from tests.registry.samples import DIGEST, HEADERS, MANIFEST, TAG, mirror_config
from tests.registry.server import Answer, ScriptedServer, Seen

API = f"/v2/team/app/referrers/{DIGEST}"
LISTED = f"/v2/team/app/manifests/sha256-{DIGEST.encoded}"
SBOM, SIGNATURE = "application/spdx+json", "application/vnd.example.signature.v1"
OF_INDEX = {"Content-Type": mediatypes.OCI_INDEX}


def entry(text: str, artifact_type: str = SBOM, **more: Any) -> dict[str, Any]:
    digest = str(Digest.of(text.encode()))
    described = {"mediaType": mediatypes.OCI_MANIFEST, "digest": digest, "size": len(text)}
    return {**described, "artifactType": artifact_type, **more}


def index(*entries: object, link: str = "", filters: str = "", **more: object) -> Answer:
    document = {"schemaVersion": 2, "mediaType": mediatypes.OCI_INDEX, "manifests": entries, **more}
    headers = {**OF_INDEX, "Link": link, "OCI-Filters-Applied": filters}
    return Answer(200, json.dumps(document).encode(), {name: text for name, text in headers.items() if text})


def query_of(seen: Seen) -> dict[str, str]:
    return {name: values[0] for name, values in parse_qs(urlsplit(seen.path).query).items()}


def digests(*texts: str) -> list[Digest]:
    return [Digest.of(text.encode()) for text in texts]


# --- the referrers API ------------------------------------------------------------------------------------


def test_the_list_of_the_referrers_api(server: ScriptedServer, remote: RemoteMaker) -> None:
    first = entry("one", annotations={"org.example": "a\nb"})
    server.once("GET", API, index(first, entry("two", SIGNATURE), entry("one")))
    found = listing.referrers(remote(), DIGEST)
    assert [item.digest for item in found.referrers] == digests("one", "two")
    assert [item.artifact_type for item in found.referrers] == [SBOM, SIGNATURE]
    assert found.referrers[0].annotations == {"org.example": "a\nb"}
    assert (found.repository, found.host, found.mirror) == (f"{server.host}/team/app", server.host, False)
    assert (found.subject, found.source) == (DIGEST, "api")
    (seen,) = server.seen
    assert (seen.path, seen.headers["accept"]) == (API, mediatypes.OCI_INDEX)


def test_a_repository_lists_the_referrers_of_a_digest_without_resolving_anything(
    server: ScriptedServer, remote: RemoteMaker
) -> None:
    server.once("GET", API, index(entry("one")))
    assert [item.digest for item in remote().referrers(DIGEST)] == digests("one")
    assert len(server.seen) == 1


@pytest.mark.parametrize("manifests", [[], None])
def test_an_image_without_referrers(server: ScriptedServer, remote: RemoteMaker, manifests: object) -> None:
    server.once("GET", API, index(manifests=manifests))
    found = listing.referrers(remote(), DIGEST)
    assert (found.referrers, found.source) == ((), "api")
    assert len(server.seen) == 1


@pytest.mark.parametrize("filters", ["", "artifactType", "other, artifacttype"])
def test_only_one_artifact_type(server: ScriptedServer, remote: RemoteMaker, filters: str) -> None:
    """Registries may filter or not; a filtered page is not filtered again."""
    entries = [entry("one"), entry("two", SIGNATURE), entry("three", "")]
    server.once("GET", API, index(*entries, filters=filters))
    found = listing.referrers(remote(), DIGEST, SBOM)
    wanted = digests("one", "two", "three") if filters else digests("one")
    assert [item.digest for item in found.referrers] == wanted
    assert query_of(server.seen[0]) == {"artifactType": SBOM}


def test_pages_each_say_whether_they_are_filtered(server: ScriptedServer, remote: RemoteMaker) -> None:
    server.once(
        "GET",
        API,
        index(entry("one"), link=f"<{API}?page=2>; rel=next", filters="artifactType"),
        index(entry("two", SIGNATURE), link="<?page=3>; rel=next"),
        index(entry("three"), entry("one")),
    )
    found = listing.referrers(remote(), DIGEST, SBOM)
    assert [item.digest for item in found.referrers] == digests("one", "three")
    assert [query_of(seen).get("page") for seen in server.seen] == [None, "2", "3"]


def test_many_pages_of_another_artifact_type(server: ScriptedServer, remote: RemoteMaker) -> None:
    """From a registry that does not filter: all is discarded, but each page has something new."""
    count = 2 * pagination.MAX_PAGES_WITHOUT_NEWS
    others = [
        index(entry(str(number), SIGNATURE), link=f"<?page={number}>; rel=next") for number in range(count)
    ]
    server.once("GET", API, *others, index(entry("one")))
    assert [item.digest for item in listing.referrers(remote(), DIGEST, SBOM).referrers] == digests("one")


def test_pages_without_anything_new(server: ScriptedServer, remote: RemoteMaker) -> None:
    def reply(seen: Seen) -> Answer:
        number = int(query_of(seen).get("page", "0")) + 1
        return index(entry("one"), link=f"<?page={number}>; rel=next")

    server.always("GET", API, reply)
    with pytest.raises(RegistryContentError, match="does not end"):
        listing.referrers(remote(), DIGEST)
    assert len(server.seen) == pagination.MAX_PAGES_WITHOUT_NEWS + 1


def test_pages_at_another_origin_are_refused(
    server: ScriptedServer, other: ScriptedServer, remote: RemoteMaker
) -> None:
    server.once("GET", API, index(entry("one"), link=f"<{other.url}{API}>; rel=next"))
    with pytest.raises(RegistryContentError, match="names a next page of its list at another origin"):
        listing.referrers(remote(), DIGEST)
    assert other.seen == []


@pytest.mark.parametrize("target", [API, ""])
def test_a_circle_of_pages_is_an_error(server: ScriptedServer, remote: RemoteMaker, target: str) -> None:
    server.always("GET", API, index(entry("one"), link=f"<{target}>; rel=next"))
    with pytest.raises(RegistryContentError, match="go in a circle"):
        listing.referrers(remote(), DIGEST)
    assert len(server.seen) == 1


def test_the_number_of_referrers_is_limited(
    server: ScriptedServer, remote: RemoteMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listing, "MAX_REFERRERS", 2)
    server.once("GET", API, index(*map(entry, "abc")), Answer(404))
    server.once("GET", LISTED, index(*map(entry, "abc")))
    for _list in ("api", "tag"):
        with pytest.raises(RegistryContentError, match="more than 2 referrers"):
            listing.referrers(remote(), DIGEST)


# --- the referrers tag ------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [400, 404, 405, 406, 501])
def test_without_the_api_the_tag_is_read(server: ScriptedServer, remote: RemoteMaker, status: int) -> None:
    server.once("GET", API, Answer(status, b"404 page not found"))
    server.once("GET", LISTED, index(entry("one"), entry("two", SIGNATURE)))
    found = listing.referrers(remote(), DIGEST, SIGNATURE)
    assert [item.digest for item in found.referrers] == digests("two")
    assert (found.source, found.mirror) == ("tag", False)
    assert server.seen[1].headers["accept"] == mediatypes.OCI_INDEX


def test_the_tag_of_a_long_digest_is_cut(server: ScriptedServer, remote: RemoteMaker) -> None:
    subject = Digest.of(MANIFEST, "sha512")
    server.once("GET", f"/v2/team/app/manifests/sha512-{subject.encoded[:64]}", index(entry("one")))
    assert len(listing.referrers(remote(), subject).referrers) == 1


def test_neither_the_api_nor_the_tag(server: ScriptedServer, remote: RemoteMaker) -> None:
    found = listing.referrers(remote(), DIGEST)
    assert (found.referrers, found.source, found.host) == ((), "tag", server.host)
    assert server.requests() == [f"GET {API}", f"GET {LISTED}"]


@pytest.mark.parametrize(
    "answer",
    [
        Answer(200, b"{}"),
        Answer(200, b"<html>", {"Content-Type": "text/html"}),
        Answer(200, b'{"schemaVersion":2,"config":{}}', {"Content-Type": mediatypes.OCI_MANIFEST}),
        Answer(200, b'{"schemaVersion":2,"manifests":[{"digest":"sha256:0"}]}', OF_INDEX),
    ],
)
def test_a_tag_that_is_not_an_index(
    server: ScriptedServer, remote: RemoteMaker, caplog: pytest.LogCaptureFixture, answer: Answer
) -> None:
    """By the spec there are no referrers then; a warning says so."""
    server.once("GET", LISTED, answer)
    assert listing.referrers(remote(), DIGEST).referrers == ()
    assert f"tag sha256-{DIGEST.encoded} is ignored, it is not a list of referrers" in caplog.text


@pytest.mark.parametrize(
    ("answer", "kind", "message"),
    [
        (Answer(500), RegistryError, "unexpected status 500"),
        (Answer(403), AuthenticationFailed, "pull access denied"),
        (Answer(200, b" " * 99_999, endless=True), RegistryContentError, f"more than {MAX_MANIFEST_BYTES}"),
    ],
)
def test_a_tag_that_cannot_be_read(
    server: ScriptedServer, remote: RemoteMaker, answer: Answer, kind: type[RegistryError], message: str
) -> None:
    server.once("GET", LISTED, answer)
    with pytest.raises(kind, match=message):
        listing.referrers(remote(retry_budget=0), DIGEST)


# --- invalid lists ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (Answer(200, b"<html>", {"Content-Type": "text/html"}), "HTML page where a list of referrers"),
        (Answer(200, b"<html>"), "not valid JSON"),
        (Answer(200, b"[]", OF_INDEX), "not a valid index"),
        (Answer(200, b"{}"), "than a list of referrers: no index"),
        (Answer(200, b'{"errors":[]}', {"Content-Type": "application/json"}), "list of referrers: no index"),
        (
            Answer(200, b"{}", {"Content-Type": mediatypes.OCI_MANIFEST}),
            "list of referrers: application/vnd.o",
        ),
        (index(mediaType=mediatypes.DOCKER_LIST), "list of referrers: application/vnd.docker"),
        (index(manifests={}), "not a valid index"),
        (index("x"), "not a valid index"),
        (index({"mediaType": "x/y", "digest": "sha256:0", "size": 1}), "not a valid index"),
        (index(entry("one", size=-1)), "not a valid index"),
        (index(entry("one", "a\x1b[31m")), "with an invalid media type"),
        (index(entry("one", mediaType="a\nb")), "with an invalid media type"),
        (Answer(200, b" " * 99_999, OF_INDEX, endless=True), f"more than {MAX_MANIFEST_BYTES} bytes"),
    ],
)
def test_invalid_lists_of_referrers(
    server: ScriptedServer, remote: RemoteMaker, answer: Answer, message: str
) -> None:
    server.once("GET", API, answer)
    with pytest.raises(RegistryContentError, match=message) as caught:
        listing.referrers(remote(), DIGEST)
    prefix = f'failed to list the referrers of "{server.host}/team/app@{DIGEST}": '
    assert str(caught.value).startswith(prefix)
    assert str(caught.value).isprintable()
    assert server.requests() == [f"GET {API}"], "an invalid list is not an absent one"


@pytest.mark.parametrize("content_type", ["", "application/json", f"{mediatypes.OCI_INDEX}; charset=utf-8"])
def test_a_list_with_a_vague_type(server: ScriptedServer, remote: RemoteMaker, content_type: str) -> None:
    good = index(entry("one"))
    server.once("GET", API, Answer(200, good.body, {"Content-Type": content_type} if content_type else {}))
    assert len(listing.referrers(remote(), DIGEST).referrers) == 1


@pytest.mark.parametrize("status", [401, 403])
def test_lists_without_access(server: ScriptedServer, remote: RemoteMaker, status: int) -> None:
    server.once("GET", API, Answer(status))
    with pytest.raises(AuthenticationFailed, match="failed to list the referrers of"):
        listing.referrers(remote(), DIGEST)


def test_an_error_of_the_token_server_is_not_an_absent_list(
    server: ScriptedServer, remote: RemoteMaker
) -> None:
    realm = f'Bearer realm="{server.url}/token",service="x"'
    for status in (400, 404):
        server.once("GET", API, Answer(401, headers={"WWW-Authenticate": realm}))
        server.once("GET", "/token", Answer(status))
        with pytest.raises(AuthenticationFailed):
            listing.referrers(remote(), DIGEST)
    assert not any(seen.path == LISTED for seen in server.seen)


# --- hosts ------------------------------------------------------------------------------------------------


def test_the_registry_is_used_before_its_mirrors(
    server: ScriptedServer, other: ScriptedServer, remote: RemoteMaker, tmp_path: Path
) -> None:
    """A mirror that has seen no signature looks like a registry without one."""
    server.once("GET", API, index(entry("one")), Answer(404))
    server.once("GET", LISTED, Answer(404))
    hosts = mirror_config(tmp_path, server, other)
    assert len(listing.referrers(remote(hosts_dir=hosts), DIGEST).referrers) == 1
    assert listing.referrers(remote(hosts_dir=hosts), DIGEST).referrers == ()
    assert other.seen == []


def test_a_404_of_a_mirror_does_not_hide_that_the_registry_fails(
    server: ScriptedServer, other: ScriptedServer, remote: RemoteMaker, tmp_path: Path
) -> None:
    folder = tmp_path / "registry.invalid"
    folder.mkdir()
    (folder / "hosts.toml").write_text(f'server = "{server.url}"\n[host."{other.url}"]')
    made = remote("registry.invalid/team/app", hosts_dir=tmp_path)
    server.always("GET", API, Answer(500))
    with pytest.raises(RegistryError, match="unexpected status 500"):
        listing.referrers(made, DIGEST)
    other.once("GET", LISTED, Answer(200, b"{}"))
    with pytest.raises(RegistryContentError, match="no index"):
        listing.referrers(made, DIGEST)
    other.once("GET", API, index(entry("one"), link="<?page=2>; rel=next"), index(entry("two")))
    found = listing.referrers(made, DIGEST, SBOM)
    assert ([item.digest for item in found.referrers], found.mirror) == (digests("one", "two"), True)
    assert query_of(other.seen[-2]) == {"ns": "registry.invalid", "artifactType": SBOM}
    assert query_of(other.seen[-1]) == {"page": "2", "ns": "registry.invalid"}


def test_only_hosts_with_the_referrers_capability_are_used(
    server: ScriptedServer, other: ScriptedServer, remote: RemoteMaker, tmp_path: Path
) -> None:
    hosts = mirror_config(tmp_path, server, other, 'capabilities = ["pull", "resolve"]')
    server.once("GET", API, Answer(500))
    with pytest.raises(RegistryError, match="unexpected status 500"):
        listing.referrers(remote(hosts_dir=hosts, retry_budget=0), DIGEST)
    assert other.seen == []


def test_without_the_capability_the_tag_is_read(
    server: ScriptedServer, remote: RemoteMaker, tmp_path: Path
) -> None:
    (tmp_path / "_default").mkdir()
    file = tmp_path / "_default" / "hosts.toml"
    file.write_text(f'server = "{server.url}"\ncapabilities = ["pull", "resolve"]')
    server.once("GET", LISTED, index(entry("one")))
    assert listing.referrers(remote(hosts_dir=tmp_path), DIGEST).source == "tag"
    file.write_text(f'server = "{server.url}"\ncapabilities = ["pull"]')
    with pytest.raises(RegistryError, match="no configured host may be asked"):
        listing.referrers(remote(hosts_dir=tmp_path), DIGEST)
    assert len(server.seen) == 1


# --- the command ------------------------------------------------------------------------------------------


def test_referrers_as_text_and_json(server: ScriptedServer) -> None:
    server.always("HEAD", TAG, Answer(200, MANIFEST, HEADERS))
    server.always("GET", API, index(entry("one", annotations={"a": "\x1b"}), entry("three", SIGNATURE)))
    done = run("registry", "referrers", f"{server.host}/team/app:v1")
    one, three = digests("one", "three")
    assert (done.exit_code, done.stderr) == (0, "")
    assert [line.split() for line in done.stdout.splitlines()] == [
        ["DIGEST", "ARTIFACT", "TYPE", "SIZE"],
        [one, SBOM, "3", "B"],
        [three, SIGNATURE, "5", "B"],
    ]
    words = ("--artifact-type", SIGNATURE, "--format", "json")
    done = run("registry", "referrers", f"{server.host}/team/app:v1", *words)
    assert json.loads(done.stdout) == {
        "repository": f"{server.host}/team/app",
        "host": server.host,
        "mirror": False,
        "subject": DIGEST,
        "source": "api",
        "referrers": [
            {
                "mediaType": mediatypes.OCI_MANIFEST,
                "digest": three,
                "size": 5,
                "artifactType": SIGNATURE,
                "annotations": {},
            }
        ],
    }


def test_an_empty_list_is_not_an_error_but_an_unknown_image_is(server: ScriptedServer) -> None:
    path = f"/v2/team/app/manifests/{DIGEST}"
    server.once("HEAD", path, Answer(200, MANIFEST, HEADERS), Answer(200, MANIFEST, HEADERS))
    name = f"{server.host}/team/app@{DIGEST}"
    done = run("registry", "referrers", name)
    assert (done.exit_code, done.stdout.split(), done.stderr) == (
        0,
        ["DIGEST", "ARTIFACT", "TYPE", "SIZE"],
        "",
    )
    assert json.loads(run("registry", "referrers", name, "--format", "json").stdout)["referrers"] == []
    done = run("registry", "referrers", name)  # which the registry does not have any more
    assert (done.exit_code, done.stdout) == (NotFound.exit_code, "")
    assert "not found" in done.stderr


def test_bad_usage(server: ScriptedServer) -> None:
    for name in ("a/UPPER", f"{server.host}/team/app@sha256:0"):
        assert run("registry", "referrers", name).exit_code == 2
    assert server.seen == []

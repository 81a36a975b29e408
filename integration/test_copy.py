"""Copy between real registries, without a containerd: only the name changes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import trustme

from integration.rig.proxy import Fault
from integration.rig.publish import push
from integration.rig.registry import HTPASSWD, PASSWORD, USER, Certificate, Registry
from integration.rig.tokens import TokenService
from integration.shell import REPOSITORY_ROOT
from integration.uploads import methods, run, running, sent, stored
from pyctrd import Registry as Registries
from pyctrd import RegistryNotFound
from pyctrd.registry import RegistryOptions
from tests.support import shapes
from tests.support.images import Graph, reachable

AMD64 = "linux/amd64"
MIB = 1 << 20

PEAK = """
import resource, subprocess, sys
subprocess.run(sys.argv[1:], check=True)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss, file=sys.stderr)
"""

SHAPES: dict[str, Callable[[], Graph]] = {
    "five": shapes.five_platform,
    "single": shapes.single,
    "attestation": shapes.mixed,
    "nested": shapes.nested,
    "artifact": shapes.artifact,
    "inline data": shapes.inline_data,
}


class Copier:
    """Runs `pyctrd copy` where there is no containerd."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.env = {
            **os.environ,
            "CONTAINERD_ADDRESS": "/nonexistent/containerd.sock",
            "PYTHONPATH": str(REPOSITORY_ROOT),
            "DOCKER_CONFIG": str(folder / "no-docker-config"),
        }

    def command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "pyctrd", "copy", *arguments]

    def __call__(self, *arguments: str, code: int = 0) -> subprocess.CompletedProcess[bytes]:
        done = subprocess.run(
            self.command(*arguments), env=self.env, capture_output=True, timeout=120, check=False
        )
        words = done.stderr.decode(errors="replace")
        assert done.returncode == code, f"{arguments}: exit {done.returncode}\n{words}"
        assert "Traceback" not in words
        return done

    def json(self, *arguments: str) -> Any:
        return json.loads(self(*arguments, "--format", "json").stdout)


@pytest.fixture
def copier(tmp_path: Path) -> Copier:
    return Copier(tmp_path)


@pytest.fixture(scope="module")
def module_registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    with running(Registry(tmp_path_factory.mktemp("other"))) as made:
        yield made


@pytest.fixture
def other(module_registry: Registry) -> Registry:
    """A second registry."""
    module_registry.clear_faults()
    module_registry.clear_requests()
    return module_registry


@pytest.mark.parametrize("shape", SHAPES)
def test_a_copy_is_identical(
    registry: Registry, other: Registry, repository: str, copier: Copier, shape: str
) -> None:
    graph = SHAPES[shape]()
    source = push(graph, registry, repository)
    registry.clear_requests()
    told = copier.json(source, f"{other.host}/{repository}:1")
    assert stored(other, repository).tags == {"1": graph.digest}
    assert stored(other, repository)[:2] == stored(registry, repository)[:2]
    assert told["original"] == told["target"]
    assert {item["digest"] for item in told["uploaded"]} == set(reachable(graph))
    assert methods(registry.requests()) == {"HEAD", "GET"}
    gets = [one.path for one in registry.requests() if one.method == "GET"]
    assert len(gets) == len(set(gets)), "nothing is fetched twice"
    run("crane", "copy", "--insecure", source, f"{other.host}/{repository}-crane:1")
    assert stored(other, f"{repository}-crane") == stored(other, repository)
    other.clear_requests()
    again = copier.json(source, f"{other.host}/{repository}:1")
    assert sent(other) == []
    assert (again["uploaded"], again["bytes"]) == ([], 0)


def test_blobs_are_mounted_within_a_registry(registry: Registry, repository: str, copier: Copier) -> None:
    graph = shapes.mixed(salt="mounted")
    source = push(graph, registry, repository)
    registry.clear_requests()
    told = copier.json(source, f"{registry.host}/{repository}-two:1")
    assert {item["digest"] for item in told["mounted"]} == stored(registry, repository).blobs
    assert not any(
        "/blobs/" in one.path for one in registry.requests() if one.method in ("GET", "PUT", "PATCH")
    )
    assert stored(registry, f"{repository}-two")[:2] == stored(registry, repository)[:2]


def test_a_new_tag_in_the_same_repository_is_one_request(
    registry: Registry, repository: str, copier: Copier
) -> None:
    graph = shapes.five_platform(salt="retag")
    source = push(graph, registry, repository)
    registry.clear_requests()
    copier(source, f"{registry.host}/{repository}:stable")
    assert [(one.method, one.path.rpartition("/")[2]) for one in sent(registry)] == [("PUT", "stable")]
    assert stored(registry, repository).tags == {"latest": graph.digest, "stable": graph.digest}


def test_selected_platforms(registry: Registry, other: Registry, repository: str, copier: Copier) -> None:
    graph = shapes.mixed(salt="chosen")
    source, target = push(graph, registry, repository), f"{other.host}/{repository}"
    told = copier.json("--platform", "linux/arm/v7,linux/amd64", source, f"{target}:1")
    index = json.loads(run("crane", "manifest", "--insecure", f"{target}:1"))
    chosen = [graph.child(number).digest for number in (0, 2, 4)]
    assert [item["digest"] for item in index["manifests"]] == chosen
    assert told["target"]["digest"] != told["original"]["digest"] == graph.digest
    copier("--platform", AMD64, "--index", "flatten", source, f"{target}:flat")
    assert stored(other, repository).tags["flat"] == graph.child(0).digest
    done = copier("--platform", "linux/riscv64", source, f"{target}:none", code=3)
    assert b"no linux/riscv64" in done.stderr
    assert b"cannot be used here" in copier("--platform", "local", source, f"{target}:none", code=2).stderr


def test_dry_run(registry: Registry, other: Registry, repository: str, copier: Copier) -> None:
    graph = shapes.five_platform(salt="dry copy")
    source = push(graph, registry, repository)
    plan = copier.json("--dry-run", source, f"{other.host}/{repository}:1")
    assert methods(other.requests()) == {"HEAD"}
    assert {item["digest"] for item in plan["upload"]} == set(reachable(graph))
    assert plan["bytes"] == sum(map(len, reachable(graph).values()))


def test_an_image_that_the_source_does_not_have(
    registry: Registry, other: Registry, repository: str, copier: Copier
) -> None:
    done = copier(f"{registry.host}/{repository}:no", f"{other.host}/{repository}:1", code=3)
    assert b"not found" in done.stderr
    assert other.requests() == []
    assert copier("al pine", f"{other.host}/x:1", code=2).stderr


# --- bad networks ----------------------------------------------------------------------------------------


def test_interruptions_on_both_sides_are_resumed(
    registry: Registry, other: Registry, repository: str, copier: Copier
) -> None:
    graph = shapes.big(12 * MIB, layers=1, seed=7)
    layer = graph.document()["layers"][0]
    source = push(graph, registry, repository)
    registry.clear_requests()
    registry.add_fault(Fault(f"/blobs/{layer['digest']}", times=1, cut_after=3 * MIB))
    other.add_fault(Fault("/blobs/uploads/", ("PATCH",), times=1, status=503, headers={"Retry-After": "0"}))
    copier("--chunk-size", "4", source, f"{other.host}/{repository}:1")
    assert stored(other, repository).tags == {"1": graph.digest}
    resumed = [one.range for one in registry.requests() if one.path.endswith(layer["digest"]) and one.range]
    assert f"bytes={3 * MIB}-" in resumed
    accepted = [one for one in sent(other) if one.method == "PATCH" and one.status == 202]
    assert len(accepted) == -(-layer["size"] // (4 * MIB)), "no chunk was stored twice"


def test_wrong_bytes_never_become_a_blob(
    registry: Registry, other: Registry, repository: str, copier: Copier
) -> None:
    graph = shapes.single(salt="spoiled")
    layer = graph.document()["layers"][0]["digest"]
    source = push(graph, registry, repository)
    registry.add_fault(Fault(f"/blobs/{layer}", corrupt_at=20))
    done = copier(source, f"{other.host}/{repository}:1", code=5)
    assert f"{registry.host}/{repository}: content {layer}: its bytes have the digest" in done.stderr.decode()
    assert layer not in stored(other, repository).blobs
    assert stored(other, repository).tags == {}


def test_memory_is_bounded(registry: Registry, other: Registry, repository: str, copier: Copier) -> None:
    source = push(shapes.big(128 * MIB, layers=2, seed=8), registry, repository)
    command = copier.command("-q", source, f"{other.host}/{repository}:1")
    # In an intermediate process, since a child inherits the peak memory of the process that forks it.
    measured = subprocess.run(
        [sys.executable, "-c", PEAK, *command], env=copier.env, capture_output=True, check=True, timeout=120
    )
    assert int(measured.stderr) < 64 * 1024, "in KiB, half of the image"


def test_ctrl_c_sets_no_tag(registry: Registry, other: Registry, repository: str, copier: Copier) -> None:
    graph = shapes.big(8 * MIB, layers=1, seed=9)
    source = push(graph, registry, repository)
    stall = registry.add_fault(Fault(f"/blobs/{graph.document()['layers'][0]['digest']}", stall_after=MIB))
    command = copier.command(source, f"{other.host}/{repository}:1")
    with subprocess.Popen(command, env=copier.env, stderr=subprocess.PIPE) as process:
        assert stall.stalled.wait(30)
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=30)
    stall.release.set()
    assert process.returncode == 130
    assert stored(other, repository).tags == {}


# --- credentials -----------------------------------------------------------------------------------------


def test_each_registry_gets_its_own_password(tmp_path: Path, copier: Copier) -> None:
    graph = shapes.five_platform(salt="two passwords")
    with (
        running(Registry(tmp_path / "source", auth=HTPASSWD)) as first,
        running(Registry(tmp_path / "target", config=TokenService(tmp_path / "tokens"))) as second,
    ):
        source, target = push(graph, first, "team/app"), f"{second.host}/team/app:1"
        user = f"{USER}:{PASSWORD}"
        assert copier("-u", user, source, target, code=5).stderr
        assert not any("authorization" in one.headers for one in first.requests())
        assert copier("--src-user", user, source, target, code=5).stderr
        assert stored(second, "team/app").tags == {}
        copier("-u", user, "--src-user", user, source, target)
        assert stored(second, "team/app").tags == {"1": graph.digest}
        copier("-u", user, target, f"{second.host}/team/two:1")
        assert stored(second, "team/two").tags == {"1": graph.digest}


def test_tls_of_a_private_ca(registry: Registry, repository: str, copier: Copier, tmp_path: Path) -> None:
    authority = trustme.CA()
    issued = authority.issue_cert("127.0.0.1")
    files = Certificate(tmp_path / "cert.pem", tmp_path / "key.pem")
    issued.private_key_pem.write_to_path(files.key)
    issued.cert_chain_pems[0].write_to_path(files.certificate)
    graph = shapes.single(salt="tls")
    source = push(graph, registry, repository)
    with running(Registry(tmp_path / "secure", tls=files)) as secure:
        folder = tmp_path / "certs.d" / secure.host
        folder.mkdir(parents=True)
        authority.cert_pem.write_to_path(folder / "ca.crt")
        copier("--hosts-dir", str(tmp_path / "certs.d"), source, f"{secure.host}/app:1")
        copier("-k", source, f"{secure.host}/app:2")
        assert stored(secure, "app").tags == {"1": graph.digest, "2": graph.digest}
        (folder / "ca.crt").unlink()
        (folder / "hosts.toml").write_text(f'server = "{secure.url}"\n')
        done = copier("--hosts-dir", str(tmp_path / "certs.d"), source, f"{secure.host}/app:3", code=5)
        assert b"certificate signed by unknown authority" in done.stderr


# --- as a library ----------------------------------------------------------------------------------------


def test_the_library_needs_no_containerd(registry: Registry, other: Registry, repository: str) -> None:
    graph = shapes.five_platform(salt="library")
    source = push(graph, registry, repository)
    events: list[str] = []
    with Registries(RegistryOptions()) as copier:
        plan = copier.copy(source, f"{other.host}/{repository}:1", dry_run=True)
        result = copier.copy(
            source, f"{other.host}/{repository}:1", progress=lambda event: events.append(event.action)
        )
        assert {item.digest for item in plan.uploaded} == {item.digest for item in result.uploaded}
        assert result.bytes_uploaded == plan.bytes_uploaded
        with pytest.raises(RegistryNotFound):
            copier.copy(f"{registry.host}/{repository}:no", f"{other.host}/{repository}:1")
    assert set(events) == {"planned", "resolved", "uploading", "uploaded", "done"}

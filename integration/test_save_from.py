"""Save and ensure with missing content from an archive, instead of a registry."""

from __future__ import annotations

import shlex
import subprocess

import pytest

from integration.bench import Bench
from integration.rig.peers import GENERATIONS
from integration.rig.store import collect_garbage, digests
from integration.shell import Shell, archived
from integration.test_delta import layers, release
from tests.support.images import Graph

pytestmark = pytest.mark.parametrize("generation", GENERATIONS[-1:], indirect=True)


class Case:
    """An image in an archive, whose first two layers are then removed from the store."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        self.shell = Shell(bench.containerd, bench.namespace, bench.folder)
        self.graph = release(bench.namespace, 1)
        self.name = bench.pull(self.graph)
        self.shell("save", "--offline", "-o", "old.tar", self.name)
        self.removed = layers(self.graph)[:2]
        self.remove(*self.removed)
        bench.registry.clear_requests()

    def remove(self, *removed: str) -> None:
        for digest in removed:
            self.bench.ctr("content", "rm", digest)
        # Or the save finds the files that are still there.
        collect_garbage(self.bench.containerd, self.bench.namespace)

    @property
    def stored(self) -> set[str]:
        """What stays after a collection."""
        collect_garbage(self.bench.containerd, self.bench.namespace)
        return digests(self.bench.containerd, self.bench.namespace)

    def damage(self, graph: Graph) -> str:
        """Return an archive whose first layer has wrong content."""
        raw = (self.bench.folder / "old.tar").read_bytes()
        data = graph.blobs[layers(graph)[0]]
        wrong = data[:-1] + bytes([data[-1] ^ 1])
        (self.bench.folder / "wrong.tar").write_bytes(raw.replace(data, wrong))
        return "wrong.tar"


@pytest.fixture
def case(bench: Bench) -> Case:
    return Case(bench)


@pytest.mark.parametrize("form", ["tar", "dir", "docker"])
@pytest.mark.parametrize("flag", ["--offline", "--plain-http"])
def test_missing_content_comes_from_an_archive(case: Case, form: str, flag: str) -> None:
    """No registry is asked, and the store keeps what it got."""
    source = "old.tar"
    if form == "dir":
        (case.bench.folder / "layout").mkdir()
        subprocess.run(["tar", "-C", "layout", "-xf", "old.tar"], cwd=case.bench.folder, check=True)
        source = "layout"
    if form == "docker":  # ctr stores its layers uncompressed
        case.shell("save", "--plain-http", "--format", "docker", "-o", "docker.tar", case.name)
        case.bench.ctr("images", "rm", "--sync", case.name)
        source = "docker.tar"
        case.bench.ctr("images", "import", "--local", case.bench.folder / source)
        case.removed = [
            digest for digest in case.stored if case.bench.ctr("content", "get", digest).stdout[:1] != b"{"
        ]
        assert len(case.removed) == 3
        case.remove(*case.removed)
        case.bench.registry.clear_requests()
    planned = case.shell.json("save", flag, "--from", source, "--dry-run", case.name)
    done = case.shell.json("save", flag, "--from", source, "-o", "new.tar", case.name)
    assert {item["digest"] for item in planned["fetch"]} == set(case.removed)
    assert {item["digest"] for item in done["fetched"]} == set(case.removed)
    assert planned["archive_bytes"] == done["bytes_written"]
    assert case.bench.registry.requests() == []
    stored = case.stored
    assert set(case.removed) <= stored
    assert archived(case.bench.folder / "new.tar") == stored


def test_the_registry_is_asked_for_the_rest(case: Case) -> None:
    rest = layers(case.graph)[2]
    case.shell("save", "--plain-http", "-o", "whole.tar", case.name)
    other = case.bench.pull(release(case.bench.namespace, 2))
    case.shell("save", "--offline", "-o", "other.tar", other)
    case.bench.ctr("images", "rm", "--sync", other)
    case.remove(*case.removed, rest)
    case.bench.registry.clear_requests()
    told = case.shell("save", "--offline", "--from", "other.tar", "-o", "x.tar", case.name, code=4)
    assert rest in told.stderr.decode()
    assert case.bench.registry.requests() == []
    assert set(case.removed) <= case.stored  # for the next time
    case.remove(*case.removed)
    done = case.shell.json("ensure", "--plain-http", "--from", "other.tar", case.name)
    assert {item["digest"] for item in done["fetched"]} == {*case.removed, rest}
    paths = [item.path for item in case.bench.registry.requests() if "/blobs/" in item.path]
    assert paths
    assert all(path.endswith(rest) for path in paths)


def test_an_archive_with_wrong_content_is_refused(case: Case) -> None:
    source = case.damage(case.graph)
    before = case.stored
    for verb in (("save", "-o", "new.tar"), ("ensure",)):
        told = case.shell(*verb, "--plain-http", "--from", source, case.name, code=1).stderr.decode()
        assert f"expected {case.removed[0]}: failed precondition: wrong content in wrong.tar" in told
    assert not (case.bench.folder / "new.tar").exists()
    assert case.removed[0] not in case.stored
    assert before <= case.stored
    case.shell("save", "--plain-http", "-o", "new.tar", case.name)


def test_a_compressed_archive_is_refused_with_the_command_that_helps(case: Case) -> None:
    subprocess.run(["gzip", "old.tar"], cwd=case.bench.folder, check=True)
    save = ("save", "--offline", "-o", "new.tar", "--from")
    told = case.shell(*save, "old.tar.gz", case.name, code=2).stderr.decode()
    assert "cannot take missing content from old.tar.gz: it is compressed" in told
    command = told.partition("decompress it first: ")[2].partition("\n")[0]
    assert shlex.split(command)[0] == "gzip"
    subprocess.run(command, shell=True, cwd=case.bench.folder, check=True)
    case.shell(*save, "old.tar", case.name)
    assert set(layers(case.graph)) <= archived(case.bench.folder / "new.tar")
    with (case.bench.folder / "old.tar.gz").open("rb") as pipe:
        told = case.shell(*save, "-", case.name, code=2, stdin=pipe).stderr.decode()
    assert "it is a pipe, or compressed" in told

"""Saving on real stores: the bytes are those of the same version's ctr, and every reader takes them."""

from __future__ import annotations

import io
import json
import subprocess
import tarfile
from collections.abc import Callable, Sequence
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from integration.conftest import peer_required
from integration.rig import images, peers, shapes
from integration.rig.daemons import Containerd, Registry
from integration.rig.images import Graph
from integration.rig.publish import push
from integration.rig.store import collect_garbage, snapshot_of
from pyctrd.archive.output import open_output
from pyctrd.daemon import Daemon
from pyctrd.errors import IncompleteContent, NoMatchingPlatform
from pyctrd.model import ImageRecord
from pyctrd.platforms import host, select
from pyctrd.ports import Fetcher
from pyctrd.save import SaveOptions, SaveResult, plan, save

AMD64, ARM64 = "linux/amd64", "linux/arm64"


def no_fetchers(_image: ImageRecord) -> Sequence[Fetcher]:
    raise AssertionError("nothing is missing, so nobody may be asked for")


class Bench:
    """One namespace of a real containerd, filled and exported by its own ctr, and saved by us."""

    def __init__(
        self, containerd: Containerd, registry: Registry, folder: Path, *, namespace: str, repository: str
    ) -> None:
        self.containerd = containerd
        self.registry = registry
        self.folder = folder
        self.namespace = namespace
        self.repository = repository
        self.is_1_6 = containerd.generation == "1.6"
        self.is_old = containerd.generation.startswith("1.")
        self._numbers = count()

    def ctr(
        self, *arguments: str | Path, check: bool = True, namespace: str = ""
    ) -> subprocess.CompletedProcess[bytes]:
        return self.containerd.ctr(*arguments, namespace=namespace or self.namespace, check=check)

    def pull(self, graph: Graph, *flags: str, check: bool = True) -> str:
        """Publish a graph and pull it with every platform's metadata; gives the image's name."""
        name = push(graph, self.registry, f"{self.repository}/{next(self._numbers)}")
        metadata = ["--all-metadata"] if self.is_old else []
        self.ctr("images", "pull", "--plain-http", *metadata, *flags, name, check=check)
        return name

    def pull_all(self, graph: Graph) -> str:
        """Pull every platform's content; 1.6 then fails to unpack attestations, and keeps all the same."""
        name = push(graph, self.registry, f"{self.repository}/{next(self._numbers)}")
        self.ctr("content", "fetch", "--plain-http", "--all-platforms", name)
        return name

    def export(self, *names: str, platforms: Sequence[str] = ()) -> bytes:
        """Export by the real ctr, by itself: the transfer service's way may lose the end of the archive."""
        archive = self.folder / f"ctr-{next(self._numbers)}.tar"
        local = [] if self.is_old else ["--local"]
        self.ctr("images", "export", *local, *_flags(platforms), archive, *names)
        return archive.read_bytes()

    def save(self, *names: str, platforms: Sequence[str] = (), **options: Any) -> bytes:
        """Save by us, offline."""
        output = io.BytesIO()
        self.save_to(output, *names, platforms=platforms, **options)
        return output.getvalue()

    def save_to(self, output: Any, *names: str, platforms: Sequence[str] = (), **options: Any) -> SaveResult:
        chosen = SaveOptions(platforms=select(platforms), **{"ensure": "none", **options})
        with self.daemon() as daemon:
            records = [daemon.images.get(name) for name in names]
            planned = plan(daemon, records, chosen, host=host(), fetchers=no_fetchers)
            result = save(daemon, records, chosen, output, host=host(), fetchers=no_fetchers)
        assert planned.archive_bytes == result.bytes_written
        assert planned.fetch == result.fetched == ()
        return result

    def daemon(self, namespace: str = "") -> Daemon:
        return Daemon.connect(str(self.containerd.address), namespace or self.namespace)


def _flags(values: Sequence[str]) -> list[str]:
    if list(values) == ["all"]:
        return ["--all-platforms"]
    return [word for value in values for word in ("--platform", value)]


@pytest.fixture
def bench(
    containerd: Containerd, registry: Registry, tmp_path: Path, namespace: str, repository: str
) -> Bench:
    return Bench(containerd, registry, tmp_path, namespace=namespace, repository=repository)


def members(archive: bytes) -> dict[str, bytes]:
    """Read an archive by the standard library; every byte of it must be accounted for."""
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        found = {item.name: (tar.extractfile(item) or io.BytesIO()).read() for item in tar if item.isfile()}
    assert len(archive) % 512 == 0
    assert archive.endswith(bytes(1024))
    return found


def same(bench: Bench, ours: bytes, theirs: bytes) -> None:
    """Compare: byte for byte, but for what 1.6 did not write into index.json yet."""
    if not bench.is_1_6:
        assert members(ours) == members(theirs)
        assert ours == theirs
        return
    mine, other = members(ours), members(theirs)
    index, expected = json.loads(mine.pop("index.json")), json.loads(other.pop("index.json"))
    index.pop("mediaType")
    for entry in index["manifests"]:
        for key in [key for key in entry["annotations"] if key.startswith("containerd.io/distribution")]:
            del entry["annotations"][key]
    assert index == expected
    assert mine == other


SHAPES: dict[str, tuple[Callable[[], Graph], Sequence[str]]] = {
    "single": (shapes.single, []),
    "single docker": (lambda: shapes.single(docker=True), []),
    "single of another platform": (lambda: shapes.single(ARM64), []),
    "five": (shapes.five_platform, []),
    "five, another": (shapes.five_platform, [ARM64]),
    "five, two": (shapes.five_platform, ["linux/s390x", AMD64]),
    "five, all": (shapes.five_platform, ["all"]),
    "mixed": (shapes.mixed, []),
    "mixed, all": (shapes.mixed, ["all"]),
    "without platforms": (shapes.without_platforms, []),
    "shared layers": (shapes.shared_layers, []),
    "compressions": (shapes.compressions, []),
    "artifact": (shapes.artifact, []),
    "wasm": (shapes.wasm, []),
    "inline data": (shapes.inline_data, []),
    "annotated": (lambda: images.index([shapes.mixed().child(0)], annotations={"a": "<&>\u2028é"}), []),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_bytes_equal_those_of_ctr(bench: Bench, shape: str) -> None:
    make, platforms = SHAPES[shape]
    name = bench.pull_all(make())
    before = snapshot_of(bench.containerd, bench.namespace)
    ours = bench.save(name, platforms=platforms)
    assert snapshot_of(bench.containerd, bench.namespace) == before
    same(bench, ours, bench.export(name, platforms=platforms))


def test_names_are_repeated_as_asked(bench: Bench) -> None:
    name = bench.pull(shapes.single(salt="names"))
    for other in ("docker.io/library/foo:latest", "docker.io/team/app:1"):
        bench.ctr("images", "tag", name, other)
    asked = ["docker.io/library/foo:latest", name, "docker.io/library/foo:latest", "docker.io/team/app:1"]
    ours = bench.save(*asked)
    same(bench, ours, bench.export(*asked))
    (entry,) = json.loads(members(ours)["manifest.json"])
    assert entry["RepoTags"] == ["foo:latest", name, "foo:latest", "team/app:1"]

"""Archives without what the target has: stock ctr completes them, on every generation."""

from __future__ import annotations

import hashlib
import io
import json
import subprocess
import tarfile
from collections.abc import Sequence
from pathlib import Path

import pytest

from integration.bench import Bench
from integration.conftest import peer_required
from integration.rig import peers
from integration.rig.daemons import Containerd, Dockerd
from integration.rig.peers import GENERATIONS
from integration.rig.store import collect_garbage, digests, snapshot_of
from integration.shell import Shell
from integration.test_load import engine, reader
from pyctrd.amounts import size
from tests.support.images import Graph, Layer, config, index, layer, manifest

__all__ = ["engine", "reader"]

# All generations write the same bytes: test_save.py.
pytestmark = pytest.mark.parametrize("generation", GENERATIONS[-1:], indirect=True)
# What does not depend on the containerd that loads.
on_newest = pytest.mark.parametrize("reader", GENERATIONS[-1:], indirect=True)


def release(salt: str, version: int, platforms: Sequence[str] = ("linux/amd64",)) -> Graph:
    """A release: two layers that all releases share, and a small one of its own, for each platform."""
    images = []
    for on in platforms:
        made: list[Layer] = [
            layer({f"base/{number}": f"{salt}{on}{number}\n".encode() * 5000}) for number in range(2)
        ]
        made.append(layer({"app": f"{salt}{on} version {version}\n".encode()}))
        images.append(manifest(config(made, on), made, on=on))
    return index(images) if len(images) > 1 else images[0].described_as(platform=None)


class Gap:
    """A namespace that saves, and one of another containerd that loads, with nothing between them."""

    def __init__(self, bench: Bench, reader: Containerd) -> None:
        self.bench = bench
        self.reader = reader
        self.namespace = bench.namespace
        self.saving = Shell(bench.containerd, bench.namespace, bench.folder)
        self.loading = Shell(reader, bench.namespace, bench.folder)

    def load(self, file: str, *flags: str, check: bool = True) -> subprocess.CompletedProcess[bytes]:
        path = self.bench.folder / file
        return self.reader.ctr("images", "import", *flags, path, namespace=self.namespace, check=check)

    def inventory(self) -> str:
        path = self.bench.folder / "inventory.json"
        path.write_bytes(self.loading("inventory", "--format", "json").stdout)
        return str(path)

    def complete(self) -> set[str]:
        """Return the names of the complete and unpacked images."""
        lines = self.reader.ctr("images", "check", namespace=self.namespace).stdout.decode().splitlines()[1:]
        assert all("unpacked" in line or "true" in line for line in lines), lines
        return {line.split()[0] for line in lines if " complete " in line}


@pytest.fixture
def gap(bench: Bench, reader: Containerd) -> Gap:
    return Gap(bench, reader)


def members(path: Path) -> dict[str, bytes]:
    with tarfile.open(path) as tar:
        return {item.name: (tar.extractfile(item) or io.BytesIO()).read() for item in tar if item.isfile()}


def layers(graph: Graph) -> list[str]:
    return [item["digest"] for item in graph.document()["layers"]]


def blob(digest: str) -> str:
    return f"blobs/sha256/{digest.partition(':')[2]}"


def test_the_inventory_is_what_the_store_has(gap: Gap) -> None:
    name = gap.bench.pull(release(gap.namespace, 1))
    gap.saving("save", "--offline", "-o", "old.tar", name)
    gap.load("old.tar")
    collect_garbage(gap.reader, gap.namespace)  # of the index of the archive, or it may happen in between
    # An active snapshot, and a committed one that is no layer.
    for command in (("prepare", "work"), ("prepare", "other"), ("commit", "mine", "other")):
        gap.reader.ctr("snapshots", *command, namespace=gap.namespace)
    found = json.loads(Path(gap.inventory()).read_bytes())
    state = snapshot_of(gap.reader, gap.namespace)
    assert found["schema"] == 1
    assert found["namespace"] == gap.namespace
    assert {item["digest"]: item["size"] for item in found["blobs"]} == {
        digest: item["size"] for digest, item in state["content"].items()
    }
    assert found["images"] == [{"name": name, "digest": state["images"][name]["target"]["digest"]}]
    snapshotter = found["default_snapshotter"]
    chains = {key for key in state["snapshots"][snapshotter] if key.startswith("sha256:")}
    assert found["snapshots"] == {snapshotter: sorted(chains)}
    assert len(chains) == 3
    told = gap.loading("inventory").stdout.decode()
    assert "3 unpacked layers" in told


@pytest.mark.parametrize("discarded", [False, True], ids=["blobs", "snapshots only"])
def test_ctr_completes_a_delta(gap: Gap, discarded: bool) -> None:
    """Also where the target has discarded the blobs of its layers, as the CRI does."""
    old, new = release(gap.namespace, 1), release(gap.namespace, 2)
    names = [gap.bench.pull(graph) for graph in (old, new)]
    gap.saving("save", "--offline", "-o", "old.tar", names[0])
    gap.load("old.tar")
    if discarded:
        for digest in layers(old):
            gap.reader.ctr("content", "rm", digest, namespace=gap.namespace)
        collect_garbage(gap.reader, gap.namespace)
        assert not digests(gap.reader, gap.namespace) & set(layers(old))
    have = gap.inventory()
    planned = gap.saving.json("save", "--offline", "--have", have, "--dry-run", names[1])
    done = gap.saving.json("save", "--offline", "--have", have, "-o", "new.tar", names[1])
    presumed = [{"digest": item["digest"], "size": item["size"]} for item in new.document()["layers"][:2]]
    assert planned["presumed"] == done["presumed"] == sorted(presumed, key=lambda item: str(item["digest"]))
    assert planned["archive_bytes"] == done["bytes_written"]
    found = members(gap.bench.folder / "new.tar")
    assert next(iter(found)) == "pyctrd.json"
    stated = json.loads(found["pyctrd.json"])["presumed"]
    assert [item["digest"] for item in stated] == [item["digest"] for item in planned["presumed"]]
    assert {item["chain_ids"][0] for item in stated} <= chains(gap)
    assert {blob(digest) for digest in layers(new)} & set(found) == {blob(layers(new)[2])}
    gap.load("new.tar")
    lines = gap.reader.ctr("images", "ls", "-q", namespace=gap.namespace).stdout.decode().split()
    assert set(lines) == set(names)
    unpacked(gap, new)
    if not discarded:
        assert gap.complete() == set(names)


@pytest.mark.parametrize("discarded", [False, True], ids=["blobs", "snapshots only"])
def test_load_completes_a_delta(gap: Gap, discarded: bool) -> None:
    """As ctr does, and it says before that it can."""
    old, new = release(gap.namespace, 1), release(gap.namespace, 2)
    names = [gap.bench.pull(graph) for graph in (old, new)]
    gap.saving("save", "--offline", "-o", "old.tar", names[0])
    gap.loading("load", "-i", "old.tar")
    if discarded:
        for digest in layers(old):
            gap.reader.ctr("content", "rm", digest, namespace=gap.namespace)
        collect_garbage(gap.reader, gap.namespace)  # or the load adopts the files that are still there
    gap.saving("save", "--offline", "--have", gap.inventory(), "-o", "new.tar", names[1])
    (loaded,) = gap.loading.json("load", "-i", "new.tar")["images"]
    assert (loaded["name"], loaded["complete"]) == (names[1], True)
    collect_garbage(gap.reader, gap.namespace)
    unpacked(gap, new)
    left_out = set(layers(new)[:2])
    kept = digests(gap.reader, gap.namespace) & set(new.blobs)
    assert kept == (set(new.blobs) - left_out if discarded else set(new.blobs))
    if discarded:
        told = gap.loading("load", "--no-unpack", "-i", "new.tar", code=4).stderr.decode()
        assert "if the layers are unpacked" in told


def test_load_gets_the_base_from_another_namespace(gap: Gap) -> None:
    """ctr does not: it fails with `not found`."""
    old, new = release(gap.namespace, 1), release(gap.namespace, 2)
    names = [gap.bench.pull(graph) for graph in (old, new)]
    gap.saving("save", "--offline", "-o", "old.tar", names[0])
    gap.load("old.tar")
    gap.saving("save", "--offline", "--have", gap.inventory(), "-o", "new.tar", names[1])
    elsewhere = Shell(gap.reader, f"{gap.namespace}-other", gap.bench.folder)
    (loaded,) = elsewhere.json("load", "-i", "new.tar")["images"]
    assert loaded["complete"]
    collect_garbage(gap.reader, elsewhere.namespace)
    assert digests(gap.reader, elsewhere.namespace) == set(new.blobs)


@pytest.mark.parametrize("pipe", [False, True], ids=["file", "pipe"])
def test_without_the_base_load_writes_nothing(gap: Gap, pipe: bool) -> None:
    """It names what is missing, by digest and size."""
    old, new = release(gap.namespace, 1), release(gap.namespace, 2)
    names = [gap.bench.pull(graph) for graph in (old, new)]
    gap.saving("save", "--offline", "-o", "old.tar", names[0])
    gap.load("old.tar")
    gap.saving("save", "--offline", "--have", gap.inventory(), "-o", "new.tar", names[1])
    gap.reader.ctr("images", "rm", "--sync", names[0], namespace=gap.namespace)
    before = snapshot_of(gap.reader, gap.namespace)
    assert before["content"] == {}
    with (gap.bench.folder / "new.tar").open("rb") as archive:
        done = (
            gap.loading("load", stdin=archive, code=4)
            if pipe
            else gap.loading("load", "-i", "new.tar", code=4)
        )
    told = done.stderr.decode()
    for item in new.document()["layers"][:2]:
        assert f"{item['digest']} ({size(item['size'])})" in told
    assert snapshot_of(gap.reader, gap.namespace) == before


def chains(gap: Gap) -> set[str]:
    found = json.loads(Path(gap.inventory()).read_bytes())
    return set(found["snapshots"][found["default_snapshotter"]])


def unpacked(gap: Gap, graph: Graph) -> None:
    """Compare the files in the top snapshot with those of the image."""
    raw = json.loads(graph.blobs[graph.document()["config"]["digest"]])
    chain = raw["rootfs"]["diff_ids"][0]
    for diff_id in raw["rootfs"]["diff_ids"][1:]:
        chain = f"sha256:{hashlib.sha256(f'{chain} {diff_id}'.encode()).hexdigest()}"
    assert chain in chains(gap)


def test_several_images_and_platforms(gap: Gap) -> None:
    both = ("linux/amd64", "linux/arm64")
    old = [release(f"{gap.namespace}{number}", 1, both) for number in range(2)]
    new = [release(f"{gap.namespace}{number}", 2, both) for number in range(2)]
    names = [gap.bench.pull_all(graph) for graph in (*old, *new)]
    gap.saving("save", "--offline", "--all-platforms", "-o", "old.tar", *names[:2])
    # Only 1.x and --local import all platforms of an archive with the unpacking of the host's.
    flags = ["--no-unpack", "--all-platforms"]
    gap.load("old.tar", *flags)
    save = ("save", "--offline", "--all-platforms", "--have", gap.inventory(), "-o", "new.tar")
    done = gap.saving.json(*save, *names[2:])
    assert len(done["presumed"]) == 8
    gap.load("new.tar", *flags)
    wanted = {digest for graph in new for digest in graph.blobs}
    collect_garbage(gap.reader, gap.namespace)
    assert wanted <= digests(gap.reader, gap.namespace)


@on_newest
def test_what_the_saving_side_lacks_too_is_not_fetched(gap: Gap) -> None:
    old, new = release(gap.namespace, 1), release(gap.namespace, 2)
    names = [gap.bench.pull(graph) for graph in (old, new)]
    gap.saving("save", "--offline", "-o", "old.tar", names[0])
    gap.load("old.tar")
    have = gap.inventory()
    for digest in layers(new)[:2]:
        gap.bench.ctr("content", "rm", digest)
    gap.bench.registry.clear_requests()
    gap.saving("save", "--offline", "-o", "whole.tar", names[1], code=4)
    gap.saving("save", "--plain-http", "--have", have, "-o", "new.tar", names[1])
    assert gap.bench.registry.requests() == []
    gap.load("new.tar")
    assert gap.complete() == set(names)


@on_newest
def test_an_inventory_from_a_pipe_and_what_is_none(gap: Gap) -> None:
    name = gap.bench.pull(release(gap.namespace, 1))
    raw = gap.loading("inventory", "--format", "json").stdout
    process = gap.saving.start(
        "save", "--offline", "--have", "-", "-o", "x.tar", name, stdin=subprocess.PIPE, stderr=-1
    )
    process.communicate(raw)
    assert process.returncode == 0
    assert json.loads(members(gap.bench.folder / "x.tar")["pyctrd.json"])["presumed"] == []
    (gap.bench.folder / "text.json").write_text("images 3")
    (gap.bench.folder / "later.json").write_text('{"schema":2}')
    for file, words in (
        ("text.json", "text.json is not an inventory"),
        ("later.json", "an inventory of schema 2; this version reads schema 1"),
        ("absent.json", "cannot read the inventory absent.json: No such file or directory"),
    ):
        told = gap.saving("save", "--offline", "--have", file, "-o", "y.tar", name, code=2).stderr.decode()
        assert words in told
    gap.saving("save", "--format", "docker", "--have", "text.json", "-o", "y.tar", name, code=2)
    assert not (gap.bench.folder / "y.tar").exists()


# --- what other programs do with it -----------------------------------------------------------------------


def test_docker_completes_a_delta_and_skopeo_reads_it(bench: Bench, engine: Dockerd) -> None:
    """Its own store and containerd's: an inventory with the layers that both have then."""
    old, new = release(bench.namespace, 1), release(bench.namespace, 2)
    names = [bench.pull(graph) for graph in (old, new)]
    engine.docker("load", stdin=bench.save(names[0]))
    sizes = {item["digest"]: item["size"] for item in old.document()["layers"]}
    inventory = {"schema": 1, "blobs": [{"digest": key, "size": value} for key, value in sizes.items()]}
    path = bench.folder / "new.tar"
    with bench.client() as client:
        result = client.images.save(
            names[1], path, have=io.BytesIO(json.dumps(inventory).encode()), ensure="none"
        )
    assert len(result.presumed) == 2
    done = engine.docker("load", stdin=path.read_bytes())
    assert done.stdout.decode().strip() == f"Loaded image: {names[1]}"
    (found,) = json.loads(engine.docker("image", "inspect", names[1]).stdout)
    assert len(found["RootFS"]["Layers"]) == 3
    with peer_required():
        skopeo, umoci = peers.tool("skopeo"), peers.tool("umoci")
    source = f"oci-archive:{path}:latest"
    inspected = subprocess.run([skopeo, "inspect", source], capture_output=True, check=True, timeout=60)
    assert len(json.loads(inspected.stdout)["Layers"]) == 3
    with tarfile.open(path) as tar:
        tar.extractall(bench.folder / "layout", filter="data")
    listed = subprocess.run(
        [umoci, "list", "--layout", bench.folder / "layout"], capture_output=True, check=True, timeout=60
    )
    assert listed.stdout.split() == [b"latest"]


def test_without_the_base_ctr_says_what_is_missing(gap: Gap) -> None:
    old, new = release(gap.namespace, 1), release(gap.namespace, 2)
    names = [gap.bench.pull(graph) for graph in (old, new)]
    gap.saving("save", "--offline", "-o", "old.tar", names[0])
    gap.load("old.tar")
    gap.saving("save", "--offline", "--have", gap.inventory(), "-o", "new.tar", names[1])
    elsewhere = f"{gap.namespace}-other"
    path = gap.bench.folder / "new.tar"
    done = gap.reader.ctr("images", "import", path, namespace=elsewhere, check=False)
    assert done.returncode
    assert b"not found" in done.stderr

"""Snapshots of pyctrd have the same files as those of ctr, also where layers are extracted out of order."""

from __future__ import annotations

import io
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from integration.conftest import DISK_BYTES, peer_required
from integration.layered import IMAGES, linked_to_a_lower_layer, on_the_same_base
from integration.rig.daemons import Containerd
from integration.rig.disk import SmallDisk
from integration.rig.store import collect_garbage, snapshot_of
from integration.trees import Tree, trees_of
from pyctrd import Client
from pyctrd.containerd import Daemon
from pyctrd.containerd.diff import DiffService
from pyctrd.containerd.introspection import IntrospectionService
from pyctrd.containerd.snapshots import SnapshotService
from pyctrd.errors import DaemonError
from pyctrd.oci.model import ImageConfig
from tests.support import tars
from tests.support.images import OCI_INDEX, Graph, to_json

# The generations whose overlayfs can set the parent of a snapshot when it is committed.
REBASING = ("2.3", "2.4")
NAMES = {name: f"registry.example/trees/{number}:1" for number, name in enumerate(IMAGES)}


@cache
def graph_of(name: str) -> Graph:
    """Return an image, the same in all tests."""
    return IMAGES[name]()


class World(NamedTuple):
    """A containerd with all images: in "theirs" ctr has unpacked them, in "ours" pyctrd is to do it."""

    daemon: Containerd
    snapshotter: str
    started: float

    @property
    def rebases(self) -> bool:
        """Whether a snapshot can get its parent when it is committed."""
        return self.snapshotter == "overlayfs" and self.daemon.generation in REBASING

    def client(self, namespace: str = "ours") -> Client:
        return Client(str(self.daemon.address), namespace, snapshotter=self.snapshotter)

    def trees(self, namespace: str, graph: Graph, folder: Path) -> list[Tree]:
        top = ImageConfig.parse(graph.blobs[graph.document()["config"]["digest"]]).rootfs.chain_ids[-1]
        with Daemon.connect(str(self.daemon.address), namespace) as daemon:
            return trees_of(daemon, self.snapshotter, top, folder, self.started)


def archive(graphs: Mapping[str, Graph]) -> bytes:
    """An OCI archive of images by name."""
    entries, blobs = [], dict[str, bytes]()
    for name, graph in graphs.items():
        entries.append({**graph.root, "annotations": {"io.containerd.image.name": name}})
        blobs |= {f"blobs/sha256/{digest[7:]}": data for digest, data in graph.blobs.items()}
    index = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries}
    files = {"oci-layout": b'{"imageLayoutVersion":"1.0.0"}', "index.json": to_json(index), **blobs}
    return tars.tar_of(files)


@pytest.fixture(scope="module", params=("overlayfs", "native"))
def world(
    request: pytest.FixtureRequest, generation: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[World]:
    folder = tmp_path_factory.mktemp(f"trees-{generation}")
    started = time.time() - 1
    with peer_required(), SmallDisk(folder, DISK_BYTES), Containerd(generation, folder) as daemon:
        world = World(daemon, request.param, started)
        path = daemon.root / "images.tar"
        path.write_bytes(archive({NAMES[name]: graph_of(name) for name in IMAGES}))
        # The transfer service of 2.x unpacks into the default snapshotter only.
        how = ["--local"] if world.snapshotter == "native" and not daemon.is_1 else []
        daemon.ctr("images", "import", "--snapshotter", world.snapshotter, *how, path, namespace="theirs")
        with world.client() as client:
            client.images.load(path, unpack=False)
        yield world


# How many layers of an image have files in folders that they lack: these are extracted with their parent.
INCOMPLETE = {
    "whiteout without the folder": 1,
    "files without their folders": 2,
    "links as parents": 1,
    "names": 1,
}


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Count the calls of the snapshots service, and the commits that set the parent as "rebase"."""
    counts = Counter[str]()

    def count(kind: type, method: str) -> None:
        inner = getattr(kind, method)

        def call(service: object, *args: Any, **named: Any) -> Any:
            counts[method] += 1
            counts["rebase"] += bool(named.get("parent"))
            return inner(service, *args, **named)

        monkeypatch.setattr(kind, method, call)

    for method in ("prepare", "commit", "remove", "stat"):
        count(SnapshotService, method)
    count(DiffService, "apply")
    count(IntrospectionService, "plugins")
    return counts


@pytest.mark.parametrize("name", IMAGES)
def test_files_equal_those_of_ctr(world: World, tmp_path: Path, calls: Counter[str], name: str) -> None:
    graph = graph_of(name)
    with world.client() as client:
        client.images.unpack(NAMES[name])
    made = Counter(calls)
    assert world.trees("ours", graph, tmp_path) == world.trees("theirs", graph, tmp_path)
    layers = len(graph.document()["layers"])
    # A layer that is tried twice costs three calls more; the top one is asked for first.
    again = INCOMPLETE.get(name, 0) if world.rebases else 0
    assert made == Counter(
        {
            "prepare": layers + again + (layers > 1),
            "apply": layers + again,
            "remove": again,
            "commit": layers,
            "rebase": layers - 1 - again if world.rebases else 0,
            "stat": 1,
            # For the default snapshotter, and whether it can rebase.
            "plugins": 1 + (layers > 1 and world.snapshotter == "overlayfs"),
        }
    )


def test_an_unpacked_image_costs_one_look(world: World, calls: Counter[str]) -> None:
    with world.client() as client:
        client.images.unpack(NAMES["30 layers"])
        calls.clear()
        assert client.images.unpack(NAMES["30 layers"]).layers == 0
    assert calls == Counter({"stat": 1})


def test_a_base_that_is_unpacked_is_used(
    world: World, tmp_path: Path, namespace: str, calls: Counter[str]
) -> None:
    first, second = on_the_same_base()
    with world.client(namespace) as client:
        client.images.load(io.BytesIO(archive({"a:1": first, "b:1": second})), unpack=False)
        client.images.unpack("a:1")
        calls.clear()
        assert client.images.unpack("b:1").layers == 3
    assert (calls["commit"], calls["apply"], calls["remove"]) == (3, 3, 0)
    ours = world.trees(namespace, second, tmp_path)
    with world.client(f"{namespace}-alone") as client:
        client.images.load(io.BytesIO(archive({"b:1": second})))
    assert ours == world.trees(f"{namespace}-alone", second, tmp_path)


def test_a_failure_is_that_of_ctr_and_leaves_nothing(world: World, tmp_path: Path, namespace: str) -> None:
    """A hard link to a file of a lower layer: overlayfs has no such file in the folder of the layer."""
    graph = linked_to_a_lower_layer()
    path = tmp_path / "image.tar"
    path.write_bytes(archive({"linked:1": graph}))
    done = world.daemon.ctr(
        "images",
        "import",
        "--local" if not world.daemon.is_1 else "--digests",
        "--snapshotter",
        world.snapshotter,
        path,
        namespace=f"{namespace}-ctr",
        check=False,
    )
    with world.client(namespace) as client:
        client.images.load(path, unpack=False)
        if world.snapshotter == "native":
            assert done.returncode == 0
            client.images.unpack("linked:1")
            assert world.trees(namespace, graph, tmp_path) == world.trees(f"{namespace}-ctr", graph, tmp_path)
            return
        assert b"no such file or directory" in done.stderr
        with pytest.raises(DaemonError, match="no such file or directory"):
            client.images.unpack("linked:1")
    collect_garbage(world.daemon, namespace)
    state = snapshot_of(world.daemon, namespace)
    assert (state["snapshots"], state["leases"]) == ({}, {})

"""What load does other than `ctr images import`, on purpose: L1 to L20 of docs/differences.md but L18."""

from __future__ import annotations

import datetime as dt
import tarfile
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from integration.archives import NAME
from integration.loading import load
from integration.pulls import assert_nothing_left, state
from integration.rig.daemons import Containerd
from integration.rig.store import State
from integration.scenarios import ORACLES, Oracle
from pyctrd import Client
from pyctrd.errors import PyctrdError
from pyctrd.oci.platforms import select
from pyctrd.operations.load import LoadOptions
from tests.support import images, shapes
from tests.support.images import Graph
from tests.support.tars import COMPRESSORS, member, tar_of

# Those that differ: the daemon imports, ctr does, and the ctr of 1.x does.
_CHOSEN = [oracle for oracle in ORACLES if str(oracle) in ("1.7", "2.4", "2.4-local")]
pytestmark = pytest.mark.parametrize("oracle", _CHOSEN, ids=str, indirect=True)


class Pair:
    """Loads with ctr and with pyctrd, and shows what each leaves."""

    def __init__(self, daemon: Containerd, oracle: Oracle, namespace: str, folder: Path) -> None:
        self.daemon, self.oracle = daemon, oracle
        self._namespace = namespace
        self._folder = folder

    def ctr(self, files: Mapping[str, bytes] | bytes, *flags: str) -> tuple[int, State]:
        """The exit code of ctr, and the state."""
        local = ["--local"] if self.oracle.local and self.oracle.is_2 else []
        command: list[str | Path] = ["images", "import", *local, *flags, self._archive(files)]
        done = self.daemon.ctr(*command, namespace=f"{self._namespace}-ctr", check=False)
        return done.returncode, state(self.daemon, f"{self._namespace}-ctr")

    def load(self, files: Mapping[str, bytes] | bytes, **options: Any) -> tuple[int, State]:
        """The exit code of pyctrd, and the state."""
        code = 0
        try:
            load(self.daemon, f"{self._namespace}-ours", self._archive(files), LoadOptions(**options))
        except PyctrdError as error:
            code = error.exit_code
        return code, state(self.daemon, f"{self._namespace}-ours")

    def updated_at(self, whose: str) -> dt.datetime | None:
        """When the image was written."""
        with Client(self.daemon.address, f"{self._namespace}-{whose}") as client:
            return client.images.get(NAME).updated_at

    def _archive(self, files: Mapping[str, bytes] | bytes) -> Path:
        path = self._folder / "archive.tar"
        path.write_bytes(files if isinstance(files, bytes) else tar_of(files))
        return path


@pytest.fixture
def pair(daemon: Containerd, oracle: Oracle, namespace: str, tmp_path: Path) -> Pair:
    return Pair(daemon, oracle, namespace, tmp_path)


def layout(*graphs: Graph, names: Sequence[str] = (), without: Collection[str] = ()) -> dict[str, bytes]:
    """The layout of several images."""
    entries = [
        {**graph.root, "annotations": {"io.containerd.image.name": name}} if name else graph.root
        for graph, name in zip(graphs, names or [NAME] * len(graphs), strict=True)
    ]
    blobs = {digest: data for graph in graphs for digest, data in graph.blobs.items()}
    return {
        **{f"blobs/sha256/{one[7:]}": data for one, data in blobs.items() if one not in without},
        "index.json": images.to_json({"schemaVersion": 2, "manifests": entries}),
        "oci-layout": b'{"imageLayoutVersion":"1.0.0"}',
    }


def layer_of(graph: Graph) -> str:
    return str(graph.document()["layers"][0]["digest"])


def test_l1_the_platform_of_the_host_is_exact(pair: Pair) -> None:
    graph = shapes.multi(["linux/amd64", "linux/386"])
    files = layout(graph, without=set(images.reachable(graph.child(1))))
    assert pair.ctr(files)[0] == (1 if pair.oracle.local else 0)
    assert pair.load(files)[0] == 0


def test_l2_and_l3_content_is_checked(pair: Pair) -> None:
    graph = shapes.single()
    blob = f"blobs/sha256/{layer_of(graph)[7:]}"
    for files, expected in (
        ({**layout(graph), blob: bytes(len(graph.blobs[layer_of(graph)]))}, 1),
        (layout(graph, without={layer_of(graph)}), 4),
    ):
        code, theirs = pair.ctr(files, "--no-unpack")
        assert (code, list(theirs["images"])) == (0, [NAME])
        assert layer_of(graph) not in theirs["content"]
        code, ours = pair.load(files, unpack=False)
        assert (code, ours["images"], ours["content"]) == (expected, {}, {})


def test_l4_an_image_without_the_platform(pair: Pair) -> None:
    other = shapes.multi(["linux/arm64"]).child(0)
    files = layout(shapes.single(), other, names=[NAME, "other:v1"])
    code, theirs = pair.ctr(files, "--no-unpack")
    assert (code, set(theirs["images"])) == (0, {NAME, "other:v1"})
    assert other.document()["config"]["digest"] not in theirs["content"]
    code, ours = pair.load(files, unpack=False)
    assert (code, ours["images"]) == (3, {})
    code, ours = pair.load(files, on_missing="skip")
    assert (code, set(ours["images"])) == (0, {NAME})


def test_l5_unpacking_fails(pair: Pair) -> None:
    made = images.layer({"a": b"b"})
    config = images.config([made], rootfs={"type": "layers", "diff_ids": [f"sha256:{'0' * 64}"]})
    files = layout(images.manifest(config, [made]))
    code, theirs = pair.ctr(files)
    assert code == 1
    assert bool(theirs["images"]) == pair.oracle.local
    code, ours = pair.load(files)
    assert code == 1
    assert_nothing_left(ours)


def test_l6_an_image_without_a_name(pair: Pair) -> None:
    graph = shapes.single()
    files = layout(graph, names=[""])
    code, theirs = pair.ctr(files)
    assert (code, theirs["images"], theirs["content"]) == (0, {}, {})
    code, ours = pair.load(files)
    assert (code, list(ours["images"])) == (0, [f"import-{dt.date.today()}@{graph.digest}"])


def test_l7_a_name_with_the_digest(pair: Pair) -> None:
    graph = shapes.single()
    name = f"import-{dt.date.today()}@{graph.digest}"
    assert (name in pair.ctr(layout(graph), "--digests")[1]["images"]) == pair.oracle.local
    assert set(pair.load(layout(graph), digests=True)[1]["images"]) == {NAME, name}


def test_l8_a_base_name_selects(pair: Pair) -> None:
    files = layout(shapes.single())
    assert len(pair.ctr(files, "--base-name", "example.com/else")[1]["images"]) == int(pair.oracle.local)
    code, ours = pair.load(files, base_name="example.com/else")
    assert (code, ours["images"]) == (3, {})


def test_l9_two_images_with_one_name(pair: Pair) -> None:
    graphs = [shapes.single(), shapes.single(salt="other")]
    code, theirs = pair.ctr(layout(*graphs))
    # 1.6 has no lease while it unpacks, and the first one may be collected by then.
    assert code == 0 or pair.oracle.generation == "1.6"
    assert theirs["images"][NAME]["target"]["digest"] == graphs[1].digest
    assert pair.load(layout(*graphs))[0] == 1


@pytest.mark.parametrize("compression", ["gzip", "zstd", "xz", "bzip2"])
def test_l10_compressed_archives(pair: Pair, compression: str) -> None:
    data = COMPRESSORS[compression](tar_of(layout(shapes.single())))
    known = compression in ("gzip", "zstd") and not pair.oracle.local
    assert pair.ctr(data)[0] == (0 if known else 1)
    assert pair.load(data)[0] == 0


def test_l11_a_layer_of_docker_that_is_not_that_of_the_config(pair: Pair) -> None:
    made, other = (images.layer({"a": data}, compression="") for data in (b"1", b"2"))
    entry = {"Config": "config.json", "RepoTags": ["app:v1"], "Layers": ["layer.tar"]}
    files = {
        "config.json": images.config([made]).data,
        "layer.tar": other.data,
        "manifest.json": images.to_json([entry]),
    }
    code, theirs = pair.ctr(files, "--no-unpack")
    assert (code, len(theirs["images"])) == (0, 1)
    code, ours = pair.load(files, unpack=False)
    assert (code, ours["images"], ours["content"]) == (1, {}, {})


def test_l12_a_platform_that_a_single_manifest_does_not_have(pair: Pair) -> None:
    files = layout(shapes.single("linux/arm64"))
    assert pair.ctr(files, "--platform", "linux/s390x", "--no-unpack")[0] == 0
    assert pair.load(files, platforms=select("linux/s390x"))[0] == 3
    assert pair.load(files)[0] == 0


def test_l13_labels_of_other_tools_stay(pair: Pair) -> None:
    if not pair.oracle.is_2:
        pytest.skip("ctr images import of 1.x has no --label")
    files = layout(shapes.single())
    for value in ("a=1", "b=2"):
        theirs = pair.ctr(files, "--label", value)[1]
        ours = pair.load(files, labels=dict([value.split("=")]))[1]
    assert theirs["images"][NAME]["labels"] == {"b": "2"}
    assert ours["images"][NAME]["labels"] == {"a": "1", "b": "2"}


def test_l15_a_device_is_refused(pair: Pair) -> None:
    files = member("dev/null", kind=tarfile.CHRTYPE) + tar_of(layout(shapes.single()))
    assert pair.ctr(files)[0] == 0
    code, ours = pair.load(files)
    assert code == 1
    assert_nothing_left(ours)


def test_l17_of_all_platforms_only_the_one_of_the_host_is_unpacked(pair: Pair) -> None:
    files = layout(shapes.multi(["linux/amd64", "linux/arm64"], layers=1))
    theirs = pair.ctr(files, "--all-platforms")[1]
    assert len(theirs["snapshots"]["overlayfs"]) == (1 if pair.oracle.local else 2)
    ours = pair.load(files, platforms=select("all"))[1]
    assert len(ours["snapshots"]["overlayfs"]) == 1


def test_l16_what_is_not_needed_is_not_stored(pair: Pair) -> None:
    graph = shapes.multi(["linux/amd64", "linux/arm64"])
    other = images.reachable(graph.child(1))
    damaged = {f"blobs/sha256/{layer_of(graph.child(1))[7:]}": b"damaged"}
    files = {**layout(graph), **damaged}
    code, ours = pair.load(files, label_all=False)
    assert code == 0
    assert not set(ours["content"]) & set(other)


def test_l19_an_index_of_artifacts(pair: Pair) -> None:
    files = layout(images.index([shapes.artifact()]))
    code, theirs = pair.ctr(files)
    assert (code, list(theirs["images"])) == (int(pair.oracle.local), [NAME])
    code, ours = pair.load(files)
    assert (code, list(ours["images"]), ours["snapshots"]) == (0, [NAME], {})


def test_l20_a_record_that_is_as_it_is_to_be_stays(pair: Pair) -> None:
    files = layout(shapes.single())
    for whose, run in (("ctr", pair.ctr), ("ours", pair.load)):
        run(files)
        before = pair.updated_at(whose)
        run(files)
        assert (pair.updated_at(whose) == before) == (whose == "ours")

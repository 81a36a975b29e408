"""load leaves what `ctr images import` of the same version leaves: content, labels, records, snapshots.

For deliberate differences, a test shows what ctr and pyctrd do (docs/differences.md).
"""

from __future__ import annotations

import datetime as dt
import os
import tarfile
import threading
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from integration.archives import ARCHIVES, NAME, Archive, Workshop
from integration.conftest import peer_required
from integration.pulls import assert_equal, assert_nothing_left, state
from integration.rig.daemons import ISOLATED_CONTENT, Containerd, Dockerd, Registry
from integration.rig.store import State
from integration.scenarios import ORACLES, Oracle
from pyctrd.archive.reader import Source, open_archive
from pyctrd.containerd import Daemon
from pyctrd.errors import PyctrdError
from pyctrd.oci.platforms import select
from pyctrd.operations.load import LoadOptions, LoadResult
from pyctrd.operations.load import load as run_load
from tests.support import images, shapes
from tests.support.images import Graph
from tests.support.tars import COMPRESSORS, member, tar_of


@pytest.fixture(scope="module", params=ORACLES, ids=str)
def oracle(request: pytest.FixtureRequest) -> Oracle:
    found: Oracle = request.param
    return found


@pytest.fixture(scope="module")
def daemon(oracle: Oracle, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Containerd]:
    """A containerd in which no namespace uses the content of another."""
    with (
        peer_required(),
        Containerd(oracle.generation, tmp_path_factory.mktemp("containerd"), ISOLATED_CONTENT) as started,
    ):
        yield started


@pytest.fixture(scope="session")
def made(
    session_registry: Registry, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[[Archive], Path]]:
    """Makes each archive once for all daemons."""
    folder = tmp_path_factory.mktemp("archives")
    with ExitStack() as stack:

        @cache
        def containerd(generation: str) -> Containerd:
            return stack.enter_context(Containerd(generation, folder / f"containerd-{generation}"))

        @cache
        def docker(containerd_store: bool) -> Dockerd:
            engine = Dockerd(folder / f"docker-{containerd_store}", containerd_store=containerd_store)
            return stack.enter_context(engine)

        @cache
        def make(archive: Archive) -> Path:
            path = folder / f"{archive.name}.tar"
            with peer_required():
                archive.make(Workshop(folder / archive.name, session_registry, containerd, docker), path)
            return path

        yield make


def load(
    daemon: Containerd, namespace: str, source: Source, options: LoadOptions | None = None
) -> LoadResult:
    with Daemon.connect(str(daemon.address), namespace) as store, open_archive(source) as archive:
        return run_load(store, archive, options or LoadOptions(), today=dt.date.today())


def options_of(archive: Archive, oracle: Oracle) -> LoadOptions:
    """Return our options for the flags of ctr."""
    flags = list(archive.flags)
    unpacks_all = "--all-platforms" in flags and not oracle.local  # L17
    values = {
        flag: [value for name, value in pairwise(flags) if name == flag]
        for flag in ("--platform", "--label", "--base-name")
    }
    return LoadOptions(
        platforms=select("all" if "--all-platforms" in flags else values["--platform"]),
        labels=dict(one.split("=") for one in values["--label"]),
        base_name="".join(values["--base-name"]),
        unpack=False if "--no-unpack" in flags else True if unpacks_all else None,
        label_all=not oracle.local,
    )


def import_with_ctr(daemon: Containerd, oracle: Oracle, namespace: str, archive: Archive, path: Path) -> int:
    flags = ["--local"] if oracle.local and oracle.is_2 else []
    flags += archive.local_flags if oracle.local else []
    command: list[str | Path] = ["images", "import", *flags, *archive.flags, path]
    return daemon.ctr(*command, namespace=namespace, check=False).returncode


@pytest.mark.parametrize("archive", ARCHIVES, ids=lambda archive: archive.name)
def test_load_leaves_what_ctr_leaves(
    archive: Archive,
    oracle: Oracle,
    daemon: Containerd,
    made: Callable[[Archive], Path],
    namespace: str,
) -> None:
    if "--label" in archive.flags and not oracle.is_2:
        pytest.skip("ctr images import of 1.x has no --label")
    path = made(archive)
    ours, theirs = f"{namespace}-ours", f"{namespace}-ctr"
    result = load(daemon, ours, path, options_of(archive, oracle))
    assert import_with_ctr(daemon, oracle, theirs, archive, path) == 0
    found = state(daemon, ours)
    assert set(found["images"]) == {image.name for image in result.images}
    assert_equal(found, state(daemon, theirs))


def test_load_again_changes_nothing_and_agrees_with_ctr(
    oracle: Oracle, daemon: Containerd, made: Callable[[Archive], Path], namespace: str
) -> None:
    archive = named("save-keep")
    path = made(archive)
    first = load(daemon, namespace, path, options_of(archive, oracle))
    before = state(daemon, namespace)
    again = load(daemon, namespace, path, options_of(archive, oracle))
    assert (again.bytes_written, again.bytes_present) == (0, first.bytes_written)
    assert state(daemon, namespace) == before
    assert import_with_ctr(daemon, oracle, namespace, archive, path) == 0
    assert state(daemon, namespace) == before


@pytest.mark.parametrize("name", ["save-keep", "docker", "skopeo-docker", "skopeo-oci", "umoci"])
@pytest.mark.parametrize("compression", ["", "gzip", "zstd"])
def test_a_pipe_leaves_what_a_file_leaves(
    oracle: Oracle,
    daemon: Containerd,
    made: Callable[[Archive], Path],
    namespace: str,
    name: str,
    compression: str,
) -> None:
    archive = named(name)
    path = made(archive)
    load(daemon, f"{namespace}-file", path, options_of(archive, oracle))
    reading, writing = os.pipe()
    sender = threading.Thread(target=send, args=(writing, COMPRESSORS[compression](path.read_bytes())))
    sender.start()
    with os.fdopen(reading, "rb", buffering=0) as pipe:
        load(daemon, f"{namespace}-pipe", pipe, options_of(archive, oracle))
    sender.join()
    assert_equal(state(daemon, f"{namespace}-pipe"), state(daemon, f"{namespace}-file"))


def send(number: int, data: bytes) -> None:
    with os.fdopen(number, "wb") as pipe:
        pipe.write(data)


def named(name: str) -> Archive:
    return next(archive for archive in ARCHIVES if archive.name == name)


def test_discarded_layers(
    oracle: Oracle, daemon: Containerd, made: Callable[[Archive], Path], namespace: str
) -> None:
    if not oracle.local or oracle.generation == "1.6":
        pytest.skip("only ctr 1.7 and --local have --discard-unpacked-layers")
    archive = named("layout")
    flags = ["--discard-unpacked-layers", *(["--local"] if oracle.is_2 else [])]
    daemon.ctr("images", "import", *flags, made(archive), namespace=f"{namespace}-ctr")
    load(daemon, f"{namespace}-ours", made(archive), LoadOptions(discard_layers=True, label_all=False))
    ours, theirs = (state(daemon, f"{namespace}-{name}") for name in ("ours", "ctr"))
    assert_equal(ours, theirs)
    assert len(ours["content"]) == 2  # the manifest and the config
    assert ours["snapshots"]


# --- other than ctr, on purpose (docs/differences.md) -------------------------------------------------------


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
    assert (code, theirs["images"][NAME]["target"]["digest"]) == (0, graphs[1].digest)
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

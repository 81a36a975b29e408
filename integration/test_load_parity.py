"""load leaves what `ctr images import` of the same version leaves: content, labels, records, snapshots.

Deliberate differences are in test_load_differences.py.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import cache
from pathlib import Path

import pytest

from integration import fixtures
from integration.archives import ARCHIVES, Archive, Workshop
from integration.conftest import peer_required
from integration.loading import import_with_ctr, load, options_of
from integration.pulls import assert_equal, assert_nothing_left, state
from integration.rig.daemons import Containerd, Dockerd, Registry
from integration.scenarios import ORACLES, Oracle
from pyctrd.errors import ArchiveError, PyctrdError
from pyctrd.operations.load import LoadOptions
from tests.support.tars import COMPRESSORS

# The two that differ most import every archive. The others import those that take different ways through
# them: platforms, names, labels, nested indexes, artifacts, and both formats of docker.
MOST_DIFFERENT = [oracle for oracle in ORACLES if str(oracle) in ("1.7", "2.4")]
OTHERS = [oracle for oracle in ORACLES if oracle not in MOST_DIFFERENT]
DIFFERENT_WAYS = (
    "docker-several",
    "layout-all",
    "layout-arm64",
    "layout-artifact",
    "layout-base-name",
    "layout-labels",
    "layout-mixed",
    "layout-nested",
    "save-keep",
    "v1-layers",
)


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


Compare = Callable[[Archive], None]


@pytest.fixture
def compare(oracle: Oracle, daemon: Containerd, made: Callable[[Archive], Path], namespace: str) -> Compare:
    """Loads and imports an archive, and compares what is left."""

    def check(archive: Archive) -> None:
        if "--label" in archive.flags and not oracle.is_2:
            pytest.skip("ctr images import of 1.x has no --label")
        path = made(archive)
        ours, theirs = f"{namespace}-ours", f"{namespace}-ctr"
        result = load(daemon, ours, path, options_of(archive, oracle))
        assert import_with_ctr(daemon, oracle, theirs, archive, path) == 0
        found = state(daemon, ours)
        assert set(found["images"]) == {image.name for image in result.images}
        assert_equal(found, state(daemon, theirs))

    return check


@pytest.mark.parametrize("oracle", MOST_DIFFERENT, ids=str, indirect=True)
@pytest.mark.parametrize("archive", ARCHIVES, ids=str)
def test_load_leaves_what_ctr_leaves(archive: Archive, compare: Compare) -> None:
    compare(archive)


@pytest.mark.parametrize("oracle", OTHERS, ids=str, indirect=True)
@pytest.mark.parametrize("name", DIFFERENT_WAYS)
def test_load_leaves_what_every_ctr_leaves(name: str, compare: Compare) -> None:
    compare(named(name))


@pytest.mark.parametrize("oracle", [*MOST_DIFFERENT, ORACLES[-1]], ids=str, indirect=True)
@pytest.mark.parametrize("archive", fixtures.LOADED, ids=str)
def test_load_of_an_archive_of_another_project(archive: Archive, compare: Compare) -> None:
    compare(archive)


@pytest.mark.parametrize("oracle", MOST_DIFFERENT, ids=str, indirect=True)
def test_load_of_another_projects_archive_with_referrers(
    oracle: Oracle, daemon: Containerd, made: Callable[[Archive], Path], namespace: str
) -> None:
    """It differs from ctr in what refers to the images, and in the labels that protect it: row L18."""
    archive = fixtures.WITH_REFERRERS
    path = made(archive)
    result = load(daemon, f"{namespace}-ours", path, options_of(archive, oracle))
    assert import_with_ctr(daemon, oracle, f"{namespace}-ctr", archive, path) == 0
    ours, theirs = (state(daemon, f"{namespace}-{name}") for name in ("ours", "ctr"))
    more = {str(item.target.digest) for item in result.referrers}
    assert more
    assert more <= ours["content"].keys() - theirs["content"].keys()
    assert ours["images"] == theirs["images"]
    for digest, item in theirs["content"].items():
        labels = ours["content"][digest]["labels"]
        assert {key: value for key, value in labels.items() if ".referrer." not in key} == item["labels"]


@pytest.mark.parametrize("oracle", MOST_DIFFERENT, ids=str, indirect=True)
@pytest.mark.parametrize("different", fixtures.DIFFERENT, ids=str)
def test_load_of_a_broken_archive_of_another_project(
    different: fixtures.Different,
    oracle: Oracle,
    daemon: Containerd,
    made: Callable[[Archive], Path],
    namespace: str,
) -> None:
    """ctr records it, incomplete, or drops an image that has no name."""
    path = made(different.archive)
    flags = ["--local"] if oracle.local and oracle.is_2 else []
    daemon.ctr("images", "import", *flags, "--no-unpack", path, namespace=f"{namespace}-ctr")
    ours = f"{namespace}-ours"
    if different.code:
        with pytest.raises(PyctrdError) as caught:
            load(daemon, ours, path)
        assert caught.value.exit_code == different.code
        assert_nothing_left(state(daemon, ours))
    else:
        assert len(load(daemon, ours, path).images) == 1
        assert state(daemon, f"{namespace}-ctr")["images"] == {}


# What is refused before anything is read of it is the same for all.
@pytest.mark.parametrize("oracle", MOST_DIFFERENT[-1:], ids=str, indirect=True)
@pytest.mark.parametrize("archive", fixtures.WITHOUT_IMAGE, ids=str)
def test_an_archive_of_another_project_without_an_image(
    archive: Archive, oracle: Oracle, daemon: Containerd, made: Callable[[Archive], Path], namespace: str
) -> None:
    path = made(archive)
    import_with_ctr(daemon, oracle, f"{namespace}-ctr", archive, path)
    assert state(daemon, f"{namespace}-ctr")["images"] == {}
    with pytest.raises(ArchiveError):
        load(daemon, f"{namespace}-ours", path)
    assert_nothing_left(state(daemon, f"{namespace}-ours"))


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


# Whether it is a pipe makes no difference to containerd, so this runs on one.
@pytest.mark.parametrize("oracle", ORACLES[-1:], ids=str, indirect=True)
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

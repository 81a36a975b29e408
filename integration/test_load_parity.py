"""load leaves what `ctr images import` of the same version leaves: content, labels, records, snapshots.

For deliberate differences, a test shows what ctr and pyctrd do (docs/differences.md).
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import cache
from itertools import pairwise
from pathlib import Path

import pytest

from integration.archives import ARCHIVES, Archive, Workshop
from integration.conftest import peer_required
from integration.rig.daemons import ISOLATED_CONTENT, Containerd, Dockerd, Registry
from integration.scenarios import ORACLES, Oracle
from integration.pulls import assert_equal, state
from pyctrd.archive.reader import Source, open_archive
from pyctrd.containerd import Daemon
from pyctrd.oci.platforms import host, select
from pyctrd.operations.load import LoadOptions, LoadResult
from pyctrd.operations.load import load as run_load


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
        return run_load(store, archive, options or LoadOptions(), host=host(), today=dt.date.today())


def options_of(archive: Archive, oracle: Oracle) -> LoadOptions:
    """Return our options for the flags of ctr."""
    flags = list(archive.flags)
    values = {
        flag: [value for name, value in pairwise(flags) if name == flag]
        for flag in ("--platform", "--label", "--base-name")
    }
    return LoadOptions(
        platforms=select(values["--platform"]),
        labels=dict(one.split("=") for one in values["--label"]),
        base_name="".join(values["--base-name"]),
        unpack=False if "--no-unpack" in flags else None,
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

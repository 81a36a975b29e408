"""Load with pyctrd, and import with ctr."""

from __future__ import annotations

import datetime as dt
from itertools import pairwise
from pathlib import Path

from integration.archives import Archive
from integration.rig.daemons import Containerd
from integration.scenarios import Oracle
from pyctrd.archive.reader import Source, open_archive
from pyctrd.containerd import Daemon
from pyctrd.oci.platforms import select
from pyctrd.operations.load import LoadOptions, LoadResult
from pyctrd.operations.load import load as run_load


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
    """Import with ctr; return its exit code."""
    flags = ["--local"] if oracle.local and oracle.is_2 else []
    flags += archive.local_flags if oracle.local else []
    command: list[str | Path] = ["images", "import", *flags, *archive.flags, path]
    return daemon.ctr(*command, namespace=namespace, check=False).returncode

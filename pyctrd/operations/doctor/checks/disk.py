"""Disk space and inodes where containerd stores its data."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from pyctrd.amounts import size
from pyctrd.operations.doctor.examination import CannotCheck, Examination
from pyctrd.operations.doctor.host import DiskSpace
from pyctrd.operations.doctor.model import Advice, DoctorFinding, Severity

CODES: Final = ("disk-full", "disk-low", "inodes-full", "inodes-low")

# The kubelet removes images at 85 %, and evicts pods when less than 5 % of the inodes are free.
_LOW: Final = 0.15
_FULL: Final = 0.05
_UNTIL_SPACE: Final = ("--until-free", "15%")
_PLUGINS: Final = ("io.containerd.content.v1", "io.containerd.snapshotter.v1")


def find(examination: Examination) -> Iterator[DoctorFinding]:
    """Find file systems of containerd's with little space or few inodes left."""
    folders = sorted(
        {
            plugin.exports["root"]
            for plugin in examination.plugins
            if plugin.type in _PLUGINS and not plugin.error and plugin.exports.get("root")
        }
    )
    if not folders:
        raise CannotCheck("containerd does not say where its data is")
    if examination.host.process() is None:
        raise CannotCheck("containerd does not run on this machine")
    seen = set[int]()
    unseen = []
    for folder in folders:
        space = examination.host.disk(folder)
        if space is None:
            unseen.append(folder)
        elif space.device not in seen:
            seen.add(space.device)
            yield from _of(examination, folder, space)
    if unseen and not seen:
        raise CannotCheck(f"{unseen[0]} cannot be seen by this user")


def _of(examination: Examination, folder: str, space: DiskSpace) -> Iterator[DoctorFinding]:
    free = space.bytes_free / space.bytes_total if space.bytes_total else 1.0
    if free < _LOW:
        yield _finding(
            "disk-full" if free < _FULL else "disk-low",
            f"only {size(space.bytes_free)} of {size(space.bytes_total)} ({free:.0%}) are free on the disk",
            folder,
            _prune(examination, *_UNTIL_SPACE),
        )
    free = space.inodes_free / space.inodes if space.inodes else 1.0
    if free < _LOW:
        yield _finding(
            "inodes-full" if free < _FULL else "inodes-low",
            f"only {space.inodes_free} of {space.inodes} inodes ({free:.0%}) are free on the disk",
            folder,
            _prune(examination, "--unused"),
        )


def _prune(examination: Examination, *policy: str) -> tuple[str, ...]:
    """Return the command that removes images from the namespace with the most of them."""
    spaces = {space.namespace: len(examination.state(space).images) for space in examination.spaces}
    return ("pyctrd", "-n", max(spaces, key=lambda name: spaces[name]), "prune", *policy) if spaces else ()


def _finding(code: str, what: str, folder: str, prune: tuple[str, ...]) -> DoctorFinding:
    severity: Severity = "error" if code.endswith("full") else "warning"
    return DoctorFinding(
        code=code,
        severity=severity,
        what=f"{what} with containerd's data",
        evidence=(f"the data is in {folder}",),
        remedy=Advice(
            text="remove images that no container uses; --dry-run shows them first",
            commands=(prune,) if prune else (),
        ),
    )

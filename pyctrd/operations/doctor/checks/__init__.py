"""The checks of `doctor`. Each has a file, the codes of its findings, and a function that yields them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final, NamedTuple

from pyctrd.operations.doctor.checks import (
    clock,
    decompression,
    discarded,
    disk,
    hosts,
    ingests,
    kubelet,
    labels,
    leases,
    namespaces,
    release,
    sandbox,
    socket,
)
from pyctrd.operations.doctor.examination import Examination
from pyctrd.operations.doctor.model import DoctorFinding


class Check(NamedTuple):
    """A check: the codes of its findings, and what yields them."""

    codes: Sequence[str]
    find: Callable[[Examination], Iterable[DoctorFinding]]


CHECKS: Final[Mapping[str, Check]] = {
    "socket": Check(socket.CODES, socket.find),
    "release": Check(release.CODES, release.find),
    "disk": Check(disk.CODES, disk.find),
    "gc-labels": Check(labels.CODES, labels.find),
    "discarded-layers": Check(discarded.CODES, discarded.find),
    "leases": Check(leases.CODES, leases.find),
    "ingests": Check(ingests.CODES, ingests.find),
    "namespaces": Check(namespaces.CODES, namespaces.find),
    "kubelet": Check(kubelet.CODES, kubelet.find),
    "sandbox": Check(sandbox.CODES, sandbox.find),
    "hosts": Check(hosts.CODES, hosts.find),
    "clock": Check(clock.CODES, clock.find),
    "decompression": Check(decompression.CODES, decompression.find),
}
"""By name, those first whose findings are most urgent."""

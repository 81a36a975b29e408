"""A containerd whose namespaces are laid out by hand, and a machine for it.

As in the tests of diagnose, there is no method that changes anything, apart from leases if the machine has a
clock of its own.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import cast

from pyctrd.errors import DaemonUnreachable, NotFound
from pyctrd.oci.model import Descriptor, ImageRecord, IngestStatus
from pyctrd.oci.resources import DaemonVersion, Lease, LeaseResource, Namespace, Plugin
from pyctrd.operations.doctor import doctor
from pyctrd.operations.doctor.host import ConfigFile, DiskSpace, Pitfall, ProcessFacts, SocketFacts
from pyctrd.operations.doctor.model import DoctorFinding, DoctorReport
from pyctrd.ports import Containerd
from tests.operations.diagnose.world import World, record

NOW = dt.datetime(2026, 11, 27, 12, 0, tzinfo=dt.UTC)
HOUR = dt.timedelta(hours=1)
DAY = dt.timedelta(days=1)
CRI = Plugin(type="io.containerd.grpc.v1", id="cri")
CONTENT = Plugin(
    type="io.containerd.content.v1", id="content", exports={"root": "/var/lib/containerd/content"}
)
OVERLAYFS = Plugin(
    type="io.containerd.snapshotter.v1", id="overlayfs", exports={"root": "/var/lib/containerd/overlayfs"}
)


class _Leases:
    def __init__(self, clock: dt.datetime | None) -> None:
        self.held: dict[str, tuple[Lease, list[LeaseResource]]] = {}
        self.made: list[str] = []
        self._clock = clock

    def list(self, filters: Sequence[str] = ()) -> Sequence[Lease]:
        return [lease for lease, _ in self.held.values()]

    def resources(self, lease_id: str) -> Sequence[LeaseResource]:
        return self.held[lease_id][1]

    def create(self, lease_id: str, labels: Mapping[str, str]) -> Lease:
        assert self._clock is not None, "nothing may be changed"
        self.made.append(lease_id)
        self.held[lease_id] = (Lease(id=lease_id, labels=labels, created_at=self._clock), [])
        return self.held[lease_id][0]

    def delete(self, lease_id: str, *, sync: bool = False) -> None:
        assert lease_id in self.made
        if lease_id not in self.held:
            raise NotFound(f'lease "{lease_id}": not found', kind="lease", name=lease_id)
        del self.held[lease_id]


class Space(World):
    """A namespace of the containerd. Implements ports.Containerd, as far as doctor uses it."""

    def __init__(self, clinic: Clinic, namespace: str) -> None:
        super().__init__(namespace)
        self.clinic = clinic
        self.leases = _Leases(clinic.clock)
        self.writes: list[IngestStatus] = []
        self.content.ingests = lambda: self.writes  # type: ignore[method-assign]
        self.namespaces = clinic
        self.introspection = clinic

    def version(self) -> DaemonVersion:
        return DaemonVersion(version=self.clinic.release)

    def snapshotters(self) -> Sequence[str]:
        return ("overlayfs",)

    def in_namespace(self, namespace: str) -> Space:
        return self.clinic.spaces[namespace]

    def name(self, target: Descriptor, name: str, **labels: str) -> ImageRecord:
        """Add an image record; in labels, `_` stands for a dot after the prefix of the kubelet's."""
        made = record(target, name=name, labels={f"io.cri-containerd.{key}": v for key, v in labels.items()})
        self.images.records.append(made)
        return made

    def lease(self, name: str, labels: Mapping[str, str], age: dt.timedelta, *held: LeaseResource) -> None:
        """Add a lease of an age."""
        self.leases.held[name] = (Lease(id=name, labels=labels, created_at=NOW - age), list(held))

    def write(self, ref: str, age: dt.timedelta) -> None:
        """Add an unfinished write that has not grown for a time."""
        when = NOW - age
        self.writes.append(
            IngestStatus(ref=ref, offset=5 << 20, total=9 << 20, started_at=when, updated_at=when)
        )


class Clinic:
    """A containerd, and the machine that it runs on. Implements Host, NamespaceStore and Introspection."""

    def __init__(self, *names: str, clock: dt.datetime | None = None) -> None:
        self.release = "v2.4.2"
        self.clock = clock
        self.loaded = [CONTENT, OVERLAYFS]
        self.found = SocketFacts(path="/run/c.sock", owner="root", mode=0o660)
        self.running: ProcessFacts | None = ProcessFacts(pid=7, path=("/usr/bin",))
        self.programs = {"/usr/bin/igzip"}
        self.disks: dict[str, DiskSpace] = {}
        self.configured: ConfigFile | Exception = ConfigFile(path="/etc/containerd/config.toml", settings={})
        self.wrong: list[Pitfall] = []
        self.listed: tuple[str, ...] | None = None
        self.spaces = {name: Space(self, name) for name in names or ("default",)}

    @property
    def space(self) -> Space:
        """The first namespace."""
        return next(iter(self.spaces.values()))

    def report(
        self,
        *,
        only: Sequence[str] = (),
        skip: Sequence[str] = (),
        unreachable: DaemonUnreachable | None = None,
        now: dt.datetime = NOW,
    ) -> DoctorReport:
        """Make the checks."""
        containerd = None if unreachable else cast("Containerd", self.space)
        return doctor(containerd, self, now=now, unreachable=unreachable, only=only, skip=skip)

    def findings(self, check: str, now: dt.datetime = NOW) -> tuple[DoctorFinding, ...]:
        """Return the findings of a check, which must be possible."""
        report = self.report(only=[check], now=now)
        assert report.skipped == ()
        return report.findings

    def reason(self, check: str) -> str:
        """Return why a check cannot be made."""
        (skipped,) = self.report(only=[check]).skipped
        return skipped.reason

    # --- NamespaceStore, Introspection

    def list(self) -> Sequence[Namespace]:
        return [Namespace(name=name) for name in (self.spaces if self.listed is None else self.listed)]

    def plugins(self, filters: Sequence[str] = ()) -> Sequence[Plugin]:
        return self.loaded

    # --- Host

    def socket(self) -> SocketFacts:
        return self.found

    def process(self) -> ProcessFacts | None:
        return self.running

    def has_program(self, folders: Sequence[str], name: str) -> bool:
        return any(str(Path(folder, name)) in self.programs for folder in folders)

    def disk(self, folder: str) -> DiskSpace | None:
        return self.disks.get(folder)

    def config(self) -> ConfigFile:
        if isinstance(self.configured, Exception):
            raise self.configured
        return self.configured

    def pitfalls(self) -> Sequence[Pitfall]:
        return self.wrong

"""A namespace in memory with a clock, which tests turn: records have times, and leases and images expire."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator, Sequence

import msgspec

from pyctrd.oci.expiry import EXPIRE_LABEL
from pyctrd.oci.model import ContentInfo, Digest, ImageRecord, IngestStatus, SnapshotInfo
from pyctrd.oci.resources import Container, DaemonVersion, Lease, SnapshotUsage
from tests.support.memory import SNAPSHOTTER, MemoryLeases, MemorySnapshots, MemoryStore
from tests.support.memory_content import MemoryContent, Resource, State, Unfinished

BLOCK = 4096


class AgeingState(State):
    """A state with the time, and the times of objects."""

    def __init__(self, now: dt.datetime, *, images_expire: bool) -> None:
        super().__init__()
        self.now = now
        self.images_expire = images_expire
        self.times: dict[tuple[str, str], dt.datetime] = {}

    def collect(self) -> None:
        """Remove expired leases, on containerd 2 expired images, and what nothing refers to then."""
        expired = [name for name, labels in self.lease_labels.items() if self.is_over(labels)]
        for name in expired:
            del self.leases[name], self.lease_labels[name]
        if self.images_expire:
            for name in [name for name, image in self.images.items() if self.is_over(image.labels)]:
                del self.images[name]
        super().collect()

    def is_over(self, labels: object) -> bool:
        """Whether labels have an expiry that is over."""
        expiry = labels.get(EXPIRE_LABEL) if hasattr(labels, "get") else None
        return expiry is not None and dt.datetime.fromisoformat(expiry) < self.now


class AgeingContent(MemoryContent):
    """Blobs and ingests with times."""

    _state: AgeingState

    def info(self, digest: Digest) -> ContentInfo:
        found = super().info(digest)
        return msgspec.structs.replace(found, created_at=self._state.times.get(("content", digest)))

    def ingests(self) -> Sequence[IngestStatus]:
        times = self._state.times
        return tuple(
            msgspec.structs.replace(
                item, started_at=times[("ingest", item.ref)], updated_at=times[("ingest", item.ref)]
            )
            for item in super().ingests()
        )


class AgeingLeases(MemoryLeases):
    """Leases with times."""

    _state: AgeingState

    def list(self, filters: Sequence[str] = ()) -> Sequence[Lease]:
        return tuple(
            msgspec.structs.replace(item, created_at=self._state.times[("lease", item.id)])
            for item in super().list(filters)
        )


class AgeingSnapshots(MemorySnapshots):
    """Snapshots with times."""

    _state: AgeingState

    def list(self, snapshotter: str, filters: Sequence[str] = ()) -> Iterator[SnapshotInfo]:
        return (
            msgspec.structs.replace(item, updated_at=self._state.times.get(("snapshot", item.name)))
            for item in super().list(snapshotter, filters)
        )

    def usage(self, snapshotter: str, name: str) -> SnapshotUsage:
        self.stat(snapshotter, name)
        return SnapshotUsage(bytes=BLOCK * (1 + len(name) % 3), inodes=1)


class AgeingStore(MemoryStore):
    """A namespace with a clock. What is created gets the time of the clock."""

    state: AgeingState

    def __init__(self, now: dt.datetime, *, images_expire: bool = True, namespace: str = "default") -> None:
        super().__init__(AgeingState(now, images_expire=images_expire), namespace=namespace)
        self.content = AgeingContent(self.state, "")
        self.leases = AgeingLeases(self.state)
        self.snapshots = AgeingSnapshots(self.state, "")

    def version(self) -> DaemonVersion:
        return DaemonVersion(version="v2.1.9" if self.state.images_expire else "1.7.24~ds1")

    def advance(self, by: dt.timedelta) -> None:
        """Turn the clock."""
        self.state.now += by

    def stamp(self, kind: str, name: str) -> None:
        """Give an object the time of the clock."""
        self.state.times[kind, name] = self.state.now

    def add_blob(self, data: bytes) -> Digest:
        """Store a blob without labels."""
        digest = Digest.of(data)
        self.put({digest: data})
        self.stamp("content", digest)
        return digest

    def add_snapshot(self, name: str, parent: str = "", *, kind: str = "committed") -> None:
        """Add a snapshot."""
        self.state.snapshots[SNAPSHOTTER, name] = SnapshotInfo(name=name, parent=parent, kind=kind)
        self.stamp("snapshot", name)

    def add_image(self, document: bytes, layers: Sequence[bytes], snapshot: str = "") -> Digest:
        """Store a document that refers to layers and perhaps to a snapshot; return its digest."""
        target = self.add_blob(document)
        labels: dict[str, str] = {
            f"containerd.io/gc.ref.content.l.{n}": self.add_blob(data) for n, data in enumerate(layers)
        }
        if snapshot:
            labels[f"containerd.io/gc.ref.snapshot.{SNAPSHOTTER}"] = snapshot
        self.content.set_labels(target, labels)
        return target

    def name(self, name: str, target: Digest, **labels: str) -> ImageRecord:
        """Create or move an image record, as a pull does."""
        before = self.state.images.get(name)
        size = len(self.state.blobs[target])
        record = self.tag(name, {"mediaType": "application/json", "digest": target, "size": size})
        record = msgspec.structs.replace(
            record,
            labels=labels,
            created_at=before.created_at if before else self.state.now,
            updated_at=self.state.now,
        )
        self.state.images[name] = record
        return record

    def label(self, name: str, labels: dict[str, str]) -> None:
        """Set all labels of an image record."""
        record = self.state.images[name]
        self.state.images[name] = msgspec.structs.replace(record, labels=labels, updated_at=self.state.now)

    def run(self, container: str, image: str) -> None:
        """Start a container of an image, with a snapshot of its own on that of the image."""
        target = self.state.images[image].target.digest
        parent = self.state.labels[target].get(f"containerd.io/gc.ref.snapshot.{SNAPSHOTTER}", "")
        self.add_snapshot(f"rw-{container}", parent, kind="active")
        self.state.containers[container] = Container(
            id=container, image=image, snapshotter=SNAPSHOTTER, snapshot_key=f"rw-{container}"
        )

    def start_pull(self, lease: str, ref: str, data: bytes, *, lifetime: dt.timedelta) -> None:
        """Begin a write under a lease, as a pull does that is interrupted."""
        expiry = (self.state.now + lifetime).isoformat()
        self.leases.create(lease, {EXPIRE_LABEL: expiry})
        self.stamp("lease", lease)
        self.state.ingests[ref] = Unfinished(bytearray(data), total=2 * len(data), leased=True)
        self.stamp("ingest", ref)
        self.state.leases[lease].add(Resource("ingests", ref))

"""An in-memory ports.Containerd, with the rules for leases, labels and garbage collection."""

from __future__ import annotations

import datetime as dt
import gzip
import zlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager

import msgspec

from pyctrd.errors import (
    DaemonError,
    FailedPrecondition,
    ImageNotFound,
    NotFound,
    Unsupported,
    is_interrupt,
)
from pyctrd.oci.model import (
    Descriptor,
    Digest,
    ImageRecord,
    Mount,
    SnapshotInfo,
)
from pyctrd.oci.resources import (
    Container,
    DaemonVersion,
    Lease,
    LeaseResource,
    Namespace,
    Plugin,
    SnapshotUsage,
)
from tests.support.filters import image_is_chosen, is_chosen
from tests.support.memory_content import MemoryContent, Resource, State, exists

SNAPSHOTTER = "memory"
_SNAPSHOT_REF = "containerd.io/snapshot.ref"


class MemoryImages:
    """The image service."""

    def __init__(self, state: State) -> None:
        self._state = state

    def get(self, name: str) -> ImageRecord:
        if name not in self._state.images:
            raise ImageNotFound(f'image "{name}": not found', kind="image", name=name)
        return self._state.images[name]

    def get_several(self, names: Collection[str]) -> Mapping[str, ImageRecord]:
        return {name: self._state.images[name] for name in names if name in self._state.images}

    def list(self, filters: Sequence[str] = ()) -> Sequence[ImageRecord]:
        records = tuple(self._state.images.values())
        return tuple(item for item in records if image_is_chosen(filters, item))

    def create(self, image: ImageRecord) -> ImageRecord:
        if image.name in self._state.images:
            raise exists("image", image.name, f'image "{image.name}": already exists')
        now = dt.datetime.now(dt.UTC)
        self._state.images[image.name] = msgspec.structs.replace(image, created_at=now, updated_at=now)
        return self._state.images[image.name]

    def update(self, image: ImageRecord, *, fields: Sequence[str]) -> ImageRecord:
        if not fields:
            raise ValueError("an update of an image names the fields that it changes")
        current = self.get(image.name)
        labels = dict(image.labels) if "labels" in fields else dict(current.labels)
        for field in fields:
            if field.startswith("labels."):
                key = field.removeprefix("labels.")
                labels[key] = image.labels.get(key, "")
        target = image.target if "target" in fields else current.target
        kept = {key: value for key, value in labels.items() if value}
        self._state.images[image.name] = msgspec.structs.replace(
            current, target=target, labels=kept, updated_at=dt.datetime.now(dt.UTC)
        )
        return self._state.images[image.name]

    def delete(self, name: str, *, sync: bool = False) -> None:
        self.get(name)
        del self._state.images[name]
        if sync:
            self._state.collect()


class MemorySnapshots:
    """The snapshots service; nothing is mounted."""

    def __init__(self, state: State, lease: str) -> None:
        self._state = state
        self._lease = lease

    def stat(self, snapshotter: str, name: str) -> SnapshotInfo:
        return self._get(snapshotter, name, name)

    def _get(self, snapshotter: str, name: str, subject: str) -> SnapshotInfo:
        found = self._state.snapshots.get((snapshotter or SNAPSHOTTER, name))
        if found is None:
            raise NotFound(f"snapshot {name} does not exist: not found", kind="snapshot", name=subject)
        return found

    def prepare(
        self, snapshotter: str, key: str, parent: str, labels: Mapping[str, str] | None = None
    ) -> Sequence[Mount]:
        labels = dict(labels or {})
        target = labels.get(_SNAPSHOT_REF, "")
        if (snapshotter or SNAPSHOTTER, target) in self._state.snapshots:
            self._state.hold(self._lease, f"snapshots/{snapshotter or SNAPSHOTTER}", target)
            raise exists("snapshot", key, f'target snapshot "{target}": already exists')
        if parent:
            self._get(snapshotter, parent, key)
        self._add(snapshotter, SnapshotInfo(name=key, parent=parent, kind="active", labels=labels))
        return (Mount(type="memory", source=key),)

    def can_rebase(self, snapshotter: str) -> bool:
        return self._state.can_rebase

    def commit(
        self,
        snapshotter: str,
        name: str,
        key: str,
        labels: Mapping[str, str] | None = None,
        *,
        parent: str = "",
    ) -> None:
        active = self._get(snapshotter, key, name)
        parent = active.parent or (parent if self._state.can_rebase else "")
        if parent:
            self._get(snapshotter, parent, name)
        made = SnapshotInfo(name=name, parent=parent, kind="committed", labels=labels or {})
        self._add(snapshotter, made)
        del self._state.snapshots[snapshotter or SNAPSHOTTER, key]

    def _add(self, snapshotter: str, made: SnapshotInfo) -> None:
        owner = snapshotter or SNAPSHOTTER
        if (owner, made.name) in self._state.snapshots:
            raise exists("snapshot", made.name, f'snapshot "{made.name}": already exists')
        self._state.snapshots[owner, made.name] = made
        self._state.hold(self._lease, f"snapshots/{owner}", made.name)

    def remove(self, snapshotter: str, key: str) -> None:
        self.stat(snapshotter, key)
        if any(info.parent == key for info in self.list(snapshotter)):
            raise FailedPrecondition(
                f"cannot remove snapshot {key} with child: failed precondition",
                code="FAILED_PRECONDITION",
                kind="snapshot",
                name=key,
            )
        del self._state.snapshots[snapshotter or SNAPSHOTTER, key]

    def usage(self, snapshotter: str, name: str) -> SnapshotUsage:
        self.stat(snapshotter, name)
        return SnapshotUsage(bytes=4096, inodes=1)

    def mounts(self, snapshotter: str, key: str) -> Sequence[Mount]:
        self.stat(snapshotter, key)
        return (Mount(type="memory", source=key),)

    def list(self, snapshotter: str, filters: Sequence[str] = ()) -> Iterator[SnapshotInfo]:
        found = tuple(self._state.snapshots.items())
        owned = (info for (owner, _), info in found if owner == (snapshotter or SNAPSHOTTER))
        return (info for info in owned if is_chosen(filters, {"name": info.name}, info.labels))


class MemoryDiffs:
    """The diff service: applies plain and gzip layers to nowhere."""

    def __init__(self, state: State) -> None:
        self._state = state

    def apply(self, descriptor: Descriptor, mounts: Sequence[Mount]) -> Descriptor:
        if descriptor.digest not in self._state.blobs:
            message = f"content digest {descriptor.digest}: not found"
            raise NotFound(message, kind="layer", name=descriptor.digest)
        data = self._state.blobs[descriptor.digest]
        if descriptor.media_type.endswith("gzip"):
            data = self._unpacked(descriptor, data)
        elif descriptor.media_type.endswith("zstd"):
            raise Unsupported("no stream processor for zstd in memory", code="UNIMPLEMENTED")
        return Descriptor(
            media_type="application/vnd.oci.image.layer.v1.tar", digest=Digest.of(data), size=len(data)
        )

    def _unpacked(self, descriptor: Descriptor, data: bytes) -> bytes:
        try:
            return gzip.decompress(data)
        except (OSError, EOFError, zlib.error) as error:
            raise DaemonError(str(error), code="UNKNOWN", kind="layer", name=descriptor.digest) from error


class MemoryLeases:
    """The leases service."""

    def __init__(self, state: State) -> None:
        self._state = state

    def create(self, lease_id: str, labels: Mapping[str, str]) -> Lease:
        if lease_id in self._state.leases:
            raise exists("lease", lease_id, f'lease "{lease_id}": already exists')
        self._state.leases[lease_id] = set()
        self._state.lease_labels[lease_id] = dict(labels)
        return Lease(id=lease_id, labels=labels)

    def delete(self, lease_id: str, *, sync: bool = False) -> None:
        self._get(lease_id)
        del self._state.leases[lease_id]
        self._state.lease_labels.pop(lease_id, None)
        if sync:
            self._state.collect()

    def list(self, filters: Sequence[str] = ()) -> Sequence[Lease]:
        labels = self._state.lease_labels
        found = [Lease(id=name, labels=labels.get(name, {})) for name in self._state.leases]
        return tuple(item for item in found if is_chosen(filters, {"id": item.id}, item.labels))

    def add(self, lease_id: str, resource: LeaseResource) -> None:
        self._get(lease_id).add(Resource(resource.type, resource.id))

    def remove(self, lease_id: str, resource: LeaseResource) -> None:
        self._get(lease_id).discard(Resource(resource.type, resource.id))

    def resources(self, lease_id: str) -> Sequence[LeaseResource]:
        return tuple(LeaseResource(type=item.kind, id=item.name) for item in self._get(lease_id))

    def _get(self, lease_id: str) -> set[Resource]:
        if lease_id not in self._state.leases:
            raise NotFound(f'lease "{lease_id}": not found', kind="lease", name=lease_id)
        return self._state.leases[lease_id]


class MemoryContainers:
    """The containers service."""

    def __init__(self, state: State) -> None:
        self._state = state

    def list(self, filters: Sequence[str] = ()) -> Sequence[Container]:
        found = self._state.containers.values()
        return tuple(item for item in found if is_chosen(filters, {"id": item.id}, item.labels))


class MemoryNamespaces:
    """The namespaces service."""

    def __init__(self, state: State, own: str) -> None:
        self._state = state
        self._own = own

    def list(self) -> Sequence[Namespace]:
        states = {self._own: self._state, **self._state.others}
        return tuple(Namespace(name=name, labels=states[name].own_labels) for name in sorted(states))

    def create(self, name: str, labels: Mapping[str, str] | None = None) -> Namespace:
        if name in (self._own, *self._state.others):
            raise exists("namespace", name, f'namespace "{name}": already exists')
        made = self._state.others[name] = State()
        made.own_labels = dict(labels or {})
        return Namespace(name=name, labels=made.own_labels)

    def set_labels(self, name: str, labels: Mapping[str, str]) -> None:
        state = self._get(name)
        merged = {**state.own_labels, **labels}
        state.own_labels = {key: value for key, value in merged.items() if value}

    def delete(self, name: str) -> None:
        state = self._get(name)
        if state.images or state.blobs or state.snapshots:
            raise FailedPrecondition(
                f'namespace "{name}" must be empty, but it still has images: failed precondition',
                code="FAILED_PRECONDITION",
                kind="namespace",
                name=name,
            )
        self._state.others.pop(name, None)

    def _get(self, name: str) -> State:
        found = self._state if name == self._own else self._state.others.get(name)
        if found is None:
            raise NotFound(f'namespace "{name}": not found', kind="namespace", name=name)
        return found


class MemoryIntrospection:
    """The introspection service."""

    def plugins(self, filters: Sequence[str] = ()) -> Sequence[Plugin]:
        found = Plugin(type="io.containerd.snapshotter.v1", id=SNAPSHOTTER)
        return (found,) if is_chosen(filters, {"type": found.type, "id": found.id}, {}) else ()


class MemoryStore:
    """A namespace; `state` is what all views of it share."""

    def __init__(self, state: State | None = None, lease: str = "", namespace: str = "default") -> None:
        self.state = state or State()
        self.namespace = namespace
        self._lease = lease
        self.content = MemoryContent(self.state, lease)
        self.images = MemoryImages(self.state)
        self.snapshots = MemorySnapshots(self.state, lease)
        self.diffs = MemoryDiffs(self.state)
        self.leases = MemoryLeases(self.state)
        self.containers = MemoryContainers(self.state)
        self.namespaces = MemoryNamespaces(self.state, namespace)
        self.introspection = MemoryIntrospection()

    def version(self) -> DaemonVersion:
        return DaemonVersion(version="v2.4.2")

    def snapshotters(self) -> Sequence[str]:
        return (SNAPSHOTTER,)

    def in_namespace(self, namespace: str) -> MemoryStore:
        """Return another namespace, which is created if it does not exist."""
        if namespace == self.namespace:
            return self
        other = self.state.others.setdefault(namespace, State())
        other.others.setdefault(self.namespace, self.state)
        return MemoryStore(other, namespace=namespace)

    def under_lease(self, lease_id: str) -> MemoryStore:
        return MemoryStore(self.state, lease_id, self.namespace)

    def check_open(self) -> None:
        pass

    def default_snapshotter(self) -> str:
        return SNAPSHOTTER

    @contextmanager
    def lease(self, purpose: str, *, resumable: bool = False) -> Iterator[MemoryStore]:
        """Open a lease; inside one, return the same view, as the daemon does."""
        if self._lease:
            yield self
            return
        name = f"{purpose}-{next(self.state.lease_ids)}"
        self.state.leases[name] = set()
        try:
            yield MemoryStore(self.state, name, self.namespace)
        except BaseException as error:
            if not (resumable and is_interrupt(error)):
                del self.state.leases[name]
            raise
        del self.state.leases[name]

    def pin(self, digests: Collection[Digest]) -> None:
        for digest in digests:
            self.state.hold(self._lease, "content", digest)

    def pin_everything(self) -> None:
        if self._lease:
            for blob in [Resource("content", digest) for digest in self.state.blobs]:
                self.state.leases[self._lease] |= {blob, *self.state.refers_to(blob)}

    def collect_garbage(self) -> None:
        self.state.collect()

    def put(self, blobs: Mapping[str, bytes], *, without: Collection[str] = ()) -> None:
        """Add blobs by digest, without checks or labels."""
        self.state.blobs.update(
            (Digest(digest), data) for digest, data in blobs.items() if digest not in without
        )

    def tag(self, name: str, root: Mapping[str, object]) -> ImageRecord:
        """Create an image record whose target is a descriptor given as a JSON object."""
        self.state.images[name] = ImageRecord(name=name, target=target_of(root))
        return self.state.images[name]


def target_of(root: Mapping[str, object]) -> Descriptor:
    """Return the descriptor of a JSON object, without its platform, as in registries and records."""
    kept = {key: value for key, value in root.items() if key != "platform"}
    return msgspec.convert(kept, Descriptor, dec_hook=lambda kind, value: kind(value))

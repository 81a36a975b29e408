"""ports.Store in memory, with containerd's rules for ingests, leases, labels and the garbage collector."""

from __future__ import annotations

import gzip
import itertools
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager

import msgspec

from pyctrd.errors import (
    AlreadyExists,
    ContentError,
    FailedPrecondition,
    ImageNotFound,
    IngestLocked,
    NotFound,
    Unsupported,
)
from pyctrd.oci import mediatypes
from pyctrd.oci.model import (
    ContentInfo,
    Descriptor,
    Digest,
    ImageRecord,
    IngestStatus,
    Mount,
    SnapshotInfo,
)
from tests.support.filters import is_chosen

CHUNK = 1 << 20


class State:
    """What all views of one namespace share; tests look into it, and spoil it, as they like."""

    def __init__(self) -> None:
        self.blobs: dict[Digest, bytes] = {}
        self.labels: dict[Digest, dict[str, str]] = {}
        self.ingests: dict[str, bytearray] = {}
        self.open_refs: set[str] = set()
        self.images: dict[str, ImageRecord] = {}
        self.snapshots: dict[tuple[str, str], SnapshotInfo] = {}
        self.leases: dict[str, set[Digest]] = {}
        self.lease_ids = itertools.count(1)

    def collect(self) -> None:
        """Remove every blob that no image and no lease leads to."""
        reached = set[Digest]()
        queue = [record.target.digest for record in self.images.values()]
        queue += [digest for held in self.leases.values() for digest in held]
        while queue:
            digest = queue.pop()
            if digest not in reached and digest in self.blobs:
                reached.add(digest)
                labels = self.labels.get(digest, {}).items()
                queue += [Digest(value) for key, value in labels if key.startswith(mediatypes.GC_REF)]
        self.blobs = {digest: data for digest, data in self.blobs.items() if digest in reached}


class MemoryIngest:
    """An open write."""

    def __init__(self, state: State, ref: str, digest: Digest, size: int, lease: str) -> None:
        self._state, self._ref, self._digest, self._size, self._lease = state, ref, digest, size, lease
        self._data = state.ingests.setdefault(ref, bytearray())

    @property
    def offset(self) -> int:
        return len(self._data)

    def write(self, data: bytes) -> None:
        self._data += data

    def commit(self) -> None:
        data = bytes(self._data)
        if len(data) != self._size:
            raise FailedPrecondition(f'"{self._ref}" failed size validation: {len(data)} != {self._size}')
        actual = Digest.of(data, self._digest.algorithm)
        if actual != self._digest:
            raise FailedPrecondition(f"unexpected commit digest {actual}, expected {self._digest}")
        self._state.ingests.pop(self._ref, None)
        if self._digest in self._state.blobs:  # finished by another: not ours for that
            raise AlreadyExists(f"blob with expected digest {self._digest} exists", code="ALREADY_EXISTS")
        self._state.blobs[self._digest] = data
        if self._lease:
            self._state.leases[self._lease].add(self._digest)


class MemoryContent:
    """The content service."""

    stall_seconds = 60.0

    def __init__(self, state: State, lease: str) -> None:
        self._state = state
        self._lease = lease

    def info(self, digest: Digest) -> ContentInfo:
        data = self._get(digest)
        return ContentInfo(digest=digest, size=len(data), labels=dict(self._state.labels.get(digest, {})))

    def list(self, filters: Sequence[str] = ()) -> Iterator[ContentInfo]:
        assert not filters, "filters are containerd's"
        return (self.info(digest) for digest in tuple(self._state.blobs))

    @contextmanager
    def read(self, digest: Digest, *, offset: int = 0, size: int = 0) -> Iterator[Iterator[bytes]]:
        def chunks() -> Iterator[bytes]:
            data = self._get(digest)
            end = min(len(data), offset + size) if size else len(data)
            for start in range(offset, end, CHUNK):
                yield data[start : min(start + CHUNK, end)]

        yield chunks()

    def read_all(self, digest: Digest, *, limit: int) -> bytes:
        data = self._get(digest)
        if len(data) > limit:
            raise ContentError(f"content {digest} is larger than {limit} bytes")
        return data

    def _get(self, digest: Digest) -> bytes:
        if digest not in self._state.blobs:
            raise NotFound(f"content digest {digest}: not found", kind="content", name=digest)
        return self._state.blobs[digest]

    @contextmanager
    def open_ingest(
        self, ref: str, *, digest: Digest, size: int, expected: bool = True
    ) -> Iterator[MemoryIngest]:
        if expected and digest in self._state.blobs:
            if self._lease:
                self._state.leases[self._lease].add(digest)
            raise AlreadyExists(f"content {digest}: already exists", code="ALREADY_EXISTS")
        if ref in self._state.open_refs:
            raise IngestLocked(f"ref {ref} locked: unavailable", code="UNAVAILABLE")
        self._state.open_refs.add(ref)
        try:
            yield MemoryIngest(self._state, ref, digest, size, self._lease)
        finally:
            self._state.open_refs.discard(ref)

    def set_labels(self, digest: Digest, labels: Mapping[str, str]) -> None:
        self._get(digest)
        merged = {**self._state.labels.get(digest, {}), **labels}
        self._state.labels[digest] = {key: value for key, value in merged.items() if value}

    def delete(self, digest: Digest) -> None:
        self._get(digest)
        del self._state.blobs[digest]

    def ingests(self) -> Sequence[IngestStatus]:
        return [IngestStatus(ref=ref, offset=len(data), total=0) for ref, data in self._state.ingests.items()]

    def abort(self, ref: str) -> None:
        self._state.ingests.pop(ref, None)


class MemoryImages:
    """The image service."""

    def __init__(self, state: State) -> None:
        self._state = state

    def get(self, name: str) -> ImageRecord:
        if name not in self._state.images:
            raise ImageNotFound(f'image "{name}": not found', kind="image", name=name)
        return self._state.images[name]

    def list(self, filters: Sequence[str] = ()) -> Sequence[ImageRecord]:
        records = tuple(self._state.images.values())
        return tuple(item for item in records if is_chosen(filters, item.name, item.target.digest))

    def create(self, image: ImageRecord) -> ImageRecord:
        if image.name in self._state.images:
            raise AlreadyExists(f'image "{image.name}": already exists', code="ALREADY_EXISTS")
        self._state.images[image.name] = image
        return image

    def update(self, image: ImageRecord, *, fields: Sequence[str]) -> ImageRecord:
        current = self.get(image.name)
        labels = dict(image.labels) if "labels" in fields else dict(current.labels)
        for field in fields:
            if field.startswith("labels."):
                key = field.removeprefix("labels.")
                labels[key] = image.labels.get(key, "")
        target = image.target if "target" in fields else current.target
        kept = {key: value for key, value in labels.items() if value}
        self._state.images[image.name] = msgspec.structs.replace(current, target=target, labels=kept)
        return self._state.images[image.name]

    def delete(self, name: str, *, sync: bool = False) -> None:
        self.get(name)
        del self._state.images[name]
        if sync:
            self._state.collect()


class MemorySnapshots:
    """The snapshots service; nothing is mounted."""

    def __init__(self, state: State) -> None:
        self._state = state

    def stat(self, snapshotter: str, name: str) -> SnapshotInfo:
        if (snapshotter, name) not in self._state.snapshots:
            raise NotFound(f"snapshot {name} does not exist: not found", kind="snapshot", name=name)
        return self._state.snapshots[snapshotter, name]

    def prepare(
        self, snapshotter: str, key: str, parent: str, labels: Mapping[str, str] | None = None
    ) -> Sequence[Mount]:
        if parent:
            self.stat(snapshotter, parent)
        self._add(snapshotter, SnapshotInfo(name=key, parent=parent, kind="active", labels=labels or {}))
        return (Mount(type="memory", source=key),)

    def commit(self, snapshotter: str, name: str, key: str, labels: Mapping[str, str] | None = None) -> None:
        active = self.stat(snapshotter, key)
        made = SnapshotInfo(name=name, parent=active.parent, kind="committed", labels=labels or {})
        self._add(snapshotter, made)
        del self._state.snapshots[snapshotter, key]

    def _add(self, snapshotter: str, made: SnapshotInfo) -> None:
        if (snapshotter, made.name) in self._state.snapshots:
            raise AlreadyExists(f"snapshot {made.name}: already exists", code="ALREADY_EXISTS")
        self._state.snapshots[snapshotter, made.name] = made

    def remove(self, snapshotter: str, key: str) -> None:
        self.stat(snapshotter, key)
        del self._state.snapshots[snapshotter, key]

    def list(self, snapshotter: str) -> Iterator[SnapshotInfo]:
        return (info for (owner, _), info in tuple(self._state.snapshots.items()) if owner == snapshotter)


class MemoryDiffs:
    """The diff service: applies plain and gzip layers to nowhere."""

    def __init__(self, state: State) -> None:
        self._state = state

    def apply(self, descriptor: Descriptor, mounts: Sequence[Mount]) -> Descriptor:
        data = self._state.blobs[descriptor.digest]
        if descriptor.media_type.endswith("gzip"):
            data = gzip.decompress(data)
        elif descriptor.media_type.endswith("zstd"):
            raise Unsupported("no stream processor for zstd in memory", code="UNIMPLEMENTED")
        return Descriptor(
            media_type="application/vnd.oci.image.layer.v1.tar", digest=Digest.of(data), size=len(data)
        )


class MemoryStore:
    """A namespace; `state` is what all views of it share."""

    def __init__(self, state: State | None = None, lease: str = "") -> None:
        self.state = state or State()
        self._lease = lease
        self.content = MemoryContent(self.state, lease)
        self.images = MemoryImages(self.state)
        self.snapshots = MemorySnapshots(self.state)
        self.diffs = MemoryDiffs(self.state)

    @property
    def namespace(self) -> str:
        return "default"

    def check_open(self) -> None:
        pass

    def default_snapshotter(self) -> str:
        return "memory"

    @contextmanager
    def lease(self, purpose: str, *, resumable: bool = False) -> Iterator[MemoryStore]:
        """Open a lease; inside one, give the same view again, as the daemon does."""
        if self._lease:
            yield self
            return
        name = f"{purpose}-{next(self.state.lease_ids)}"
        self.state.leases[name] = set()
        try:
            yield MemoryStore(self.state, name)
        except BaseException as error:
            if not resumable or isinstance(error, Exception):
                del self.state.leases[name]
            raise
        del self.state.leases[name]

    def hold_everything(self) -> None:
        if self._lease:
            self.state.leases[self._lease] |= set(self.state.blobs)

    def collect_garbage(self) -> None:
        self.state.collect()

    def put(self, blobs: Mapping[str, bytes], *, without: Collection[str] = ()) -> None:
        """Put blobs in by their digests, as they are: nothing is checked, nothing labelled."""
        self.state.blobs.update(
            (Digest(digest), data) for digest, data in blobs.items() if digest not in without
        )

    def tag(self, name: str, root: Mapping[str, object]) -> ImageRecord:
        """Make an image record whose target is a descriptor given as a JSON object."""
        kept = {key: value for key, value in root.items() if key != "platform"}
        target = msgspec.convert(kept, Descriptor, dec_hook=lambda kind, value: kind(value))
        self.state.images[name] = ImageRecord(name=name, target=target)
        return self.state.images[name]

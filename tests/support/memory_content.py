"""The content service of the in-memory Containerd, and the state behind all of its services."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from pyctrd.errors import (
    AlreadyExists,
    ContentError,
    DaemonError,
    DigestMismatch,
    FailedPrecondition,
    IngestLocked,
    NotFound,
)
from pyctrd.oci import mediatypes
from pyctrd.oci.model import (
    ContentInfo,
    Descriptor,
    Digest,
    ImageRecord,
    IngestStatus,
    SnapshotInfo,
)
from pyctrd.oci.resources import (
    Container,
)
from pyctrd.ports import SmallBlob
from tests.support.filters import is_chosen

CHUNK = 1 << 20


@dataclass(frozen=True)
class Resource:
    """A resource of a lease: `kind` is content, ingests or snapshots/<snapshotter>."""

    kind: str
    name: str


@dataclass
class Unfinished:
    """The bytes of an unfinished write. Expiry after a day without a lease is not implemented."""

    data: bytearray
    total: int = 0
    expected: str = ""
    leased: bool = False


class State:
    """The state shared by all views of a namespace; tests may read and change it."""

    def __init__(self) -> None:
        self.blobs: dict[Digest, bytes] = {}
        self.labels: dict[Digest, dict[str, str]] = {}
        self.ingests: dict[str, Unfinished] = {}
        self.open_refs: set[str] = set()
        self.images: dict[str, ImageRecord] = {}
        self.snapshots: dict[tuple[str, str], SnapshotInfo] = {}
        self.leases: dict[str, set[Resource]] = {}
        self.lease_labels: dict[str, Mapping[str, str]] = {}
        self.containers: dict[str, Container] = {}
        self.others: dict[str, State] = {}
        self.own_labels: Mapping[str, str] = {}
        self.can_rebase = True
        self.lease_ids = itertools.count(1)

    def hold(self, lease: str, kind: str, name: str) -> None:
        """Add a resource to the lease, if there is one."""
        if lease:
            self.leases[lease].add(Resource(kind, name))

    def collect(self) -> None:
        """Remove what is not reachable from an image or a lease (containerd core/metadata/gc.go)."""
        reached = set[Resource]()
        queue = [Resource("content", record.target.digest) for record in self.images.values()]
        queue += [resource for held in self.leases.values() for resource in held]
        queue += [Resource(f"snapshots/{it.snapshotter}", it.snapshot_key) for it in self.containers.values()]
        while queue:
            resource = queue.pop()
            if resource not in reached:
                reached.add(resource)
                queue += self.refers_to(resource)
        for digest in [digest for digest in self.blobs if Resource("content", digest) not in reached]:
            self.remove_blob(digest)
        for ref in [ref for ref, one in self.ingests.items() if one.leased]:
            if Resource("ingests", ref) not in reached:
                del self.ingests[ref]
        for snapshotter, name in tuple(self.snapshots):
            if Resource(f"snapshots/{snapshotter}", name) not in reached:
                del self.snapshots[snapshotter, name]

    def remove_blob(self, digest: Digest) -> None:
        """Remove a blob, and its labels with it."""
        del self.blobs[digest]
        self.labels.pop(digest, None)

    def refers_to(self, resource: Resource) -> Iterator[Resource]:
        """List the resources that this one refers to: by gc labels of content, or as a snapshot's parent."""
        if resource.kind == "content":
            for key, value in self.labels.get(Digest(resource.name), {}).items():
                if key.startswith(mediatypes.GC_REF):
                    yield Resource("content", value)
                elif key.startswith(mediatypes.GC_REF_SNAPSHOT):
                    snapshotter = key.removeprefix(mediatypes.GC_REF_SNAPSHOT).partition("/")[0]
                    yield Resource(f"snapshots/{snapshotter}", value)
            return
        snapshot = self.snapshots.get((resource.kind.removeprefix("snapshots/"), resource.name))
        if snapshot is not None and snapshot.parent:
            yield Resource(resource.kind, snapshot.parent)


class MemoryIngest:
    """An open write."""

    def __init__(self, state: State, ref: str, digest: Digest | None, size: int, lease: str) -> None:
        self._state, self._ref, self._digest, self._size, self._lease = state, ref, digest, size, lease
        new = Unfinished(bytearray(), total=size, expected=digest or "", leased=bool(lease))
        self._data = state.ingests.setdefault(ref, new).data
        state.hold(lease, "ingests", ref)

    @property
    def offset(self) -> int:
        return len(self._data)

    def write(self, data: bytes) -> None:
        self._data += data

    def commit(self, digest: Digest | None = None, labels: Mapping[str, str] | None = None) -> None:
        self._digest = digest or self._digest
        assert self._digest is not None
        data = bytes(self._data)
        if len(data) != self._size:
            raise self._refused(f'"{self._ref}" failed size validation: {len(data)} != {self._size}')
        actual = Digest.of(data, self._digest.algorithm)
        if actual != self._digest:
            raise self._refused(f"unexpected commit digest {actual}, expected {self._digest}")
        self._state.ingests.pop(self._ref, None)
        if self._digest in self._state.blobs:  # committed by another client: not under our lease
            raise exists("content", self._digest, f"blob with expected digest {self._digest} exists")
        self._state.blobs[self._digest] = data
        self._state.labels[self._digest] = dict(labels or {})
        self._state.hold(self._lease, "content", self._digest)

    def _refused(self, message: str) -> FailedPrecondition:
        name = self._digest or ""
        return FailedPrecondition(message, code="FAILED_PRECONDITION", kind="content", name=name)


class MemoryContent:
    """The content service."""

    stall_seconds = 60.0

    def __init__(self, state: State, lease: str) -> None:
        self._state = state
        self._lease = lease

    def info(self, digest: Digest) -> ContentInfo:
        data = self._get(digest)
        return ContentInfo(digest=digest, size=len(data), labels=dict(self._state.labels.get(digest, {})))

    def infos(self, digests: Collection[Digest]) -> Mapping[Digest, ContentInfo]:
        return {digest: self.info(digest) for digest in digests if digest in self._state.blobs}

    def list(self, filters: Sequence[str] = ()) -> Iterator[ContentInfo]:
        found = [self.info(digest) for digest in tuple(self._state.blobs)]
        return (info for info in found if is_chosen(filters, {"digest": info.digest}, info.labels))

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
        actual = Digest.of(data, digest.algorithm)
        if actual != digest:  # a test has damaged it
            raise DigestMismatch(f"unexpected digest {actual}", expected=digest, actual=actual)
        return data

    def read_several(self, documents: Iterable[Descriptor]) -> Iterator[tuple[Digest, bytes]]:
        for document in documents:
            with suppress(ContentError, NotFound):
                yield document.digest, self.read_all(document.digest, limit=1 << 20)

    def _get(self, digest: Digest) -> bytes:
        if digest not in self._state.blobs:
            raise NotFound(f"content digest {digest}: not found", kind="content", name=digest)
        return self._state.blobs[digest]

    @contextmanager
    def open_ingest(
        self, ref: str, *, digest: Digest | None, size: int, expected: bool = True
    ) -> Iterator[MemoryIngest]:
        if expected and digest is not None and digest in self._state.blobs:
            self._state.hold(self._lease, "content", digest)
            raise exists("content", digest, f"content {digest}: already exists")
        if ref in self._state.open_refs:
            raise IngestLocked(f"ref {ref} locked: unavailable", code="UNAVAILABLE", kind="ingest", name=ref)
        self._state.open_refs.add(ref)
        try:
            yield MemoryIngest(self._state, ref, digest, size, self._lease)
        finally:
            self._state.open_refs.discard(ref)

    def write_small(self, blobs: Iterable[SmallBlob]) -> Iterator[bool]:
        for blob in blobs:
            try:
                with self.open_ingest(blob.ref, digest=blob.digest, size=len(blob.data)) as ingest:
                    self._state.ingests[blob.ref].data.clear()
                    ingest.write(blob.data)
                    ingest.commit()
                    self._state.labels.setdefault(blob.digest, {}).update(blob.labels)
            except FailedPrecondition:
                self.abort(blob.ref)
                yield False
            except DaemonError:
                yield False
            else:
                yield True

    def set_labels(self, digest: Digest, labels: Mapping[str, str]) -> None:
        self._get(digest)
        merged = {**self._state.labels.get(digest, {}), **labels}
        self._state.labels[digest] = {key: value for key, value in merged.items() if value}

    def delete(self, digest: Digest) -> None:
        self._get(digest)
        self._state.remove_blob(digest)

    def ingests(self) -> Sequence[IngestStatus]:
        return tuple(
            IngestStatus(ref=ref, offset=len(one.data), total=one.total, expected=one.expected)
            for ref, one in self._state.ingests.items()
        )

    def abort(self, ref: str) -> None:
        self._state.ingests.pop(ref, None)


def exists(kind: str, name: str, message: str) -> AlreadyExists:
    return AlreadyExists(message, code="ALREADY_EXISTS", kind=kind, name=name)

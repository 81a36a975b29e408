"""The protocols that operations use to access registries and containerd.

A remote yields the bytes of a descriptor from an offset; a store has content, image records, snapshots and
leases. containerd/ and registry/ implement them; steps and operations depend on the protocols only.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Literal, NamedTuple, Protocol, TypeAlias

from pyctrd.errors import PyctrdError
from pyctrd.oci.model import (
    ContentInfo,
    Descriptor,
    Digest,
    ImageRecord,
    IngestStatus,
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

# Bytes, or a view of a larger message, which avoids a copy.
Chunk: TypeAlias = bytes | memoryview


# --- the remote side --------------------------------------------------------------------------------------


class RepositoryName(Protocol):
    """The name of a remote repository."""

    @property
    def host(self) -> str:
        """The registry's host[:port], as the reference names it."""

    @property
    def repository(self) -> str:
        """The repository's path, e.g. `library/alpine`."""


class Fetcher(RepositoryName, Protocol):
    """Yields bytes of content from one remote repository."""

    def fetch(self, descriptor: Descriptor, offset: int = 0) -> AbstractContextManager[Iterator[bytes]]:
        """Open the content of a descriptor at a byte offset.

        The iterator yields the bytes from `offset` to the end, in chunks of at most 1 MiB, and never more
        than `descriptor.size - offset` bytes. It reconnects if the connection is cut. Raises RegistryError.
        """


# Returns the repositories to fetch an image's content from; called only when something is missing.
Fetchers: TypeAlias = Callable[[ImageRecord], Sequence[Fetcher]]


class ReferrerSource(RepositoryName, Protocol):
    """Lists the referrers of manifests in one remote repository."""

    def referrers(self, subject: Digest) -> Sequence[Descriptor]:
        """Return the manifests whose subject is a digest, as the registry lists them.

        Raises RegistryError.
        """


# Returns the repositories to ask for the referrers of an image's manifests.
ReferrerSources: TypeAlias = Callable[[ImageRecord], Sequence[ReferrerSource]]


class Remote(Fetcher, Protocol):
    """A repository that a reference names, with the reference's tag or digest."""

    def resolve(self) -> Descriptor:
        """Ask the registry what the reference points at: media type, digest, size.

        Raises NotFound if the registry does not know the reference, RegistryError otherwise.
        """


class BlobSource(Protocol):
    """The bytes of a blob to upload."""

    def open(self, offset: int) -> AbstractContextManager[Iterator[Chunk]]:
        """Open the bytes from an offset to the end, in chunks of at most 1 MiB."""

    def wrong(self, text: str) -> PyctrdError:
        """Return the error for bytes that do not match the descriptor."""


class Uploader(RepositoryName, Protocol):
    """Uploads content to one remote repository."""

    def has(self, descriptor: Descriptor) -> bool:
        """Ask whether the repository has a blob or a manifest. Raises RegistryError."""

    def tagged(self, tag: str) -> Digest | None:
        """Ask which digest a tag points at; None if there is no such tag, or the registry does not say."""

    def upload(
        self,
        descriptor: Descriptor,
        source: BlobSource,
        *,
        mount_from: str = "",
        report: Callable[[int], None] = lambda _sent: None,
    ) -> Literal["uploaded", "mounted"]:
        """Upload a blob, or mount it from another repository of the registry that has it.

        The bytes are hashed on the way, and the last byte is sent only if the digest matches. `report` is
        called with the offset. Raises RegistryError, and the errors of the source.
        """

    def put(self, descriptor: Descriptor, raw: bytes, tag: str = "") -> None:
        """Store a manifest or an index under its digest, or under a tag. Raises RegistryError."""


# --- the local side ---------------------------------------------------------------------------------------


class Ingest(Protocol):
    """An open write to the content store (containerd content service, Write stream)."""

    @property
    def offset(self) -> int:
        """How many bytes the store has; writing continues there."""

    def write(self, data: bytes) -> None:
        """Append bytes at the offset."""

    def commit(self, digest: Digest | None = None, labels: Mapping[str, str] | None = None) -> None:
        """Turn the ingest into content; `digest` is needed if it was unknown when the write was opened.

        Raises AlreadyExists if another client has committed the blob in the meantime: the blob is added to
        the current lease only when it is opened again. Raises FailedPrecondition if the size or the digest is
        not the expected one.
        """


class SmallBlob(NamedTuple):
    """A blob that fits into one message: the name of its ingest, its bytes, and labels."""

    ref: str
    digest: Digest
    data: bytes
    labels: Mapping[str, str]


class ContentStore(Protocol):
    """containerd's content service in one namespace."""

    @property
    def stall_seconds(self) -> float:
        """After how many seconds without progress an operation is aborted."""

    def info(self, digest: Digest) -> ContentInfo:
        """Return a blob's size and labels. Raises NotFound (`content digest ...: not found`)."""

    def infos(self, digests: Collection[Digest]) -> Mapping[Digest, ContentInfo]:
        """Return the blobs of these that exist, in few or pipelined calls."""

    def list(self, filters: Sequence[str] = ()) -> Iterator[ContentInfo]:
        """Yield the blobs that match any of the filters (containerd filter syntax)."""

    def read(
        self, digest: Digest, *, offset: int = 0, size: int = 0
    ) -> AbstractContextManager[Iterator[Chunk]]:
        """Open a blob at an offset, in chunks of at most 1 MiB. `size` 0 means to the end."""

    def read_all(self, digest: Digest, *, limit: int) -> bytes:
        """Return a whole blob. Raises ContentError if it is larger than `limit` bytes, NotFound."""

    def read_several(self, documents: Iterable[Descriptor]) -> Iterator[tuple[Digest, bytes]]:
        """Yield small documents by digest, many of them requested at a time.

        Leaves out what is large or cannot be read: `read_all` reads it, or says why.
        """

    def open_ingest(
        self, ref: str, *, digest: Digest | None, size: int, expected: bool = True
    ) -> AbstractContextManager[Ingest]:
        """Open a write of a blob of known size in bytes; leaving the context closes the stream.

        With `expected` false, or no digest, the store learns the digest only at the commit, so it opens the
        write even if it already has the blob.

        An ingest that is not committed stays, to be resumed later. Raises AlreadyExists if the namespace has
        the blob (which is then added to the current lease), IngestLocked while another client writes it.
        """

    def write_small(self, blobs: Iterable[SmallBlob]) -> Iterator[bool]:
        """Store small blobs with their labels, in order, with several requests ahead.

        Yields whether each was stored: if not, `open_ingest` gives the reason.
        """

    def set_labels(self, digest: Digest, labels: Mapping[str, str]) -> None:
        """Set labels without changing the others; an empty value removes a label. Raises NotFound."""

    def delete(self, digest: Digest) -> None:
        """Delete a blob from the namespace. Raises NotFound."""

    def ingests(self) -> Sequence[IngestStatus]:
        """Return the unfinished writes."""

    def abort(self, ref: str) -> None:
        """Discard an unfinished write, if it exists."""


class ImageStore(Protocol):
    """containerd's image service in one namespace."""

    def get(self, name: str) -> ImageRecord:
        """Return the record with exactly this name. Raises NotFound (`image "...": not found`)."""

    def get_several(self, names: Collection[str]) -> Mapping[str, ImageRecord]:
        """Return the records with exactly these names that exist, in pipelined calls."""

    def list(self, filters: Sequence[str] = ()) -> Sequence[ImageRecord]:
        """Return the records that match any of the filters."""

    def create(self, image: ImageRecord) -> ImageRecord:
        """Create a record. Raises AlreadyExists."""

    def update(self, image: ImageRecord, *, fields: Sequence[str]) -> ImageRecord:
        """Update the named fields (`target`, `labels`, `labels.<key>`) of a record. Raises NotFound."""

    def delete(self, name: str, *, sync: bool = False) -> None:
        """Delete a record; `sync` waits for a run of the garbage collector. Raises NotFound."""


class SnapshotStore(Protocol):
    """containerd's snapshots service; an empty `snapshotter` means the default one."""

    def stat(self, snapshotter: str, name: str) -> SnapshotInfo:
        """Return a snapshot. Raises NotFound."""

    def prepare(
        self, snapshotter: str, key: str, parent: str, labels: Mapping[str, str] | None = None
    ) -> Sequence[Mount]:
        """Create an active snapshot and return its mounts. Raises AlreadyExists."""

    def can_rebase(self, snapshotter: str) -> bool:
        """Whether a snapshot without parent can get one at the commit, and can be extracted before."""

    def commit(
        self,
        snapshotter: str,
        name: str,
        key: str,
        labels: Mapping[str, str] | None = None,
        *,
        parent: str = "",
    ) -> None:
        """Commit the active snapshot `key` as `name`. Raises AlreadyExists.

        A snapshot without parent gets `parent`, if the snapshotter can rebase. Raises NotFound if it does not
        exist.
        """

    def remove(self, snapshotter: str, key: str) -> None:
        """Remove a snapshot. Raises NotFound."""

    def list(self, snapshotter: str, filters: Sequence[str] = ()) -> Iterator[SnapshotInfo]:
        """Yield the snapshots of a snapshotter in this namespace that match any of the filters."""

    def usage(self, snapshotter: str, name: str) -> SnapshotUsage:
        """Return the disk space of one snapshot, without its parents. Raises NotFound."""

    def mounts(self, snapshotter: str, key: str) -> Sequence[Mount]:
        """Return the mounts of an active snapshot or a view. Raises NotFound."""


class DiffService(Protocol):
    """containerd's diff service."""

    def apply(self, descriptor: Descriptor, mounts: Sequence[Mount]) -> Descriptor:
        """Unpack a layer onto mounts; return the descriptor of its uncompressed form (digest = diff id)."""


class Store(Protocol):
    """One containerd namespace, optionally under a lease."""

    @property
    def namespace(self) -> str: ...
    @property
    def content(self) -> ContentStore: ...
    @property
    def images(self) -> ImageStore: ...
    @property
    def snapshots(self) -> SnapshotStore: ...
    @property
    def diffs(self) -> DiffService: ...

    def check_open(self) -> None:
        """Raise Cancelled or ClientClosed if the operation has to stop; to be called while waiting."""

    def default_snapshotter(self) -> str:
        """Return the name of the default snapshotter."""

    def lease(self, purpose: str, *, resumable: bool = False) -> AbstractContextManager[Store]:
        """Create a lease that expires after 24 hours; the context manager returns this store under it.

        The garbage collector does not remove what is written or opened through that store until the context
        is left, which deletes the lease. If `resumable` work is interrupted, the lease is kept until it
        expires, so that the next run can resume. `purpose` is the command, stored in a label.
        """

    def pin(self, digests: Collection[Digest]) -> None:
        """Protect these blobs, with few writes for many, until the lease of this store ends.

        Those that do not exist are protected as soon as they do: look them up afterwards. Does nothing
        without a lease.
        """

    def pin_everything(self) -> None:
        """Add all content of the namespace, and what its gc labels keep, to the lease of this store.

        Does nothing without a lease.
        """

    def collect_garbage(self) -> None:
        """Run the garbage collector and wait for it."""


class LeaseStore(Protocol):
    """containerd's leases service in one namespace."""

    def create(self, lease_id: str, labels: Mapping[str, str]) -> Lease:
        """Create a lease. Raises AlreadyExists."""

    def delete(self, lease_id: str, *, sync: bool = False) -> None:
        """Delete a lease; `sync` waits for a run of the garbage collector. Raises NotFound."""

    def list(self, filters: Sequence[str] = ()) -> Sequence[Lease]:
        """Return the leases that match any of the filters."""

    def add(self, lease_id: str, resource: LeaseResource) -> None:
        """Add an object to a lease; adding it again does nothing. Raises NotFound."""

    def remove(self, lease_id: str, resource: LeaseResource) -> None:
        """Remove an object from a lease. Raises NotFound if there is no such lease."""

    def resources(self, lease_id: str) -> Sequence[LeaseResource]:
        """Return the objects that a lease protects. Raises NotFound."""


class ContainerStore(Protocol):
    """containerd's containers service in one namespace."""

    def list(self, filters: Sequence[str] = ()) -> Sequence[Container]:
        """Return the containers that match any of the filters."""


class NamespaceStore(Protocol):
    """containerd's namespaces service."""

    def list(self) -> Sequence[Namespace]:
        """Return all namespaces."""

    def create(self, name: str, labels: Mapping[str, str] | None = None) -> Namespace:
        """Create a namespace. Raises AlreadyExists."""

    def set_labels(self, name: str, labels: Mapping[str, str]) -> None:
        """Set labels without changing the others; an empty value removes a label. Raises NotFound."""

    def delete(self, name: str) -> None:
        """Delete an empty namespace. Raises NotFound, FailedPrecondition if it is not empty."""


class Introspection(Protocol):
    """containerd's introspection service."""

    def plugins(self, filters: Sequence[str] = ()) -> Sequence[Plugin]:
        """Return the plugins that match any of the filters."""


class Containerd(Store, Protocol):
    """One namespace of a containerd, with all of its services."""

    @property
    def leases(self) -> LeaseStore: ...
    @property
    def containers(self) -> ContainerStore: ...
    @property
    def namespaces(self) -> NamespaceStore: ...
    @property
    def introspection(self) -> Introspection: ...

    def version(self) -> DaemonVersion:
        """Return the version of containerd."""

    def snapshotters(self) -> Sequence[str]:
        """Return the names of the loaded snapshotters."""

    def in_namespace(self, namespace: str) -> Containerd:
        """Return another namespace of the same containerd."""

    def under_lease(self, lease_id: str) -> Containerd:
        """Return this namespace under an existing lease, which gets what is written or opened through it."""

"""The protocols through which operations reach registries and containerd.

A remote yields the bytes of a descriptor from an offset; a store keeps content, image records, snapshots and
leases. containerd/ and registry/ implement them; steps and operations know the protocols only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Literal, Protocol, TypeAlias

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

# Bytes that may be a view of a larger message, to avoid copies.
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
        than `descriptor.size - offset` bytes. A cut connection is resumed within. Raises RegistryError.
        """


# Returns the repositories to fetch an image's content from; called only when something is missing.
Fetchers: TypeAlias = Callable[[ImageRecord], Sequence[Fetcher]]


class Remote(Fetcher, Protocol):
    """A repository that a reference names, with the reference's tag or digest."""

    def resolve(self) -> Descriptor:
        """Ask the registry what the reference points at: media type, digest, size.

        Raises NotFound when the registry does not know it, RegistryError otherwise.
        """


class BlobSource(Protocol):
    """The bytes of a blob, to be uploaded."""

    def open(self, offset: int) -> AbstractContextManager[Iterator[Chunk]]:
        """Open the bytes from an offset to the end, in chunks of at most 1 MiB."""

    def wrong(self, text: str) -> PyctrdError:
        """Return the error for bytes that do not match the descriptor."""


class Uploader(RepositoryName, Protocol):
    """Takes content into one remote repository."""

    def has(self, descriptor: Descriptor) -> bool:
        """Ask whether the repository has a blob or a manifest. Raises RegistryError."""

    def tagged(self, tag: str) -> Digest | None:
        """Ask what a tag names; None where there is no such tag, or the registry does not say."""

    def upload(
        self,
        descriptor: Descriptor,
        source: BlobSource,
        *,
        mount_from: str = "",
        report: Callable[[int], None] = lambda _sent: None,
    ) -> Literal["uploaded", "mounted"]:
        """Upload a blob, or mount it from another repository of the registry that has it.

        Bytes are hashed while they are sent, and the last one is not sent unless the digest matches.
        `report` is called with the offset. Raises RegistryError, and the errors of the source.
        """

    def put(self, descriptor: Descriptor, raw: bytes, tag: str = "") -> None:
        """Store a manifest or an index under its digest, or under a tag. Raises RegistryError."""


# --- the local side ---------------------------------------------------------------------------------------


class Ingest(Protocol):
    """An open write to the content store (containerd content service, Write stream)."""

    @property
    def offset(self) -> int:
        """How many bytes the store has; writing goes on there."""

    def write(self, data: bytes) -> None:
        """Append bytes at the offset."""

    def commit(self) -> None:
        """Make the ingest content.

        Raises AlreadyExists when somebody else has finished the blob meanwhile: it is not under the lease in
        force before it is opened once more. Raises FailedPrecondition when size or digest is not the
        expected one.
        """


class ContentStore(Protocol):
    """containerd's content service in one namespace."""

    @property
    def stall_seconds(self) -> float:
        """How long something may stall before it is aborted."""

    def info(self, digest: Digest) -> ContentInfo:
        """Return a blob's size and labels; raises NotFound (`content digest ...: not found`)."""

    def list(self, filters: Sequence[str] = ()) -> Iterator[ContentInfo]:
        """List blobs that match any of the filters (containerd filter syntax)."""

    def read(
        self, digest: Digest, *, offset: int = 0, size: int = 0
    ) -> AbstractContextManager[Iterator[Chunk]]:
        """Open a blob's bytes from an offset; `size` 0 is to the end. Chunks are of at most 1 MiB."""

    def read_all(self, digest: Digest, *, limit: int) -> bytes:
        """Read a small blob whole; raises ContentError above `limit` bytes, NotFound when absent."""

    def open_ingest(
        self, ref: str, *, digest: Digest, size: int, expected: bool = True
    ) -> AbstractContextManager[Ingest]:
        """Open a write of a blob of known digest and size in bytes; leaving the context closes the stream.

        Without `expected` the store gets the digest with the commit only, so that it opens the write even if
        it has such a blob already.

        An ingest that was not committed stays for a later resume. Raises AlreadyExists when the namespace
        has the blob (a lease in force has it then, too), IngestLocked while somebody else writes it.
        """

    def set_labels(self, digest: Digest, labels: Mapping[str, str]) -> None:
        """Set labels, leaving all others alone; an empty value removes one. Raises NotFound."""

    def delete(self, digest: Digest) -> None:
        """Delete a blob from the namespace; raises NotFound."""

    def ingests(self) -> Sequence[IngestStatus]:
        """List the unfinished writes."""

    def abort(self, ref: str) -> None:
        """Discard an unfinished write, if it exists."""


class ImageStore(Protocol):
    """containerd's image service in one namespace."""

    def get(self, name: str) -> ImageRecord:
        """Return the record of exactly this name; raises NotFound (`image "...": not found`)."""

    def list(self, filters: Sequence[str] = ()) -> Sequence[ImageRecord]:
        """List records that match any of the filters."""

    def create(self, image: ImageRecord) -> ImageRecord:
        """Create a record; raises AlreadyExists."""

    def update(self, image: ImageRecord, *, fields: Sequence[str]) -> ImageRecord:
        """Update the named fields (`target`, `labels`, `labels.<key>`) of a record; raises NotFound."""

    def delete(self, name: str, *, sync: bool = False) -> None:
        """Delete a record; with `sync` the garbage collector has run when this returns. Raises NotFound."""


class SnapshotStore(Protocol):
    """containerd's snapshots service; `snapshotter` empty is the server's default."""

    def stat(self, snapshotter: str, name: str) -> SnapshotInfo:
        """Return a snapshot; raises NotFound."""

    def prepare(
        self, snapshotter: str, key: str, parent: str, labels: Mapping[str, str] | None = None
    ) -> Sequence[Mount]:
        """Make an active snapshot; raises AlreadyExists."""

    def commit(self, snapshotter: str, name: str, key: str, labels: Mapping[str, str] | None = None) -> None:
        """Turn the active snapshot `key` into the committed `name`; raises AlreadyExists."""

    def remove(self, snapshotter: str, key: str) -> None:
        """Remove a snapshot; raises NotFound."""

    def list(self, snapshotter: str) -> Iterator[SnapshotInfo]:
        """List a snapshotter's snapshots in this namespace."""


class DiffService(Protocol):
    """containerd's diff service."""

    def apply(self, descriptor: Descriptor, mounts: Sequence[Mount]) -> Descriptor:
        """Unpack a layer onto mounts; returns the descriptor of its uncompressed form (digest = diff id)."""


class Store(Protocol):
    """One containerd namespace, perhaps through a lease."""

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
        """Raise Cancelled or ClientClosed when the work is to end; to be called while waiting."""

    def default_snapshotter(self) -> str:
        """Return the name of the default snapshotter."""

    def lease(self, purpose: str, *, resumable: bool = False) -> AbstractContextManager[Store]:
        """Open a lease that expires by itself after 24 hours; the context returns this store through it.

        Everything written or touched through that store is safe from the garbage collector until the
        context is left, which deletes the lease; only after an interrupt of `resumable` work it is kept until
        it expires, so that the next run can resume. `purpose` is the command, kept as a label.
        """

    def pin_everything(self) -> None:
        """Add all content of the namespace, and all that its gc labels keep, to the lease of this store.

        Without a lease this does nothing.
        """

    def collect_garbage(self) -> None:
        """Run the garbage collector, and wait for it."""

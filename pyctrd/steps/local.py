"""LocalImage: what the store has of an image, with a cache for the length of one operation."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Final, TypeAlias

from pyctrd.errors import AlreadyExists, NotFound
from pyctrd.oci import graph, mediatypes, platforms
from pyctrd.oci.model import ContentInfo, Descriptor, Digest, IngestStatus, Platform
from pyctrd.oci.platforms import Targets
from pyctrd.ports import (
    Chunk,
    ContentStore,
    DiffService,
    Fetcher,
    ImageStore,
    Ingest,
    SmallBlob,
    SnapshotStore,
    Store,
)
from pyctrd.steps.fetch import from_first, is_present
from pyctrd.steps.targets import PlatformCheck
from pyctrd.steps.validate import Validator

# The total size of cached documents; real images have much less.
_MAX_DOCUMENT_BYTES: Final = 16 << 20
_CHUNK_BYTES: Final = 1 << 20
_Opened: TypeAlias = AbstractContextManager[Iterator[Chunk]]


class RememberedContent:
    """A content store with a cache, for the length of one operation. Implements ports.ContentStore.

    Asks the real store once for each blob, and again for what is written through this one.
    """

    def __init__(self, content: ContentStore) -> None:
        self._content = content
        self._infos: dict[Digest, ContentInfo | NotFound] = {}
        self._documents: dict[Digest, bytes] = {}
        self._bytes = 0

    @property
    def stall_seconds(self) -> float:
        return self._content.stall_seconds

    def info(self, digest: Digest) -> ContentInfo:
        found = self._infos.get(digest)
        if found is None:
            try:
                found = self._content.info(digest)
            except NotFound as error:
                found = error
            self._infos[digest] = found
        if isinstance(found, NotFound):
            raise NotFound(found.message, kind=found.kind, name=found.name)
        return found

    def infos(self, digests: Collection[Digest]) -> dict[Digest, ContentInfo]:
        unknown = [digest for digest in dict.fromkeys(digests) if digest not in self._infos]
        found = self._content.infos(unknown) if unknown else {}
        for digest in unknown:
            self._infos[digest] = found.get(digest) or _absent(digest)
        known = ((digest, self._infos[digest]) for digest in digests)
        return {digest: info for digest, info in known if not isinstance(info, NotFound)}

    def read_all(self, digest: Digest, *, limit: int) -> bytes:
        known = self._documents.get(digest)
        if known is not None and len(known) <= limit:
            return known
        if isinstance(self._infos.get(digest), NotFound):
            self.info(digest)  # raises
        raw = self._content.read_all(digest, limit=limit)
        self._remember(digest, raw)
        return raw

    def read_several(self, documents: Iterable[Descriptor]) -> Iterator[tuple[Digest, bytes]]:
        found = self._content.read_several(item for item in documents if item.digest not in self._documents)
        for digest, raw in found:
            self._remember(digest, raw)
            yield digest, raw

    def _remember(self, digest: Digest, raw: bytes) -> None:
        if digest not in self._documents and self._bytes + len(raw) <= _MAX_DOCUMENT_BYTES:
            self._bytes += len(raw)
            self._documents[digest] = raw

    def read_ahead(self, descriptors: Iterable[Descriptor]) -> None:
        """Put the documents among these into the cache, many at once; large and damaged ones are left out."""
        documents = (
            item
            for digest, item in graph.by_digest(descriptors).items()
            if (graph.has_children(item) or mediatypes.is_image_config(item.media_type))
            and not isinstance(self._infos.get(digest), NotFound)
        )
        for _ in self.read_several(documents):
            pass

    def in_order(self, blobs: Sequence[Descriptor]) -> Callable[[Digest], _Opened]:
        """Return a function that opens blobs, to be called in their order; small ones are read ahead."""
        rest = (item for item in blobs if item.digest not in self._documents)
        read = iter(self._content.read_several(rest))
        ahead = next(read, None)

        def opened(digest: Digest) -> _Opened:
            nonlocal ahead
            if ahead is None or ahead[0] != digest:
                return self.read(digest)
            _, data = ahead
            ahead = next(read, None)
            return nullcontext(iter((data,)))

        return opened

    def read(
        self, digest: Digest, *, offset: int = 0, size: int = 0
    ) -> AbstractContextManager[Iterator[Chunk]]:
        known = self._documents.get(digest)
        if known is not None and not offset and not size:
            return nullcontext(known[at : at + _CHUNK_BYTES] for at in range(0, len(known), _CHUNK_BYTES))
        return self._content.read(digest, offset=offset, size=size)

    @contextmanager
    def open_ingest(
        self, ref: str, *, digest: Digest | None, size: int, expected: bool = True
    ) -> Iterator[Ingest]:
        try:
            with self._content.open_ingest(ref, digest=digest, size=size, expected=expected) as ingest:
                if digest is not None:
                    self.forget(digest)
                yield ingest
        except AlreadyExists:
            if digest is not None and isinstance(self._infos.get(digest), NotFound):
                self.forget(digest)
            raise
        finally:
            if digest is None:  # any of the absent blobs may be the one that was written
                self.forget_absent()

    def write_small(self, blobs: Iterable[SmallBlob]) -> Iterator[bool]:
        def forgotten() -> Iterator[SmallBlob]:
            for blob in blobs:
                self.forget(blob.digest)
                yield blob

        return self._content.write_small(forgotten())

    def list(self, filters: Sequence[str] = ()) -> Iterator[ContentInfo]:
        return self._content.list(filters)

    def ingests(self) -> Sequence[IngestStatus]:
        return self._content.ingests()

    def abort(self, ref: str) -> None:
        self._content.abort(ref)

    def set_labels(self, digest: Digest, labels: Mapping[str, str]) -> None:
        self._infos.pop(digest, None)
        self._content.set_labels(digest, labels)

    def delete(self, digest: Digest) -> None:
        self.forget(digest)
        self._content.delete(digest)

    def forget(self, digest: Digest) -> None:
        """Drop a blob from the cache."""
        self._infos.pop(digest, None)
        self._bytes -= len(self._documents.pop(digest, b""))

    def forget_infos(self, digests: Iterable[Digest]) -> None:
        """Look these blobs up again."""
        for digest in digests:
            self._infos.pop(digest, None)

    @property
    def document_bytes(self) -> int:
        """The total size of the documents in the cache."""
        return self._bytes

    def shrink(self, limit: int) -> bool:
        """Empty the cache if its documents have more than `limit` bytes; return whether it was emptied."""
        if self._bytes <= limit:
            return False
        self._infos.clear()
        self._documents.clear()
        self._bytes = 0
        return True

    def forget_absent(self) -> None:
        """Drop all absent blobs from the cache, since something has been fetched."""
        self._infos = {key: info for key, info in self._infos.items() if not isinstance(info, NotFound)}


def _absent(digest: Digest) -> NotFound:
    return NotFound(f"content digest {digest}: not found", kind="content", name=digest)


class RememberedStore:
    """A store whose content is a RememberedContent. Implements ports.Store."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.content = RememberedContent(store.content)
        self._pinned = set[Digest]()

    @property
    def namespace(self) -> str:
        return self.store.namespace

    @property
    def images(self) -> ImageStore:
        return self.store.images

    @property
    def snapshots(self) -> SnapshotStore:
        return self.store.snapshots

    @property
    def diffs(self) -> DiffService:
        return self.store.diffs

    def check_open(self) -> None:
        self.store.check_open()

    def default_snapshotter(self) -> str:
        return self.store.default_snapshotter()

    def lease(self, purpose: str, *, resumable: bool = False) -> AbstractContextManager[Store]:
        return self.store.lease(purpose, resumable=resumable)

    def pin(self, digests: Collection[Digest]) -> None:
        """Protect these blobs once; what was known of them before may have changed."""
        new = set(digests) - self._pinned
        if new:
            self.store.pin(new)
            self._pinned |= new
            self.content.forget_infos(new)

    def pin_everything(self) -> None:
        self.store.pin_everything()

    def collect_garbage(self) -> None:
        self.store.collect_garbage()


class LocalImage:
    """What a store has of an image. Asks the store once for each blob.

    With `fetchers`, absent documents are read from a registry into memory.
    """

    def __init__(self, store: Store, target: Descriptor, fetchers: Sequence[Fetcher] = ()) -> None:
        known = store.content
        self._content = known if isinstance(known, RememberedContent) else RememberedContent(known)
        self._fetchers = fetchers
        self.target = target

    def read(self, descriptor: Descriptor) -> bytes:
        """Return an index, a manifest or a config.

        Raises NotFound if neither the store nor a registry has it, RegistryError, ContentError.
        """
        try:
            return self._content.read_all(descriptor.digest, limit=graph.size_limit(descriptor))
        except NotFound:
            if not self._fetchers:
                raise
            return from_first(
                self._fetchers, descriptor, lambda fetcher: Validator().fetch(fetcher, descriptor)
            )

    @property
    def children(self) -> graph.Children:
        """The step of a walk in which absent documents have no children."""
        return graph.tolerant(graph.read_children(self.read), lambda _missing: None, NotFound)

    def is_present(self, descriptor: Descriptor) -> bool:
        """Whether the store has a blob."""
        return is_present(self._content, descriptor)

    def missing(self, targets: Targets, narrow: graph.Narrow | None = None) -> tuple[Descriptor, ...]:
        """Return the missing content of the target platforms, in the order of the walk.

        Without fetchers, the children of an absent manifest are unknown and not included. `narrow` is used
        to leave out content instead of the targets' matcher. Raises NoMatchingPlatform, RegistryError,
        ContentError, DaemonError.
        """
        required = PlatformCheck(self.target, targets.required)
        step = required.watch(self.children)
        step = narrow(step) if narrow else graph.only_platforms(step, targets.matcher)
        found = self.missing_below(self.target, step)
        if self._fetchers or not any(mediatypes.is_index(item.media_type) for item in found):
            required.check()  # an absent index may have any platform
        return found

    def missing_below(self, root: Descriptor, step: graph.Children) -> tuple[Descriptor, ...]:
        """Return the missing content below a descriptor, each blob once."""
        reached = graph.by_digest(graph.preorder(root, step)).values()
        return tuple(item for item in reached if not self.is_present(item))

    def platforms(self) -> tuple[Platform, ...]:
        """Return the platforms whose content is complete, which is what the platform `local` means.

        Attestations are not included; an image that is a single manifest has the platform of its config.
        Raises ContentError, DaemonError.
        """
        step = self.children
        whole: dict[Digest, bool] = {}
        complete: dict[Platform, None] = {}
        for descriptor in graph.preorder(self.target, step):
            if not mediatypes.is_manifest(descriptor.media_type):
                continue
            if descriptor.digest not in whole:
                whole[descriptor.digest] = not self.missing_below(descriptor, step)
            if whole[descriptor.digest]:
                platform = graph.platform_of(descriptor, self.read)
                if platform is not None and not platforms.is_unknown(platform):
                    complete[platforms.normalize(platform)] = None
        return tuple(complete)

"""Store what the images of an archive are made of, unpack it, and protect it from the garbage collector.

All blobs are looked up at once. Those that the store has are protected and skipped; the others are stored,
several at a time and parents first, while the layers of earlier images are unpacked.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Generator, Iterable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import ExitStack
from itertools import chain
from threading import Lock
from typing import Any, Final, NamedTuple

import msgspec

from pyctrd.errors import NotFound, RegistryContentError
from pyctrd.oci import graph, mediatypes
from pyctrd.oci.model import EMPTY, ContentInfo, Descriptor, Digest, Platform
from pyctrd.oci.platforms import Matcher
from pyctrd.operations.load.contents import Contents, wrong_content
from pyctrd.operations.load.planning import Plan, Planner
from pyctrd.ports import ContentStore, SmallBlob, Store
from pyctrd.progress import Progress, ProgressSink
from pyctrd.steps.fetch import Downloader, FetchResult, ingest_ref
from pyctrd.steps.gc_labels import GcLabels
from pyctrd.steps.local import RememberedContent, RememberedStore
from pyctrd.steps.pool import DownloadPool
from pyctrd.steps.unpacking import Unpacking
from pyctrd.steps.validate import is_document

# Blobs up to this size are written in one message each.
_SMALL_BYTES: Final = 512 << 10
_GONE: Final = "its snapshot, which would replace it, was removed in the meantime; load the archive again"


class Wanted(NamedTuple):
    """What is stored of an image: its blobs, parents before children."""

    plan: Plan
    blobs: Sequence[Descriptor]


class Stored(NamedTuple):
    """What was done: the bytes written of each blob, and the platforms that were unpacked."""

    written: Mapping[Digest, int]
    unpacked: tuple[Platform, ...]


class Storing:
    """Stores images under a lease. `unpacked` matches the platforms to unpack; None if there are none."""

    def __init__(
        self,
        store: Store,
        contents: Contents,
        planner: Planner,
        progress: ProgressSink,
        *,
        snapshotter: str,
        unpacked: Matcher | None,
        concurrency: int,
    ) -> None:
        self._store = store
        self._contents = contents
        self._planner = planner
        self._progress = progress
        self._snapshotter = snapshotter
        self._unpacked = unpacked
        self._concurrency = concurrency
        self._gc_labels = GcLabels(store.content, progress)
        self._labels: Mapping[Digest, Mapping[str, str]] = {}
        self._present: Mapping[Digest, ContentInfo] = {}
        self._downloader = Downloader(
            store.content, [contents], claim_present=False, progress=progress, validator=planner.validator
        )

    def run(
        self,
        images: Sequence[Wanted],
        referrers: Sequence[Descriptor],
        labels: Mapping[Digest, Mapping[str, str]],
    ) -> Stored:
        """Store images, the blobs of their referrers, and gc labels; return when all is in the store."""
        wanted = graph.by_digest(chain(*(image.blobs for image in images), referrers))
        self._labels = labels
        view = _View(self._store, self._planner, wanted)
        self._protect({*(image.plan.target.digest for image in images)}, wanted.keys(), view)
        with DownloadPool(
            self._store_blob, self._downloader.stop, max_concurrent=self._concurrency, progress=self._progress
        ) as downloads:
            present = [blob for digest, blob in wanted.items() if digest in self._present]
            downloads.submit_together(present, lambda blobs: (self._store_blob(blob) for blob in blobs))
            downloads.submit_together([*filter(self._is_small, wanted.values())], self._write_small)
            unpacked = self._store_images(images, downloads, view)
            downloads.submit(referrers)
            downloads.join()
            written = {blob.digest: count for blob, count in downloads.downloaded().items()}
        self._gc_labels.check(tuple(wanted.values()))
        return Stored(written, unpacked)

    def _protect(self, roots: Collection[Digest], wanted: Collection[Digest], view: RememberedStore) -> None:
        """Find out which blobs the store has, and protect them; gc labels protect most of them already."""
        view.pin(roots)
        found = view.content.infos(wanted)
        ours = {digest for digest, written in self._contents.written.items() if written}
        loose = found.keys() - _reached(roots, found) - ours
        if loose:
            view.pin(loose)
            found = view.content.infos(wanted)
        self._present = found

    def _store_images(
        self, images: Sequence[Wanted], downloads: DownloadPool, view: RememberedStore
    ) -> tuple[Platform, ...]:
        """Store and unpack images, several at once unless they share layers that are not unpacked yet."""
        unpacked: dict[Platform, None] = {}
        done = set[Digest]()
        active = deque[tuple[Wanted, Unpacking, set[Digest]]]()

        def finish() -> None:
            image, unpacking, layers = active[0]
            downloads.join(image.blobs)
            unpacked.update(dict.fromkeys(unpacking.finish()))
            done.update(layers)
            active.popleft()

        def stop(*error: Any) -> None:
            for _, unpacking, _ in active:
                unpacking.__exit__(*error)

        with ExitStack() as stack:
            stack.push(stop)
            for image in images:
                downloads.submit(image.blobs)
                if self._unpacked is None:
                    continue
                layers = {blob.digest for blob in image.blobs if mediatypes.is_layer(blob.media_type)} - done
                while len(active) >= self._concurrency or any(
                    not layers.isdisjoint(other) for _, _, other in active
                ):
                    finish()
                unpacking = self._unpacking(image.plan, downloads, view)
                active.append((image, unpacking, layers))
                unpacking.consider(image.blobs, self._unpacked)
            while active:
                finish()
        return tuple(unpacked)

    def _unpacking(self, plan: Plan, downloads: DownloadPool, view: RememberedStore) -> Unpacking:
        def stored(digest: Digest) -> Future[Any]:
            if digest not in plan.replaced:
                return downloads.stored(digest)
            gone = Future[None]()
            message = f"content digest {digest}: not found"
            gone.set_exception(NotFound(message, kind="content", name=digest, hint=_GONE))
            return gone

        return Unpacking(
            view, plan.target, self._snapshotter, stored, self._progress, max_concurrent=self._concurrency
        )

    def _store_blob(self, blob: Descriptor, received: Callable[[], None] = lambda: None) -> FetchResult:
        """Store one blob unless it is there, and set its gc labels."""
        present = self._present.get(blob.digest)
        if present is None:
            result = self._write(blob, received)
        else:
            result = FetchResult()
            if not self._contents.written.get(blob.digest):
                self._progress(Progress(action="exists", descriptor=blob, offset=blob.size, total=blob.size))
        labels = self._labels.get(blob.digest)
        if labels:
            self._gc_labels.set_labels(blob.digest, labels, known=present.labels if present else {})
        return result

    def _is_small(self, blob: Descriptor) -> bool:
        """Whether a blob is written in one message."""
        file = self._contents.blob(blob)
        return file is not None and blob.digest not in self._present and 0 < blob.size <= _SMALL_BYTES

    def _write_small(self, blobs: Sequence[Descriptor]) -> Generator[FetchResult]:
        """Store small blobs with their gc labels."""
        stored = self._store.content.write_small(map(self._small, blobs))
        for blob, is_stored in zip(blobs, stored, strict=True):
            if not is_stored:
                yield self._store_blob(blob)
                continue
            labels = self._labels.get(blob.digest)
            if labels:
                self._gc_labels.set_labels(blob.digest, labels, known=labels)
            self._progress(Progress(action="downloaded", descriptor=blob, offset=blob.size, total=blob.size))
            yield FetchResult(blob.size)

    def _small(self, blob: Descriptor) -> SmallBlob:
        if is_document(blob):
            data = self._planner.read(blob)
        else:
            file = self._contents.blob(blob)
            assert file is not None
            data = self._contents.read(file, limit=blob.size)
        return SmallBlob(ingest_ref(blob), blob.digest, data, self._labels.get(blob.digest, EMPTY))

    def _write(self, blob: Descriptor, received: Callable[[], None]) -> FetchResult:
        """Store one blob; documents of the archive are in memory by now, and valid."""
        file = self._contents.blob(blob)
        if file is not None and is_document(blob):
            blob = msgspec.structs.replace(blob, data=self._planner.read(blob))
        try:
            return self._downloader.fetch(blob, received)
        except RegistryContentError as error:
            raise wrong_content(file.name if file else str(blob.digest), error) from error


class _View(RememberedStore):
    """The store, as several threads unpack from it: documents of the archive need not be read from it."""

    def __init__(self, store: Store, planner: Planner, wanted: Mapping[Digest, Descriptor]) -> None:
        super().__init__(store)
        self.content = _WithArchive(store.content, planner, wanted)
        self._one_at_a_time = Lock()

    def default_snapshotter(self) -> str:
        with self._one_at_a_time:  # the first one asks
            return super().default_snapshotter()


class _WithArchive(RememberedContent):
    """The content of the store, and the documents of the archive, which need not be read from the store."""

    def __init__(self, content: ContentStore, planner: Planner, wanted: Mapping[Digest, Descriptor]) -> None:
        super().__init__(content)
        self._planner = planner
        self._wanted = wanted

    def read_all(self, digest: Digest, *, limit: int) -> bytes:
        blob = self._wanted.get(digest)
        return self._planner.read(blob) if blob is not None else super().read_all(digest, limit=limit)


def _reached(roots: Iterable[Digest], found: Mapping[Digest, ContentInfo]) -> set[Digest]:
    """Return the blobs that gc labels protect if the roots are protected."""
    reached = set[Digest]()
    waiting = [digest for digest in roots if digest in found]
    while waiting:
        digest = waiting.pop()
        reached.add(digest)
        for key, value in found[digest].labels.items():
            if key.startswith(mediatypes.GC_REF) and value in found and value not in reached:
                waiting.append(Digest(value))
    return reached

"""Upload an image to a repository: blobs, manifests, indexes, and the tag last.

So the tag always points at a complete image, the old one or the new one. Content that the repository already
has is not sent. Source for the order: containerd core/remotes/handlers.go PushContent.
"""

from __future__ import annotations

import concurrent.futures
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from contextvars import copy_context
from typing import Any, Final, Literal, TypeAlias, TypeVar, get_args

import msgspec

from pyctrd import arguments
from pyctrd.errors import InvalidInput, PyctrdError
from pyctrd.oci.model import Descriptor, Platform
from pyctrd.oci.platforms import Platforms, Selection, select
from pyctrd.oci.reference import Reference
from pyctrd.ports import BlobSource, Chunk, Uploader
from pyctrd.progress import Action, Progress, ProgressSink, no_progress
from pyctrd.steps.upload_plan import Document, PushIndex, UploadPlan
from pyctrd.waiting import until_done

Outcome: TypeAlias = Literal["uploaded", "mounted", "present"]
_T = TypeVar("_T")

# How long to wait after an error for the threads, which cancel their uploads.
_SHUTDOWN_SECONDS: Final = 2.0


class SendOptions(msgspec.Struct, frozen=True, kw_only=True):
    """Which parts of an image to upload, and how.

    Unless `platforms` are all, `index` says whether the image's index is pruned, or replaced by its only
    image ("flatten"). `nondistributable` also uploads layers that are marked as not distributable. A
    push leaves out incomplete attestations, unless `platforms` matches them or `attestations` is true. The
    target uploads blobs larger than `chunk_bytes` in chunks (None: of its default size; 0: never).
    """

    platforms: Selection
    index: PushIndex = "prune"
    nondistributable: bool = False
    chunk_bytes: int | None = None
    attestations: bool = False
    concurrency: int = 3


class SendResult(msgspec.Struct, frozen=True, kw_only=True):
    """What a push or a copy did with each blob and manifest.

    Each was `uploaded`, `mounted` from another repository, `present` before, or `skipped`. `target` is what
    the target's name points at now, and `original` what the source's name points at; they differ if the index
    was rewritten. With `dry_run`, the result says what would be done.
    """

    source: str
    name: str
    original: Descriptor
    target: Descriptor
    platforms: tuple[Platform, ...]
    uploaded: tuple[Descriptor, ...]
    mounted: tuple[Descriptor, ...]
    present: tuple[Descriptor, ...]
    skipped: tuple[Descriptor, ...]
    bytes_uploaded: int
    dry_run: bool = False


class Upload(msgspec.Struct, frozen=True, kw_only=True):
    """An upload: the plan, the target's repository and name, and the source of the blobs.

    `mount_from` returns a repository of the same registry that should have a blob, or "".
    """

    plan: UploadPlan
    source: str
    target: Uploader
    name: Reference
    blob: Callable[[Descriptor], BlobSource]
    mount_from: Callable[[Descriptor], str]
    max_concurrent: int = 3
    progress: ProgressSink = no_progress

    def run(self, *, dry_run: bool = False) -> SendResult:
        """Upload everything, or with `dry_run` only ask the registry what it has.

        Raises InvalidInput if the target's name has another digest, RegistryError, ContentError.
        """
        self._check_name()
        return _Run(self).plan() if dry_run else _Run(self).result()

    def _check_name(self) -> None:
        wanted, root = self.name.digest, self.plan.root.descriptor
        if wanted and wanted != root.digest:
            raise InvalidInput(
                f"the digest in {self.name} is not that of the image: {root.digest}",
                hint="pass a target with a tag",
            )


class _Stopped(Exception):
    """Stops a thread after another one failed; never raised to a caller."""


class _Run:
    def __init__(self, upload: Upload) -> None:
        self._upload = upload
        self._target = upload.target
        self._progress = upload.progress
        self._stop = threading.Event()
        self._outcomes: dict[Descriptor, Outcome] = {}

    def result(self) -> SendResult:
        plan = self._upload.plan
        documents = (item.descriptor for item in (*plan.manifests, *plan.indexes, plan.root))
        for blob in dict.fromkeys((*plan.blobs, *documents)):
            self._progress(Progress(action="planned", descriptor=blob, total=blob.size, detail="upload"))
        self._each(self._blob, plan.blobs)
        self._each(self._document, plan.manifests)
        for item in plan.indexes:
            self._document(item)
        self._root(plan.root)
        self._progress(Progress(action="done", descriptor=plan.root.descriptor, detail=self._name))
        return self._result(
            uploaded=self._having("uploaded"),
            mounted=self._having("mounted"),
            present=self._having("present"),
        )

    def plan(self) -> SendResult:
        plan = self._upload.plan
        documents = [*plan.manifests, *plan.indexes]
        everything = [*plan.blobs, *(item.descriptor for item in documents)]
        known = dict(zip(everything, self._each(self._target.has, everything), strict=True))
        known[plan.root.descriptor] = self._has_root(plan.root)
        absent = [item for item, found in known.items() if not found]
        blobs = set(plan.blobs)
        mount = {item: None for item in absent if item in blobs and self._upload.mount_from(item)}
        upload = tuple(item for item in absent if item not in mount)
        present = tuple(item for item, found in known.items() if found)
        return self._result(uploaded=upload, mounted=tuple(mount), present=present, dry_run=True)

    def _result(
        self,
        *,
        uploaded: tuple[Descriptor, ...],
        mounted: tuple[Descriptor, ...],
        present: tuple[Descriptor, ...],
        dry_run: bool = False,
    ) -> SendResult:
        plan = self._upload.plan
        return SendResult(
            source=self._upload.source,
            name=self._name,
            original=plan.original,
            target=plan.root.descriptor,
            platforms=plan.platforms,
            uploaded=uploaded,
            mounted=mounted,
            present=present,
            skipped=plan.skipped,
            bytes_uploaded=sum(item.size for item in uploaded),
            dry_run=dry_run,
        )

    @property
    def _name(self) -> str:
        return str(self._upload.name)

    def _having(self, outcome: Outcome) -> tuple[Descriptor, ...]:
        return tuple(item for item, found in self._outcomes.items() if found == outcome)

    # --- one blob or document

    def _blob(self, descriptor: Descriptor) -> None:
        if self._target.has(descriptor):
            self._note("present", descriptor)
            return
        self._report("uploading", descriptor)
        outcome = self._target.upload(
            descriptor,
            _Stoppable(self._upload.blob(descriptor), self._stop),
            mount_from=self._upload.mount_from(descriptor),
            report=lambda offset: self._report("uploading", descriptor, offset),
        )
        self._note(outcome, descriptor)

    def _document(self, item: Document) -> None:
        if self._target.has(item.descriptor):
            self._note("present", item.descriptor)
            return
        self._target.put(item.descriptor, item.raw)
        self._note("uploaded", item.descriptor)

    def _root(self, item: Document) -> None:
        if self._has_root(item):
            self._note("present", item.descriptor)
            return
        self._target.put(item.descriptor, item.raw, self._upload.name.tag)
        self._note("uploaded", item.descriptor)

    def _has_root(self, item: Document) -> bool:
        tag = self._upload.name.tag
        if not tag:
            return self._target.has(item.descriptor)
        return self._target.tagged(tag) == item.descriptor.digest

    def _note(self, outcome: Outcome, descriptor: Descriptor) -> None:
        self._outcomes[descriptor] = outcome
        self._report(outcome, descriptor, descriptor.size)

    def _report(self, action: Action, descriptor: Descriptor, offset: int = 0) -> None:
        self._progress(Progress(action=action, descriptor=descriptor, offset=offset, total=descriptor.size))

    # --- several at once

    def _each(self, work: Callable[[Any], _T], items: Sequence[Any]) -> list[_T]:
        """Process all items, several at once; the first error stops the others, and is raised."""
        pool = concurrent.futures.ThreadPoolExecutor(
            self._upload.max_concurrent, thread_name_prefix="pyctrd-send"
        )
        failures: list[BaseException] = []

        def guarded(item: Any) -> _T:
            if self._stop.is_set():
                raise _Stopped
            try:
                return work(item)
            except BaseException as error:
                failures.append(error)
                self._stop.set()
                raise

        futures = [pool.submit(copy_context().run, guarded, item) for item in items]
        with _ended_together(pool, futures, self._stop):
            until_done(futures)
            if failures:
                raise failures[0]
            return [future.result() for future in futures]


@contextmanager
def _ended_together(
    pool: concurrent.futures.Executor, futures: Sequence[concurrent.futures.Future[_T]], stop: threading.Event
) -> Iterator[None]:
    """Shut down the pool; after an error or Ctrl-C, stop its threads, and wait only for a moment."""
    try:
        yield
    except BaseException:
        stop.set()
        pool.shutdown(wait=False, cancel_futures=True)
        concurrent.futures.wait(futures, timeout=_SHUTDOWN_SECONDS)
        raise
    pool.shutdown()


class _Stoppable:
    """A source that fails when `stop` is set, so that the upload is cancelled."""

    def __init__(self, source: BlobSource, stop: threading.Event) -> None:
        self._source = source
        self._stop = stop

    def open(self, offset: int) -> AbstractContextManager[Iterator[Chunk]]:
        return self._opened(offset)

    @contextmanager
    def _opened(self, offset: int) -> Iterator[Iterator[Chunk]]:
        with self._source.open(offset) as chunks:
            yield self._until_stopped(chunks)

    def _until_stopped(self, chunks: Iterator[Chunk]) -> Iterator[Chunk]:
        for chunk in chunks:
            if self._stop.is_set():
                raise _Stopped
            yield chunk

    def wrong(self, text: str) -> PyctrdError:
        return self._source.wrong(text)


def send_options(
    platforms: Platforms | None,
    index: PushIndex,
    nondistributable: bool,
    chunk_bytes: int | None,
    concurrency: int,
) -> SendOptions:
    """Check the arguments of a push or a copy; no platforms means all. Raises InvalidInput."""
    arguments.one_of("index", index, get_args(PushIndex))
    if chunk_bytes is not None:
        arguments.count("chunk_bytes", chunk_bytes, least=0)
    arguments.count("concurrency", concurrency)
    everything = platforms is None or platforms == ()
    return SendOptions(
        platforms=Selection(all=True) if everything else select(platforms),
        index=index,
        nondistributable=nondistributable,
        chunk_bytes=chunk_bytes,
        attestations=not everything,
        concurrency=concurrency,
    )

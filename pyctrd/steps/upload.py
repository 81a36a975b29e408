"""Upload an image into a repository: blobs, manifests, indexes, and the tag last.

Whoever looks in between sees the old image or the new one, never a half. Everything is asked for before it is
sent. Source for the order: containerd core/remotes/handlers.go PushContent.
"""

from __future__ import annotations

import concurrent.futures
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
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

# How long a failed run waits for its threads, which take their uploads back meanwhile.
_PATIENCE_SECONDS: Final = 2.0


class SendOptions(msgspec.Struct, frozen=True, kw_only=True):
    """What of an image to send, and how.

    `platforms` is all of it unless some are chosen; then its index is pruned, or put aside ("flatten").
    `nondistributable` sends layers, too, that say that they may not be distributed. Attestations of which not
    all is here are left out by a push, unless `platforms` names theirs or `attestations` asks for all.
    """

    platforms: Selection = Selection(all=True)
    index: PushIndex = "prune"
    nondistributable: bool = False
    attestations: bool = False
    concurrency: int = 3


class SendResult(msgspec.Struct, frozen=True, kw_only=True):
    """What became of each blob and manifest: uploaded, mounted, there before, or left out.

    `target` is what the target's name points at now; `original` what the source's does, another one where
    platforms were chosen. With `dry_run` it is what would be done, by what the registry says that it has.
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
    """What to upload, to which repository, under which name, and where the blobs come from.

    `mount_from` gives a repository of the same registry that should have a blob, or "".
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
        """Send it, or with `dry_run` only ask what is there.

        Raises InvalidInput when the name has another digest, RegistryError, ContentError.
        """
        self._check_name()
        return _Run(self).plan() if dry_run else _Run(self).result()

    def _check_name(self) -> None:
        wanted, root = self.name.digest, self.plan.root.descriptor
        if wanted and wanted != root.digest:
            raise InvalidInput(
                f"{self.name} names another digest than what would be pushed: {root.digest}",
                hint="pass a target with a tag",
            )


class _Stopped(Exception):
    """Ends a thread after the run was given up; never reaches a caller."""


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
        there = dict(zip(everything, self._each(self._target.has, everything), strict=True))
        there[plan.root.descriptor] = self._root_is_there(plan.root)
        absent = [item for item, known in there.items() if not known]
        blobs = set(plan.blobs)
        mount = {item: None for item in absent if item in blobs and self._upload.mount_from(item)}
        upload = tuple(item for item in absent if item not in mount)
        present = tuple(item for item, known in there.items() if known)
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

    # --- one piece

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
        if self._root_is_there(item):
            self._note("present", item.descriptor)
            return
        self._target.put(item.descriptor, item.raw, self._upload.name.tag)
        self._note("uploaded", item.descriptor)

    def _root_is_there(self, item: Document) -> bool:
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
        """Work on all items, some at once; the first failure stops the others, and is raised."""
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

        futures = [pool.submit(guarded, item) for item in items]
        with _ended_together(pool, futures, self._stop):
            until_done(futures)
            if failures:
                raise failures[0]
            return [future.result() for future in futures]


@contextmanager
def _ended_together(
    pool: concurrent.futures.Executor, futures: Sequence[concurrent.futures.Future[_T]], stop: threading.Event
) -> Iterator[None]:
    """End the pool; after an error, or Ctrl-C, tell its threads to stop, and do not wait for ever."""
    try:
        yield
    except BaseException:
        stop.set()
        pool.shutdown(wait=False, cancel_futures=True)
        concurrent.futures.wait(futures, timeout=_PATIENCE_SECONDS)
        raise
    pool.shutdown()


class _Stoppable:
    """A source that ends when the run is given up: so the upload is taken back."""

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
    platforms: Platforms | None, index: PushIndex, nondistributable: bool, concurrency: int = 3
) -> SendOptions:
    """Read the arguments of a push or a copy: no platforms are all. Raises InvalidPlatform, InvalidInput."""
    arguments.one_of("index", index, get_args(PushIndex))
    arguments.count("concurrency", concurrency)
    everything = platforms is None or platforms == ()
    return SendOptions(
        platforms=Selection(all=True) if everything else select(platforms),
        index=index,
        nondistributable=nondistributable,
        attestations=not everything,
        concurrency=concurrency,
    )

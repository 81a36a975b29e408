"""Sync: copy images from one containerd to another, with what the other one lacks.

A pull whose registry is a content store: the same lease, order, labels and checks, and the same names of
unfinished writes, so that any client resumes them. What is copied is pinned in the source, and known to be
complete, before the first byte is written to the target.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager

import msgspec

from pyctrd.errors import (
    REPAIR_HINT,
    ContentError,
    DaemonError,
    DigestMismatch,
    PyctrdError,
    RegistryContentError,
    Remedy,
)
from pyctrd.oci import graph
from pyctrd.oci.model import EMPTY, Descriptor, ImageRecord, Platform, freeze
from pyctrd.oci.platforms import Selection
from pyctrd.operations.pull import PullOptions, PullResult, pull
from pyctrd.ports import Store
from pyctrd.progress import Action, Progress, ProgressSink, no_progress
from pyctrd.steps.fetch import ingest_ref, labels_of
from pyctrd.steps.local import LocalImage, RememberedStore
from pyctrd.steps.pin import pin
from pyctrd.steps.stored import StoredRepository
from pyctrd.steps.targets import incomplete

_AS_UPLOAD: Mapping[Action, Action] = {
    "downloading": "uploading",
    "downloaded": "uploaded",
    "exists": "present",
}


class SyncOptions(msgspec.Struct, frozen=True, kw_only=True):
    """What to copy, and what to do with it.

    With `unpack` None, layers are unpacked if single platforms are copied, as for a pull. An empty
    `snapshotter` means the target's default.
    """

    platforms: Selection = msgspec.field(default_factory=Selection)
    unpack: bool | None = None
    snapshotter: str = ""
    concurrency: int = 3

    @property
    def unpacks(self) -> bool:
        """Whether layers are unpacked."""
        if self.unpack is None:
            return not (self.platforms.all or self.platforms.local)
        return self.unpack


class SyncResult(msgspec.Struct, frozen=True, kw_only=True):
    """What was copied to the other containerd, or with `dry_run` what would be.

    `images` are the records there. `sent` are the blobs of which bytes were copied, `present` those that the
    target had. `resumed` maps blobs to the bytes that an interrupted call had already copied.
    """

    images: tuple[ImageRecord, ...]
    sent: tuple[Descriptor, ...]
    bytes_sent: int
    present: tuple[Descriptor, ...]
    resumed: Mapping[Descriptor, int] = EMPTY
    unpacked: tuple[Platform, ...] = ()
    dry_run: bool = False

    def __post_init__(self) -> None:
        freeze(self, "resumed")

    @property
    def bytes_resumed(self) -> int:
        """The sum of the bytes in `resumed`."""
        return sum(self.resumed.values())


class Side(msgspec.Struct, frozen=True):
    """A containerd in a sync; `name` is empty for the caller's own, else its address."""

    store: Store
    name: str = ""


def sync(
    source: Side,
    target: Side,
    images: Sequence[ImageRecord],
    options: SyncOptions,
    *,
    dry_run: bool = False,
    progress: ProgressSink = no_progress,
) -> SyncResult:
    """Copy images of `source` to `target`, with what the target lacks.

    The host of `options.platforms` is the target's. `dry_run` changes nothing. Raises NoMatchingPlatform and
    IncompleteContent before anything is written, for all images; ContentError for damaged content of the
    source; LeaseLost, DaemonError.
    """
    chosen = tuple({image.name: image for image in images}.values())
    if dry_run:
        with of_side(source):
            items = [_Item(RememberedStore(source.store), image, options) for image in chosen]
            blobs = [item.blobs(pinned=False) for item in items]
        return _planned(target.store, chosen, blobs)
    sink = progress if source.name else _as_upload(progress)
    with ExitStack() as stack:
        with of_side(source):
            reading = RememberedStore(stack.enter_context(source.store.lease("sync")))
            items = [_Item(reading, image, options) for image in chosen]
            blobs = [item.blobs(pinned=True) for item in items]
        writing = stack.enter_context(target.store.lease("sync", resumable=True))
        pulled = [item.pull(source, Side(writing, target.name), sink) for item in items]
    return _result(pulled, blobs)


class _Item:
    """One image of a sync."""

    def __init__(self, source: RememberedStore, image: ImageRecord, options: SyncOptions) -> None:
        self._source = source
        self._image = image
        self._local = LocalImage(source, image.target)
        self._selection = self._chosen(options.platforms)
        self._targets = self._selection.resolve()
        self._options = options
        absent = self._local.missing(self._targets)
        if absent:
            raise self._incomplete(absent)

    def _chosen(self, selection: Selection) -> Selection:
        """Return the selection with the complete platforms in place of `local`."""
        if not selection.local:
            return selection
        complete = self._local.platforms()
        if complete:
            return Selection(complete, host=selection.host)
        everything = Selection(all=True, host=selection.host)
        absent = self._local.missing(everything.resolve())
        if absent:
            raise self._incomplete(absent)
        return everything  # a complete artifact, which has no platform

    @property
    def _step(self) -> graph.Children:
        return graph.only_platforms(self._local.children, self._targets.matcher)

    def blobs(self, *, pinned: bool) -> tuple[Descriptor, ...]:
        """Return what is copied. With `pinned`, protect it in the source until the lease there ends."""
        found = tuple(graph.by_digest(graph.preorder(self._image.target, self._step)).values())
        if pinned:
            lost = pin(self._source, found)
            if lost:
                raise self._incomplete(lost)
        return found

    def _incomplete(self, absent: Sequence[Descriptor]) -> PyctrdError:
        _, owner = graph.with_platforms(self._image.target, self._local.children)
        return incomplete(
            self._image, absent, owner, remedy=Remedy(method="ensure", images=(self._image.name,))
        )

    def pull(self, source: Side, target: Side, progress: ProgressSink) -> PullResult:
        """Copy the image to the target."""
        options = PullOptions(
            platforms=self._selection,
            metadata="selected",
            unpack=self._options.unpacks,
            snapshotter=self._options.snapshotter,
            concurrency=self._options.concurrency,
        )
        origin = self._source.content

        try:
            with of_side(target):
                return pull(
                    target.store,
                    StoredRepository(origin, self._image),
                    self._image.name,
                    options,
                    progress=progress,
                    labels=labels_of(origin),
                )
        except RegistryContentError as error:
            if isinstance(error.__cause__, DigestMismatch):  # of a document that the target already had
                with of_side(target):
                    raise error.__cause__ from error
            with of_side(source):
                raise _refused(self._image, error) from error


def _refused(image: ImageRecord, error: RegistryContentError) -> ContentError:
    """Return the error for content that a pull refuses, which comes from a store here."""
    if "wrong content for" not in error.message:
        return ContentError(
            error.message, hint="the image is broken: rebuild it; the document was not copied"
        )
    return ContentError(
        error.message,
        hint=f"the store that has it is damaged: {REPAIR_HINT}",
        remedy=Remedy(method="verify", images=(image.name,), repair=True),
    )


# --- results ----------------------------------------------------------------------------------------------


def _planned(
    target: Store, images: Sequence[ImageRecord], blobs: Sequence[Sequence[Descriptor]]
) -> SyncResult:
    wanted = graph.by_digest(item for found in blobs for item in found)
    here = {digest for digest, item in wanted.items() if LocalImage(target, item).is_present(item)}
    begun = {one.ref: one.offset for one in target.content.ingests()}
    resumed = {
        item: offset
        for digest, item in wanted.items()
        if digest not in here and (offset := begun.get(ingest_ref(item), 0))
    }
    sent = tuple(
        item for digest, item in wanted.items() if digest not in here and item.size > resumed.get(item, 0)
    )
    return SyncResult(
        images=tuple(images),
        sent=sent,
        bytes_sent=sum(item.size - resumed.get(item, 0) for item in sent),
        present=tuple(item for digest, item in wanted.items() if digest in here),
        resumed=resumed,
        dry_run=True,
    )


def _result(pulled: Sequence[PullResult], blobs: Sequence[Sequence[Descriptor]]) -> SyncResult:
    sent = graph.by_digest(item for result in pulled for item in result.fetched)
    resumed = {item: size for result in pulled for item, size in result.resumed.items()}
    wanted = graph.by_digest(item for found in blobs for item in found)
    moved = {*sent, *(item.digest for item in resumed)}
    return SyncResult(
        images=tuple(result.image for result in pulled),
        sent=tuple(sent.values()),
        bytes_sent=sum(result.bytes_fetched for result in pulled),
        present=tuple(item for digest, item in wanted.items() if digest not in moved),
        resumed=resumed,
        unpacked=tuple(dict.fromkeys(platform for result in pulled for platform in result.unpacked)),
    )


def _as_upload(progress: ProgressSink) -> ProgressSink:
    """Report a pull into another containerd as what it is for the caller."""

    def report(event: Progress) -> None:
        action = _AS_UPLOAD.get(event.action, event.action)
        detail = "upload" if event.action == "planned" and event.detail == "download" else event.detail
        progress(msgspec.structs.replace(event, action=action, detail=detail))

    return progress if progress is no_progress else report


# --- errors -----------------------------------------------------------------------------------------------


@contextmanager
def of_side(side: Side) -> Iterator[None]:
    """Say in hints where a remedy has to be applied, if it is not in the caller's containerd."""
    try:
        yield
    except PyctrdError as error:
        if side.name:
            _move_remedy(error, side.name)
        raise


def _move_remedy(error: PyctrdError, name: str) -> None:
    """Put a remedy into the hint, since the call would be made on another machine."""
    remedy = error.remedy
    if remedy is not None and remedy.namespace:
        error.hint = f"on {name}: {error.hint}: add ?namespace={remedy.namespace} to the address"
    elif remedy is not None and remedy.method:
        error.hint = f"on {name}: {error.hint} (`{remedy.method}`)"
    elif isinstance(error, DaemonError) and error.hint:
        error.hint = f"on {name}: {error.hint}"
        return
    else:
        return
    error.remedy = None

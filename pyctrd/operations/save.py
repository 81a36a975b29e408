"""Save: image records -> walk -> ensure -> archive, under one lease.

All content of the archive is pinned by the lease before the first byte is written, so missing content is
detected before.

As in ctr, a target that is a single manifest is saved whatever its platform is.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import IO, Literal, TypeAlias

import msgspec

from pyctrd.amounts import listed
from pyctrd.archive import layout, tar
from pyctrd.archive.contents import IndexMode, contents, require_exportable
from pyctrd.archive.layout import ArchiveImage, Entry, Layout
from pyctrd.errors import LeaseLost, NoMatchingPlatform, NotFound, Remedy
from pyctrd.oci import graph, mediatypes, platforms
from pyctrd.oci.errors import IncompleteContent
from pyctrd.oci.model import Descriptor, Digest, ImageRecord, Platform, blob_path
from pyctrd.oci.platforms import Matcher, Selection, Targets
from pyctrd.oci.prune import only_image
from pyctrd.operations import ensure, nerdctl
from pyctrd.ports import Fetcher, Fetchers, Store
from pyctrd.progress import Progress, ProgressSink, no_progress
from pyctrd.steps.local import LocalImage, RememberedStore
from pyctrd.steps.pin import pin
from pyctrd.steps.targets import incomplete, nothing_to_save

EnsureMode: TypeAlias = Literal["target", "all", "none"]


class SaveOptions(msgspec.Struct, frozen=True, kw_only=True):
    """How to save images.

    `ensure` says what is fetched first: the missing content of the saved platforms ("target"), also what
    nerdctl 2.0.0 - 2.0.3 would fetch ("all"), or nothing ("none"). `index` says what to do with an image's
    index. `reproducible` leaves out what depends on this host.
    """

    platforms: Selection = msgspec.field(default_factory=Selection)
    ensure: EnsureMode = "target"
    index: IndexMode = "keep"
    reproducible: bool = False
    concurrency: int = 3


class SaveResult(msgspec.Struct, frozen=True, kw_only=True):
    """What a save did, or with `dry_run` would do.

    `blobs` are the blobs from the store in the archive, in the order of writing. `bytes_resumed` are the
    bytes that an interrupted download had already stored. `bytes_written` is the size of the archive.
    """

    images: tuple[str, ...]
    platforms: tuple[Platform, ...]
    fetched: tuple[Descriptor, ...]
    bytes_fetched: int
    blobs: tuple[Digest, ...]
    bytes_written: int
    bytes_resumed: int = 0
    dry_run: bool = False


def plan(
    store: Store,
    images: Sequence[ImageRecord],
    options: SaveOptions,
    *,
    fetchers: Fetchers,
) -> SaveResult:
    """Return what `save` would fetch and write, without changing anything.

    Uses the network only if a manifest is absent, since only the manifest says what else is missing, and
    never with `ensure` "none". Raises what `save` raises before it writes.
    """
    fetch: dict[Digest, Descriptor] = {}
    archived: list[ArchiveImage] = []
    items = _items(RememberedStore(store), images, options, fetchers)
    for item in items:
        missing, read = item.peek(fetchers)
        fetch.update((descriptor.digest, descriptor) for descriptor in missing)
        item.require(read, fetch)
        archived.append(item.contents(read))
    found = layout.build(archived, reproducible=options.reproducible)
    return SaveResult(
        images=tuple(item.name for item in items),
        platforms=_platforms(archived),
        fetched=tuple(fetch.values()),
        bytes_fetched=sum(descriptor.size for descriptor in fetch.values()),
        blobs=found.blobs,
        bytes_written=tar.size(found),
        dry_run=True,
    )


def save(
    store: Store,
    images: Sequence[ImageRecord],
    options: SaveOptions,
    output: IO[bytes],
    *,
    fetchers: Fetchers,
    progress: ProgressSink = no_progress,
) -> SaveResult:
    """Write an archive of images to a binary stream, e.g. from archive.output.

    An image that is given twice is written once. Raises NoMatchingPlatform (`no manifest found for platform:
    not found`) and InvalidInput (several images to flatten) before anything is fetched, IncompleteContent
    (`content digest ...: not found`) before the first byte is written; LeaseLost and IncompleteContent also
    later, if another client deletes what is being saved; RegistryError, ContentError, DigestMismatch,
    ArchiveError, DaemonError.
    """
    result: SaveResult | None = None
    try:
        with store.lease("save") as view:
            leased = RememberedStore(view)
            items = _items(leased, images, options, fetchers)
            ensured = [result for item in items for result in item.ensure(fetchers, progress)]
            archived = [_pinned(item, fetchers, progress, ensured) for item in items]
            found = layout.build(archived, reproducible=options.reproducible)
            written = _write(leased, archived, found, output, progress)
            result = SaveResult(
                images=tuple(item.name for item in items),
                platforms=_platforms(archived),
                fetched=tuple(dict.fromkeys(blob for done in ensured for blob in done.fetched)),
                bytes_fetched=sum(done.bytes_fetched for done in ensured),
                blobs=found.blobs,
                bytes_written=written,
                bytes_resumed=sum(done.bytes_resumed for done in ensured),
            )
    except LeaseLost:
        if result is None:
            raise
        # All blobs are in the archive, and were hashed on the way: the lease is no longer needed.
    assert result is not None
    return result


def _items(
    store: RememberedStore,
    images: Sequence[ImageRecord],
    options: SaveOptions,
    fetchers: Fetchers,
) -> list[_Item]:
    """Return an item for each image, without duplicates, after checking them all."""
    items = [_Item(store, image, options) for image in {image.name: image for image in images}.values()]
    for item in items:
        item.check(fetchers)
    return items


def _pinned(
    item: _Item, fetchers: Fetchers, progress: ProgressSink, ensured: list[ensure.EnsureResult]
) -> ArchiveImage:
    """Pin an image's content; what was deleted before it could be pinned is fetched again."""
    try:
        return item.pin()
    except IncompleteContent:
        again = list(item.ensure(fetchers, progress))
        if not again:
            raise
        ensured += again
        return item.pin()


def _write(
    store: Store,
    archived: Sequence[ArchiveImage],
    members: Layout,
    output: IO[bytes],
    progress: ProgressSink,
) -> int:
    """Write the archive; raise IncompleteContent if a pinned blob is deleted anyway."""
    try:
        return tar.write(
            members,
            store.content.read,
            output,
            progress=_reporter(archived, progress),
            check=store.check_open,
        )
    except NotFound as error:
        gone = [blob for image in archived for blob in image.blobs if blob.digest == error.name]
        if not gone:
            raise
        raise IncompleteContent(
            error.message,
            missing=gone[:1],
            hint="another client deleted it while it was being saved; try again",
        ) from error


def _platforms(archived: Sequence[ArchiveImage]) -> tuple[Platform, ...]:
    return tuple(dict.fromkeys(platform for image in archived for platform in image.platforms))


def _reporter(archived: Sequence[ArchiveImage], progress: ProgressSink) -> Callable[[Entry, int], None]:
    descriptors = {blob_path(blob.digest): blob for image in archived for blob in image.blobs}
    for blob in descriptors.values():
        progress(Progress(action="planned", descriptor=blob, total=blob.size, detail="write"))

    def report(entry: Entry, written: int) -> None:
        descriptor = descriptors[entry.name]
        progress(Progress(action="writing", descriptor=descriptor, offset=written, total=entry.size))

    return report


class _Item:
    """One image of a save.

    Its targets are determined before anything is fetched, which could make more platforms `local`.
    """

    def __init__(self, store: RememberedStore, image: ImageRecord, options: SaveOptions) -> None:
        self._store = store
        self._image = image
        self._options = options
        self._local = LocalImage(store, image.target)
        self._targets = options.platforms.resolve(self._local.platforms)

    @property
    def name(self) -> str:
        return self._image.name

    # --- check the indexes

    def check(self, fetchers: Fetchers) -> None:
        """Raise NoMatchingPlatform; ArchiveError if it is not an image; InvalidInput for several to flatten.

        Reads an absent index from a registry; if nothing may be fetched, `require` reports it later.
        """
        require_exportable(self._image.target)
        if not mediatypes.is_index(self._image.target.media_type):
            return
        try:
            images = self._listed(self._local.read)
        except NotFound:
            if self._options.ensure == "none":
                return
            images = self._listed(self._remote(fetchers(self._image)).read)
        absent = self._targets.absent(item.platform for item in images)
        if absent or not (images or self._options.platforms.all):
            raise _no_match(self._local, self._image, absent)
        if self._options.index == "flatten":
            only_image(images)

    def _listed(self, read: graph.ReadDocument) -> list[Descriptor]:
        """Return the images in the indexes that match the targets."""
        step = graph.only_platforms(graph.read_children(read), self._targets.matcher)
        return [item for item in graph.leaves_of(self._image.target, step) if graph.is_image(item)]

    # --- fetch what is missing

    def _wanted(self) -> Iterator[Targets]:
        """Yield the targets of each fetch."""
        if self._options.ensure == "all":
            fetched = nerdctl.ensured_by_2_0_3(self._store, self._image)
            if fetched:
                yield Targets(self._options.platforms, platforms.any_of(*fetched), fetched)
        if self._options.ensure != "none":
            yield self._targets

    def ensure(self, fetchers: Fetchers, progress: ProgressSink) -> Iterator[ensure.EnsureResult]:
        """Fetch missing content; `fetchers` is only called if something is missing."""
        for targets in self._wanted():
            if self._local.missing(targets):
                yield ensure.ensure(
                    self._store.store,
                    self._image,
                    targets,
                    fetchers,
                    concurrency=self._options.concurrency,
                    progress=progress,
                )
                self._store.content.forget_absent()

    def _remote(self, fetchers: Sequence[Fetcher]) -> LocalImage:
        return LocalImage(self._store, self._image.target, fetchers)

    def peek(self, fetchers: Fetchers) -> tuple[list[Descriptor], graph.ReadDocument]:
        """Return what would be fetched, and a reader for documents, which may be in a registry."""
        missing: list[Descriptor] = []
        remote: Sequence[Fetcher] = ()
        for targets in self._wanted():
            found = self._local.missing(targets)
            if any(map(graph.has_children, found)):
                remote = remote or fetchers(self._image)
                found = self._remote(remote).missing(targets)
            missing += found
        return missing, self._remote(remote).read

    # --- pin and check

    def pin(self) -> ArchiveImage:
        """Pin all of the image's content, and collect it."""
        read = self._local.read
        found = graph.by_digest(graph.preorder(self._image.target, self._step(read)))
        pinned = {digest for digest, item in found.items() if pin(self._store.content, item)}
        self.require(read, pinned)
        return self.contents(read)

    def _step(self, read: graph.ReadDocument) -> graph.Children:
        step = graph.tolerant(graph.read_children(read), lambda _missing: None, NotFound)
        return graph.only_platforms(step, self._targets.matcher)

    def require(self, read: graph.ReadDocument, available: Collection[Digest]) -> None:
        """Raise IncompleteContent, with all missing content, unless all is `available` or in the store."""
        step = self._step(read)
        found, owner = graph.with_platforms(self._image.target, step)
        absent = [
            item
            for digest, item in found.items()
            if digest not in available and not self._local.is_present(item)
        ]
        if absent:
            raise _incomplete(self._image, absent, owner)

    def contents(self, read: graph.ReadDocument) -> ArchiveImage:
        """Collect what goes into the archive."""
        return contents(
            self._image,
            read,
            self._targets.matcher,
            preferences=self._preferences(),
            mode=self._options.index,
            sources=self._sources(),
        )

    def _preferences(self) -> list[Matcher]:
        """Return the preferences for the manifest that docker loads: if possible, one that runs here."""
        chosen = self._options.platforms
        if chosen.all:
            return [platforms.only_strict(chosen.host), platforms.only(chosen.host), platforms.ALL]
        if chosen.local:
            return [platforms.only_strict(chosen.host), self._targets.matcher]
        return [self._targets.matcher]

    def _sources(self) -> dict[str, str]:
        try:
            labels = self._store.content.info(self._image.target.digest).labels
        except NotFound:  # a dry run, with an index that is not fetched yet
            return {}
        return {key: value for key, value in labels.items() if key.startswith(mediatypes.DISTRIBUTION_SOURCE)}


# --- errors -----------------------------------------------------------------------------------------------


def _incomplete(
    image: ImageRecord, absent: Sequence[Descriptor], owner: Mapping[Digest, Platform | None]
) -> IncompleteContent:
    return incomplete(
        image,
        absent,
        owner,
        hint="save it with network access, or fetch what is missing",
        remedy=Remedy(method="ensure", images=(image.name,)),
    )


def _no_match(local: LocalImage, image: ImageRecord, absent: Sequence[Platform]) -> NoMatchingPlatform:
    """Return the error with the image's platforms, and which of them are complete."""
    found = [platforms.format_all(platform) for platform in _reachable(local)]
    complete = {platforms.format_all(item) for item in local.platforms()}
    names = sorted(dict.fromkeys(found), key=lambda name: name not in complete)
    has = listed([f"{name} (complete)" if name in complete else name for name in names])
    wanted = listed([platforms.format_all(item) for item in absent])
    return NoMatchingPlatform(
        nothing_to_save(image.name, wanted),
        name=wanted,
        hint=f"it has {has}" if names else None,
        remedy=Remedy(method="save", images=(image.name,), platforms=(names[0],)) if names else None,
    )


def _reachable(local: LocalImage) -> Iterator[Platform]:
    """Yield the platforms that can be selected: one in a nested index of another platform cannot."""
    step = local.children

    def fitting(descriptor: Descriptor) -> Sequence[Descriptor]:
        if descriptor.platform is None:
            return step(descriptor)
        wanted = graph.fits(platforms.only_strict(descriptor.platform))
        return [child for child in step(descriptor) if wanted(child)]

    def by_platform(descriptor: Descriptor) -> Platform | None:
        return descriptor.platform

    for item in graph.preorder(local.target, fitting, depends_on=by_platform):
        if item.platform is not None and graph.is_image(item):
            yield item.platform

"""Save: image records -> walk -> ensure -> archive, under one lease.

All content of the archive is pinned by the lease before the first byte is written, so missing content is
detected before.

As in ctr, a target that is a single manifest is saved whatever its platform is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import chain, zip_longest
from typing import IO, TYPE_CHECKING, NamedTuple

from pyctrd import redact
from pyctrd.archive import layout, tar
from pyctrd.archive.layout import ArchiveImage, Entry, Layout
from pyctrd.archive.presumed import Presumed, document
from pyctrd.errors import LeaseLost, NoMatchingPlatform, NotFound, PyctrdError
from pyctrd.oci import graph
from pyctrd.oci.errors import IncompleteContent
from pyctrd.oci.model import Descriptor, Digest, ImageRecord, Platform, blob_path
from pyctrd.operations import ensure
from pyctrd.operations.save.delta import presumed
from pyctrd.operations.save.image import SavedImage
from pyctrd.operations.save.options import (
    ArchiveFormat,
    AttestationMode,
    EnsureMode,
    OnMissing,
    SaveOptions,
    SaveResult,
    Skipped,
)
from pyctrd.operations.save.referrers import ReferrerSearch
from pyctrd.ports import Fetchers, ReferrerSources, Store
from pyctrd.progress import Progress, ProgressSink, no_progress
from pyctrd.steps.local import LocalImage, RememberedStore
from pyctrd.steps.pin import pin

if TYPE_CHECKING:
    from pyctrd.archive.copying import Reader
    from pyctrd.archive.docker_archive import DockerImage
    from pyctrd.archive.folder import Folder
    from pyctrd.operations.archive_source import ArchiveSource

__all__ = [
    "ArchiveFormat",
    "AttestationMode",
    "EnsureMode",
    "OnMissing",
    "SaveOptions",
    "SaveResult",
    "Skipped",
    "plan",
    "save",
]

_log = redact.logger("pyctrd.images")


def plan(
    store: Store,
    images: Sequence[ImageRecord],
    options: SaveOptions,
    *,
    fetchers: Fetchers,
    referrer_sources: ReferrerSources = lambda _image: (),
    source: ArchiveSource | None = None,
) -> SaveResult:
    """Return what `save` would fetch and write, without changing anything.

    Uses the network only if a manifest is absent, since only the manifest says what else is missing, or for
    lists of referrers, and never with `ensure` "none". Raises what `save` raises before it writes.
    """
    if options.format == "docker":
        from pyctrd.archive import docker_archive
    fetch: dict[Digest, Descriptor] = {}
    archived: list[ArchiveImage] = []
    readers: list[graph.ReadDocument] = []
    docker: list[DockerImage] = []
    skipping = _Skipping(options)
    remembered = RememberedStore(store)
    for item in _items(remembered, images, options, fetchers, source, skipping):
        with skipping.without(item):
            missing, read = item.peek(fetchers)
            item.require(read, {*fetch, *(descriptor.digest for descriptor in missing)})
            archived.append(item.contents(read))
            readers.append(read)
            fetch.update((descriptor.digest, descriptor) for descriptor in missing)
            if options.format == "docker":
                docker.append(docker_archive.image_of(archived[-1], read, planned=True))
    skipping.require(archived)
    skipping.warn()
    search = ReferrerSearch(remembered, options, fetchers, referrer_sources, planned=True)
    archived = search.added(images, archived)
    fetch.update(search.missing)
    left_out = _presumed(archived, list(map(search.reader, readers)), options)
    if options.format == "docker":
        stored = {diff_id: layer.size for diff_id, layer in docker_archive.layers_of(docker).items()}
        members, blobs = docker_archive.build(docker, stored), docker_archive.blobs_of(docker)
    else:
        members = _layout(archived, options, left_out)
        blobs = members.blobs
    return SaveResult(
        images=tuple(image.name for image in archived),
        platforms=_united(image.platforms for image in archived),
        fetched=tuple(fetch.values()),
        bytes_fetched=sum(descriptor.size for descriptor in fetch.values()),
        blobs=blobs,
        compression=options.compression,
        presumed=tuple(item.layer for item in left_out),
        bytes_written=members.size if options.format == "dir" else tar.size(members),
        referrers=tuple(search.found),
        skipped=(*skipping.found, *search.skipped),
        import_platforms=_import_platforms(archived, options),
        dry_run=True,
    )


def save(
    store: Store,
    images: Sequence[ImageRecord],
    options: SaveOptions,
    output: IO[bytes] | Folder,
    *,
    fetchers: Fetchers,
    referrer_sources: ReferrerSources = lambda _image: (),
    source: ArchiveSource | None = None,
    progress: ProgressSink = no_progress,
) -> SaveResult:
    """Write an archive of images to a binary stream, e.g. from archive.output, or to a folder.

    `source` is an archive that `fetchers` ask first; with `ensure` "none", it is the only one they may ask.
    An image that is given twice is written once. Raises NoMatchingPlatform (`no manifest found for platform:
    not found`) and InvalidInput (several images where one fits) before anything is fetched, IncompleteContent
    (`content digest ...: not found`) before the first byte is written; LeaseLost and IncompleteContent also
    later, if another client deletes what is being saved; RegistryError, ContentError, DigestMismatch,
    ArchiveError, DaemonError.
    """
    result: SaveResult | None = None
    skipping = _Skipping(options)
    ensured: list[ensure.EnsureResult] = []
    archived: list[ArchiveImage] = []
    try:
        with store.lease("save") as view:
            leased = RememberedStore(view)
            items = _items(leased, images, options, fetchers, source, skipping)
            _pin(leased, items)
            for item in items:
                ensured += item.ensure(fetchers, progress)
            if ensured:
                _pin(leased, items)
            for item in items:
                with skipping.without(item):
                    archived.append(item.pinned())
            skipping.require(archived)
            skipping.warn()
            search = ReferrerSearch(leased, options, fetchers, referrer_sources, progress=progress)
            archived = search.added(images, archived)
            ensured += search.ensured
            documents = LocalImage(leased, archived[0].entries[0])
            left_out = _presumed(archived, [documents.read] * len(archived), options)
            members = _members(leased, archived, options, left_out, documents.read, progress)
            written = _write(leased, members, output, options, progress)
            result = SaveResult(
                images=tuple(image.name for image in archived),
                platforms=_united(image.platforms for image in archived),
                fetched=tuple(dict.fromkeys(blob for done in ensured for blob in done.fetched)),
                bytes_fetched=sum(done.bytes_fetched for done in ensured),
                blobs=members.blobs,
                bytes_written=written,
                bytes_resumed=sum(done.bytes_resumed for done in ensured),
                compression=options.compression,
                presumed=tuple(item.layer for item in left_out),
                referrers=tuple(search.found),
                skipped=(*skipping.found, *search.skipped),
                import_platforms=_import_platforms(archived, options),
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
    source: ArchiveSource | None,
    skipping: _Skipping,
) -> list[SavedImage]:
    """Return an item for each image, without duplicates, after checking them all."""
    store.content.read_ahead(image.target for image in images)
    items: list[SavedImage] = []
    for image in {image.name: image for image in images}.values():
        item = SavedImage(store, image, options, fetchers, source)
        with skipping.without(item):
            item.check(fetchers)
            items.append(item)
    skipping.require(items)
    return items


def _pin(store: RememberedStore, items: Sequence[SavedImage]) -> None:
    """Pin what is saved, with one write for all, and read its documents, many at once."""
    for generations in zip_longest(*(item.generations() for item in items), fillvalue=()):
        store.content.read_ahead(chain.from_iterable(generations))
    pin(store, chain.from_iterable(item.reached for item in items))


def _united(values: Iterable[Iterable[Platform]]) -> tuple[Platform, ...]:
    return tuple(dict.fromkeys(chain.from_iterable(values)))


def _import_platforms(archived: Sequence[ArchiveImage], options: SaveOptions) -> tuple[Platform, ...]:
    """Return what `ctr images import` of containerd 1.x needs as `--platform`, if there is an index."""
    return () if options.format == "docker" else _united(image.ambiguous for image in archived)


# --- what is missing --------------------------------------------------------------------------------------


class _Skipping:
    """Leaves out images that are missing, unless the options say to fail; `found` is all that is left out."""

    def __init__(self, options: SaveOptions) -> None:
        self._on_missing = options.on_missing
        self._first: PyctrdError | None = None
        self._found: dict[str, list[Skipped]] = {}

    @contextmanager
    def without(self, item: SavedImage) -> Iterator[None]:
        """Leave out the whole image if something is missing in this context."""
        try:
            yield
            self._found[item.name] = item.skipped
        except (NoMatchingPlatform, IncompleteContent) as error:
            if self._on_missing == "fail":
                raise
            self._first = self._first or error
            missing = error.missing if isinstance(error, IncompleteContent) else ()
            self._found[item.name] = [Skipped(image=item.name, missing=missing, message=error.message)]

    def require(self, items: Sequence[object]) -> None:
        """Raise the first error if nothing is left."""
        if not items and self._first is not None:
            raise self._first

    @property
    def found(self) -> tuple[Skipped, ...]:
        """What is left out, in the order of the images."""
        return tuple(chain.from_iterable(self._found.values()))

    def warn(self) -> None:
        """Log what is left out, if the options say so."""
        if self._on_missing == "warn":
            for item in self.found:
                _log.warning("%s", item.message, extra={"subject": item.image})


# --- write ------------------------------------------------------------------------------------------------


class _Members(NamedTuple):
    """What is written, how to read it, the descriptors of the members that are blobs, and these blobs."""

    layout: Layout
    read: Reader
    descriptors: Mapping[str, Descriptor]
    blobs: tuple[Digest, ...]


def _presumed(
    archived: Sequence[ArchiveImage], readers: Sequence[graph.ReadDocument], options: SaveOptions
) -> Sequence[Presumed]:
    """Return the layers that are left out; `readers` are those of the images' documents."""
    return presumed(zip(archived, readers, strict=True)) if options.have is not None else ()


def _layout(archived: Sequence[ArchiveImage], options: SaveOptions, left_out: Sequence[Presumed]) -> Layout:
    statement = document(left_out) if options.have is not None else None
    return layout.build(archived, reproducible=options.reproducible, presumed=statement)


def _members(
    store: RememberedStore,
    archived: Sequence[ArchiveImage],
    options: SaveOptions,
    left_out: Sequence[Presumed],
    read_document: graph.ReadDocument,
    progress: ProgressSink,
) -> _Members:
    if options.format != "docker":
        members = _layout(archived, options, left_out)
        descriptors = {blob_path(blob.digest): blob for image in archived for blob in image.blobs}
        in_order = [descriptors[blob_path(digest)] for digest in members.blobs]
        return _Members(members, store.content.in_order(in_order), descriptors, members.blobs)
    read = store.content.read

    from pyctrd.archive import docker_archive

    def measuring(layer: Descriptor, offset: int) -> None:
        progress(Progress(action="verifying", descriptor=layer, offset=offset, total=layer.size))

    images = [docker_archive.image_of(image, read_document) for image in archived]
    layers = docker_archive.layers_of(images)
    members = docker_archive.build(images, docker_archive.measure(layers, read, measuring))
    return _Members(
        members,
        docker_archive.reader(layers, read),
        docker_archive.descriptors(images),
        docker_archive.blobs_of(images),
    )


def _write(
    store: Store,
    members: _Members,
    output: IO[bytes] | Folder,
    options: SaveOptions,
    progress: ProgressSink,
) -> int:
    """Write the archive; raise IncompleteContent if a pinned blob is deleted anyway."""
    from pyctrd.archive.folder import Folder

    report = _reporter(members, progress)
    try:
        if isinstance(output, Folder):
            return output.write(members.layout, members.read, progress=report, check=store.check_open)
        return tar.write(
            members.layout,
            members.read,
            output,
            compression=options.compression,
            progress=report,
            check=store.check_open,
        )
    except NotFound as error:
        gone = [blob for blob in members.descriptors.values() if blob.digest == error.name]
        if not gone:
            raise
        raise IncompleteContent(
            error.message,
            missing=gone[:1],
            hint="another client deleted it while it was being saved; try again",
        ) from error


def _reporter(members: _Members, progress: ProgressSink) -> Callable[[Entry, int], None]:
    for entry in members.layout.entries:
        if isinstance(entry.source, Digest):
            blob = members.descriptors[entry.name]
            progress(Progress(action="planned", descriptor=blob, total=entry.size, detail="write"))

    def report(entry: Entry, written: int) -> None:
        descriptor = members.descriptors[entry.name]
        progress(Progress(action="writing", descriptor=descriptor, offset=written, total=entry.size))

    return report

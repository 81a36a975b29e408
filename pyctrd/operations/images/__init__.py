"""An overview of images: their platforms, their size in the store, and whether they are in use."""

from __future__ import annotations

import itertools
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Final, NamedTuple

from pyctrd.errors import ContentError
from pyctrd.oci import graph, mediatypes, platforms
from pyctrd.oci.image_names import aliases
from pyctrd.oci.model import Descriptor, Digest, ImageRecord, Platform
from pyctrd.oci.platforms import Matcher, Selection
from pyctrd.operations.images.documents import Children, Documents, Parsed
from pyctrd.operations.images.filters import ImageFilters
from pyctrd.operations.images.model import ImageOverview, ImagePlatform, ImageStatus
from pyctrd.ports import Containerd
from pyctrd.steps.blob_table import BlobTable
from pyctrd.steps.image_use import ImageUse, uses_in

# So many images are read at a time.
_BATCH: Final = 128
_UNUSED: Final = ImageUse()
_ABSENT: Final = Children()


def overview(
    stores: Sequence[Containerd], filters: ImageFilters | None = None, selection: Selection | None = None
) -> tuple[ImageOverview, ...]:
    """Return an overview of the images of namespaces that match, sorted by namespace and name.

    Content, images and containers of a namespace are listed once, and a document is read once, however many
    images and namespaces have it. `selection` has the host's platform. Raises DaemonError, and for a filter
    that names an image, ImageNotFound.
    """
    filters = filters or ImageFilters()
    host = (selection or Selection()).resolve().matcher
    named = filters.find(stores)
    parsed = Parsed(labels=filters.needs_labels)
    return tuple(item for store in stores for item in _of(store, filters, named, parsed, host))


def _of(
    store: Containerd,
    filters: ImageFilters,
    named: Mapping[str, ImageRecord],
    parsed: Parsed,
    host: Matcher,
) -> Iterator[ImageOverview]:
    images = sorted(store.images.list(), key=lambda image: image.name)
    chosen = filters.chosen(store, images, named)
    if not chosen:
        return
    found = _Overview(store, parsed, host, uses_in(store, images))
    found.add(images)
    names = aliases(images)
    for image in chosen:
        item = found.of(image, names.get(image.name, ""))
        if filters.matches(item, partial(found.labels, image.target)):
            yield item


class _Content(NamedTuple):
    """What the store has of an image: `blobs` are positions in the table."""

    blobs: array[int]
    status: ImageStatus
    platforms: tuple[ImagePlatform, ...]


class _Overview:
    """The images of one namespace."""

    def __init__(
        self, store: Containerd, parsed: Parsed, host: Matcher, used: Mapping[Digest, ImageUse]
    ) -> None:
        self._store = store
        self._host = host
        self._used = used
        self._blobs = BlobTable(store.content.list())
        self._users = array("L", bytes(array("L").itemsize * len(self._blobs)))
        self._documents = Documents(parsed, store, self._blobs.known)
        self._content: dict[Digest, _Content] = {}
        self._platforms: dict[tuple[ImagePlatform, ...], tuple[ImagePlatform, ...]] = {}

    def add(self, images: Iterable[ImageRecord]) -> None:
        """Read images, so that it is known what they share."""
        targets = iter({image.target.digest: image.target for image in images}.values())
        while batch := list(itertools.islice(targets, _BATCH)):
            self._store.check_open()
            self._documents.read_ahead(batch)
            for target in batch:
                found = self._walk(target)
                self._content[target.digest] = found
                for blob in found.blobs:
                    self._users[blob] += 1

    def of(self, image: ImageRecord, alias_of: str) -> ImageOverview:
        """Return the overview of an image that was added."""
        digest = image.target.digest
        found = self._content[digest]
        sizes = self._blobs.sizes
        own = sum(sizes[blob] for blob in found.blobs if self._users[blob] == 1)
        use = self._used.get(digest, _UNUSED)
        return ImageOverview(
            namespace=self._store.namespace,
            image=image,
            status=found.status,
            platforms=found.platforms,
            bytes_own=own,
            bytes_shared=sum(sizes[blob] for blob in found.blobs) - own,
            pinned=bool(use.pinned),
            containers=use.containers,
            alias_of=alias_of,
        )

    def labels(self, target: Descriptor) -> Iterator[Mapping[str, str]]:
        """Yield the labels in the configs of an image that are in the store."""
        for descriptor in self._documents_of(target):
            config = self._children(descriptor).config
            if config is not None and config.digest in self._blobs:
                yield self._documents.config(config).labels

    def _walk(self, target: Descriptor) -> _Content:
        found: dict[Digest, int | None] = {target.digest: self._blobs.position(target.digest)}
        states: dict[Platform, bool] = {}
        whole = True
        for descriptor in self._documents_of(target):
            children = self._children(descriptor)
            for digest in (descriptor.digest, *children.leaves):
                found[digest] = self._blobs.position(digest)
            if graph.has_children(descriptor):
                whole = whole and children != _ABSENT
            if mediatypes.is_manifest(descriptor.media_type):
                platform = self._platform_of(descriptor, children)
                if platform is not None and not platforms.is_unknown(platform):
                    known = platforms.normalize(platform)
                    states[known] = states.get(known, False) or self._is_complete(children)
        named = tuple(ImagePlatform(platform=name, complete=complete) for name, complete in states.items())
        blobs = array("L", (blob for blob in found.values() if blob is not None))
        whole = whole and len(blobs) == len(found)
        status = self._status(target, named, whole=whole)
        return _Content(blobs, status, self._platforms.setdefault(named, named))

    def _status(self, target: Descriptor, states: Sequence[ImagePlatform], *, whole: bool) -> ImageStatus:
        if target.digest not in self._blobs:
            return "unavailable"
        ours = [item for item in states if self._host.match(item.platform)]
        if ours:
            whole = min(ours, key=lambda item: self._host.rank(item.platform)).complete
        elif states:
            whole = any(item.complete for item in states)
        return "complete" if whole else "incomplete"

    def _documents_of(self, root: Descriptor) -> Iterator[Descriptor]:
        """Yield the target and the indexes and manifests below it."""
        leaves = 0

        def step(descriptor: Descriptor) -> Sequence[Descriptor]:
            nonlocal leaves
            children = self._children(descriptor)
            leaves += len(children.leaves)
            graph.check_count(root, leaves)
            return children.nested

        try:
            yield from graph.preorder(root, step)
        except ContentError:
            return  # it is nested too deeply, or too large

    def _children(self, descriptor: Descriptor) -> Children:
        if descriptor.digest not in self._blobs:
            return _ABSENT
        return self._documents.children(descriptor)

    def _is_complete(self, children: Children) -> bool:
        digests = (*(item.digest for item in children.nested), *children.leaves)
        return bool(digests) and all(digest in self._blobs for digest in digests)

    def _platform_of(self, manifest: Descriptor, children: Children) -> Platform | None:
        """Return the platform in the index or else in the config; None for an artifact."""
        if manifest.platform is not None:
            return manifest.platform
        if children.config is None or children.config.digest not in self._blobs:
            return None
        return self._documents.config(children.config).platform

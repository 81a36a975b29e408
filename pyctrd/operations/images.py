"""An overview of images: their size in the store, and their complete platforms."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import msgspec

from pyctrd.errors import ContentError, NotFound
from pyctrd.oci import graph, mediatypes, platforms
from pyctrd.oci.model import Descriptor, Digest, ImageRecord, Platform
from pyctrd.ports import Store


class ImageOverview(msgspec.Struct, frozen=True, kw_only=True):
    """An image, the bytes of its content in the store, and its platforms.

    `complete` are the platforms with all their content in the store, `incomplete` the others. Content that
    images share counts for each of them. Unreadable content counts as absent.
    """

    image: ImageRecord
    bytes_here: int
    complete: tuple[Platform, ...]
    incomplete: tuple[Platform, ...]


def overview(store: Store, images: Sequence[ImageRecord]) -> tuple[ImageOverview, ...]:
    """Return an overview of each image; reads documents that they share once. Raises DaemonError."""
    found = _Overview(store)
    return tuple(map(found.of, images))


class _Overview:
    def __init__(self, store: Store) -> None:
        self._store = store
        self._sizes: Mapping[Digest, int] = {info.digest: info.size for info in store.content.list()}
        self._children: dict[tuple[Digest, str], Sequence[Descriptor]] = {}
        self._read_children = graph.read_children(self._read)

    def of(self, image: ImageRecord) -> ImageOverview:
        """Return the overview of an image."""
        found: dict[Digest, int] = {}
        states: dict[Platform, bool] = {}
        for descriptor in self._below(image.target):
            found[descriptor.digest] = self._sizes.get(descriptor.digest, 0)
            if mediatypes.is_manifest(descriptor.media_type):
                platform = self._platform_of(descriptor)
                if platform is not None and not platforms.is_unknown(platform):
                    known = platforms.normalize(platform)
                    states[known] = states.get(known, False) or self._is_complete(descriptor)
        return ImageOverview(
            image=image,
            bytes_here=sum(found.values()),
            complete=tuple(platform for platform, complete in states.items() if complete),
            incomplete=tuple(platform for platform, complete in states.items() if not complete),
        )

    def _below(self, root: Descriptor) -> Iterator[Descriptor]:
        try:
            yield from graph.preorder(root, self._step)
        except ContentError:
            return  # it is nested too deeply, or too large

    def _step(self, descriptor: Descriptor) -> Sequence[Descriptor]:
        key = (descriptor.digest, descriptor.media_type)
        if descriptor.digest not in self._sizes:
            return ()
        if key not in self._children:
            try:
                self._children[key] = self._read_children(descriptor)
            except (ContentError, NotFound):
                self._children[key] = ()
        return self._children[key]

    def _is_complete(self, manifest: Descriptor) -> bool:
        children = self._step(manifest)
        return bool(children) and all(child.digest in self._sizes for child in children)

    def _platform_of(self, descriptor: Descriptor) -> Platform | None:
        """Return the platform in the index or else in the config; None for an artifact."""
        try:
            return graph.platform_of(descriptor, self._read)
        except (ContentError, NotFound):
            return None

    def _read(self, descriptor: Descriptor) -> bytes:
        return self._store.content.read_all(descriptor.digest, limit=graph.size_limit(descriptor))

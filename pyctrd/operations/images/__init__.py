"""An overview of images: their platforms, their size in the store, and whether they are in use."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence

from pyctrd.errors import ContentError, NotFound
from pyctrd.oci import graph, mediatypes, platforms
from pyctrd.oci.image_names import has_tag
from pyctrd.oci.model import Descriptor, Digest, ImageRecord, Platform
from pyctrd.operations.images.filters import ImageFilters
from pyctrd.operations.images.model import ImageOverview, ImagePlatform
from pyctrd.ports import Containerd
from pyctrd.steps.image_use import ImageUse, uses


def overview(store: Containerd, filters: ImageFilters | None = None) -> tuple[ImageOverview, ...]:
    """Return an overview of the images that match, sorted by name.

    Content is listed once, and a document that images share is read once. Raises DaemonError, and for a
    filter that names an image, ImageNotFound.
    """
    images = sorted(store.images.list(), key=lambda image: image.name)
    chosen = filters.chosen(store, images) if filters else images
    if not chosen:
        return ()
    used = uses(images, store.containers.list())
    found = _Overview(store, used)
    found.add(images)
    names = _names_of(images)
    items = (found.of(image, names) for image in chosen)
    return tuple(item for item in items if filters is None or filters.matches(item))


# CRI's label for the records that it made (containerd internal/cri/labels/labels.go).
_CRI_LABEL = "io.cri-containerd.image"


def _names_of(images: Iterable[ImageRecord]) -> Mapping[Digest, str]:
    """Return the first name with a tag of each target; the images are sorted by name."""
    names: dict[Digest, str] = {}
    for image in images:
        if has_tag(image.name):
            names.setdefault(image.target.digest, image.name)
    return names


def _is_alias(image: ImageRecord) -> bool:
    return _CRI_LABEL in image.labels and not has_tag(image.name)


class _Overview:
    def __init__(self, store: Containerd, used: Mapping[Digest, ImageUse]) -> None:
        self._store = store
        self._used = used
        self._sizes: Mapping[Digest, int] = {info.digest: info.size for info in store.content.list()}
        self._children: dict[tuple[Digest, str], Sequence[Descriptor]] = {}
        self._read_children = graph.read_children(self._read)
        self._content: dict[Digest, frozenset[Digest]] = {}
        self._platforms: dict[Digest, tuple[ImagePlatform, ...]] = {}
        self._users = Counter[Digest]()

    def add(self, images: Iterable[ImageRecord]) -> None:
        """Read images, so that it is known what they share."""
        for image in images:
            target = image.target
            if target.digest not in self._content:
                self._content[target.digest], self._platforms[target.digest] = self._walk(target)
                self._users.update(self._content[target.digest])

    def of(self, image: ImageRecord, names: Mapping[Digest, str]) -> ImageOverview:
        """Return the overview of an image that was added; `names` are those with a tag, by target."""
        digest = image.target.digest
        own = shared = 0
        for blob in self._content[digest]:
            if self._users[blob] == 1:
                own += self._sizes[blob]
            else:
                shared += self._sizes[blob]
        use = self._used.get(digest, ImageUse())
        return ImageOverview(
            namespace=self._store.namespace,
            image=image,
            platforms=self._platforms[digest],
            bytes_own=own,
            bytes_shared=shared,
            pinned=bool(use.pinned),
            containers=tuple(use.containers),
            alias_of=names.get(digest, "") if _is_alias(image) else "",
        )

    def _walk(self, target: Descriptor) -> tuple[frozenset[Digest], tuple[ImagePlatform, ...]]:
        found = set[Digest]()
        states: dict[Platform, bool] = {}
        for descriptor in self._below(target):
            if descriptor.digest in self._sizes:
                found.add(descriptor.digest)
            if mediatypes.is_manifest(descriptor.media_type):
                platform = self._platform_of(descriptor)
                if platform is not None and not platforms.is_unknown(platform):
                    known = platforms.normalize(platform)
                    states[known] = states.get(known, False) or self._is_complete(descriptor)
        named = (ImagePlatform(platform=name, complete=complete) for name, complete in states.items())
        return frozenset(found), tuple(named)

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

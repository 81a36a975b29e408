"""An overview of images: their platforms, their size in the store, and whether they are in use."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial

from pyctrd.errors import ContentError
from pyctrd.oci import graph, mediatypes, platforms
from pyctrd.oci.image_names import aliases
from pyctrd.oci.model import Descriptor, Digest, ImageRecord, Platform
from pyctrd.oci.platforms import Matcher, Selection
from pyctrd.operations.images.documents import Documents
from pyctrd.operations.images.filters import ImageFilters
from pyctrd.operations.images.model import ImageOverview, ImagePlatform, ImageStatus
from pyctrd.ports import Containerd
from pyctrd.steps.image_use import ImageUse, uses_in


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
    documents = Documents(labels=filters.needs_labels)
    return tuple(item for store in stores for item in _of(store, filters, named, documents, host))


def _of(
    store: Containerd,
    filters: ImageFilters,
    named: Mapping[str, ImageRecord],
    documents: Documents,
    host: Matcher,
) -> Iterator[ImageOverview]:
    images = sorted(store.images.list(), key=lambda image: image.name)
    chosen = filters.chosen(store, images, named)
    if not chosen:
        return
    found = _Overview(store, documents, host, uses_in(store, images))
    found.add(images)
    names = aliases(images)
    for image in chosen:
        item = found.of(image, names.get(image.name, ""))
        if filters.matches(item, partial(found.labels, image.target)):
            yield item


class _Overview:
    """The images of one namespace."""

    def __init__(
        self, store: Containerd, documents: Documents, host: Matcher, used: Mapping[Digest, ImageUse]
    ) -> None:
        self._store = store
        self._documents = documents
        self._host = host
        self._used = used
        self._sizes: Mapping[Digest, int] = {info.digest: info.size for info in store.content.list()}
        self._content: dict[Digest, frozenset[Digest]] = {}
        self._states: dict[Digest, tuple[ImageStatus, tuple[ImagePlatform, ...]]] = {}
        self._users = Counter[Digest]()

    def add(self, images: Iterable[ImageRecord]) -> None:
        """Read images, so that it is known what they share."""
        for image in images:
            target = image.target
            if target.digest not in self._content:
                self._content[target.digest], self._states[target.digest] = self._walk(target)
                self._users.update(self._content[target.digest])

    def of(self, image: ImageRecord, alias_of: str) -> ImageOverview:
        """Return the overview of an image that was added."""
        digest = image.target.digest
        own = shared = 0
        for blob in self._content[digest]:
            if self._users[blob] == 1:
                own += self._sizes[blob]
            else:
                shared += self._sizes[blob]
        use = self._used.get(digest, ImageUse())
        status, states = self._states[digest]
        return ImageOverview(
            namespace=self._store.namespace,
            image=image,
            status=status,
            platforms=states,
            bytes_own=own,
            bytes_shared=shared,
            pinned=bool(use.pinned),
            containers=use.containers,
            alias_of=alias_of,
        )

    def labels(self, target: Descriptor) -> Iterator[Mapping[str, str]]:
        """Yield the labels in the configs of an image that are in the store."""
        for descriptor in self._below(target):
            if mediatypes.is_image_config(descriptor.media_type) and descriptor.digest in self._sizes:
                yield self._documents.labels(self._store, descriptor)

    def _walk(
        self, target: Descriptor
    ) -> tuple[frozenset[Digest], tuple[ImageStatus, tuple[ImagePlatform, ...]]]:
        found = set[Digest]()
        states: dict[Platform, bool] = {}
        whole = True
        for descriptor in self._below(target):
            if descriptor.digest in self._sizes:
                found.add(descriptor.digest)
            else:
                whole = False
            if graph.has_children(descriptor):
                whole = whole and bool(self._children(descriptor))
            if mediatypes.is_manifest(descriptor.media_type):
                platform = self._platform_of(descriptor)
                if platform is not None and not platforms.is_unknown(platform):
                    known = platforms.normalize(platform)
                    states[known] = states.get(known, False) or self._is_complete(descriptor)
        named = tuple(ImagePlatform(platform=name, complete=complete) for name, complete in states.items())
        return frozenset(found), (self._status(target, named, whole=whole), named)

    def _status(self, target: Descriptor, states: Sequence[ImagePlatform], *, whole: bool) -> ImageStatus:
        if target.digest not in self._sizes:
            return "unavailable"
        ours = [item for item in states if self._host.match(item.platform)]
        if ours:
            whole = min(ours, key=lambda item: self._host.rank(item.platform)).complete
        elif states:
            whole = any(item.complete for item in states)
        return "complete" if whole else "incomplete"

    def _below(self, root: Descriptor) -> Iterator[Descriptor]:
        try:
            yield from graph.preorder(root, self._children)
        except ContentError:
            return  # it is nested too deeply, or too large

    def _children(self, descriptor: Descriptor) -> Sequence[Descriptor]:
        if descriptor.digest not in self._sizes:
            return ()
        return self._documents.children(self._store, descriptor)

    def _is_complete(self, manifest: Descriptor) -> bool:
        children = self._children(manifest)
        return bool(children) and all(child.digest in self._sizes for child in children)

    def _platform_of(self, manifest: Descriptor) -> Platform | None:
        """Return the platform in the index or else in the config; None for an artifact."""
        if manifest.platform is not None:
            return manifest.platform
        configs = [item for item in self._children(manifest)[:1] if item.digest in self._sizes]
        return self._documents.platform(self._store, configs[0]) if configs else None

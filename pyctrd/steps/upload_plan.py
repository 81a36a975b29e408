"""Plan an upload: all of an image, or selected platforms with a rewritten index.

If everything is selected, nothing is rewritten. Attestations are uploaded together with the manifest that
they describe (BuildKit marks them with `vnd.docker.reference.digest`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, TypeAlias

import msgspec

from pyctrd.errors import NoMatchingPlatform
from pyctrd.oci import graph, mediatypes
from pyctrd.oci.model import Descriptor, Digest, Index, Platform
from pyctrd.oci.platforms import Matcher
from pyctrd.oci.prune import descriptor_of, only_image, pruned

# What to do with an index if not all its platforms are selected.
PushIndex: TypeAlias = Literal["prune", "flatten"]


class Document(msgspec.Struct, frozen=True):
    """A manifest or an index, with its bytes."""

    descriptor: Descriptor
    raw: bytes


class UploadPlan(msgspec.Struct, frozen=True, kw_only=True):
    """Content in the order in which a registry accepts it: blobs, manifests, indexes, and the root last.

    `root` differs from `original` if the index was rewritten or flattened. `skipped` are layers that are
    marked as not distributable, and incomplete attestations.
    """

    original: Descriptor
    blobs: tuple[Descriptor, ...]
    manifests: tuple[Document, ...]
    indexes: tuple[Document, ...]
    root: Document
    skipped: tuple[Descriptor, ...]
    platforms: tuple[Platform, ...]


def chosen(
    children: graph.Children,
    matcher: Matcher,
    leaves_out: Callable[[Descriptor], bool] = lambda _child: False,
) -> graph.Children:
    """Leave out children of other platforms, except attestations for the selected ones.

    `leaves_out` excludes further children.
    """
    fits = graph.fits(matcher)

    def step(descriptor: Descriptor) -> Sequence[Descriptor]:
        found = children(descriptor)
        if not mediatypes.is_index(descriptor.media_type):
            return found
        digests = {item.digest for item in found if fits(item)}
        along = (
            item
            for item in found
            if item.digest in digests or item.annotations.get(mediatypes.ATTESTED_DIGEST) in digests
        )
        return [item for item in along if not leaves_out(item)]

    return step


def pack(
    original: Descriptor,
    read: graph.ReadDocument,
    step: graph.Children,
    *,
    index: PushIndex = "prune",
    nondistributable: bool = False,
) -> UploadPlan:
    """Plan the upload of what a step (see `chosen`) reaches; all its documents must be readable.

    "flatten" replaces the index by its only image. Raises NoMatchingPlatform if nothing is left of the index,
    InvalidInput if "flatten" finds several images, ContentError.
    """
    packer = _Packer(read, step, nondistributable)
    root = packer.add(original)
    if root is None:
        raise NoMatchingPlatform(
            f"no match for platform in manifest {original.digest}: not found", name=str(original.digest)
        )
    if index == "flatten" and mediatypes.is_index(root.media_type):
        root = only_image(packer.images)
        packer = _Packer(read, step, nondistributable)
        packer.add(root)
    return packer.plan(original, root)


class _Packer:
    """Collects an image, children first, and rewrites the indexes that lose something."""

    def __init__(self, read: graph.ReadDocument, step: graph.Children, nondistributable: bool) -> None:
        self._read = read
        self._step = step
        self._nondistributable = nondistributable
        self._packed: dict[Digest, Descriptor | None] = {}
        self._documents: dict[Digest, Document] = {}
        self._blobs: dict[Digest, Descriptor] = {}
        self._skipped: dict[Digest, Descriptor] = {}
        self.images: list[Descriptor] = []

    def add(self, descriptor: Descriptor) -> Descriptor | None:
        """Add a descriptor and all below it; return it, possibly rewritten, or None if nothing is left."""
        if descriptor.digest not in self._packed:
            self._packed[descriptor.digest] = self._add(descriptor)
        return self._packed[descriptor.digest]

    def _add(self, descriptor: Descriptor) -> Descriptor | None:
        if mediatypes.is_index(descriptor.media_type):
            return self._index(descriptor)
        if mediatypes.is_manifest(descriptor.media_type):
            for child in self._step(descriptor):
                self._blob(child)
            self._documents[descriptor.digest] = Document(descriptor, self._read(descriptor))
            if not graph.is_attestation(descriptor):
                self.images.append(descriptor)
        else:
            self._blob(descriptor)
        return descriptor

    def _index(self, descriptor: Descriptor) -> Descriptor | None:
        raw = self._read(descriptor)
        inside = set(self._step(descriptor))
        listed = Index.parse(raw).manifests
        children = [self.add(child) if child in inside else None for child in listed]
        if listed and not any(children):
            return None
        new = pruned(descriptor, raw, children)
        changed = descriptor if new == raw else descriptor_of(descriptor, new)
        self._documents[changed.digest] = Document(changed, new)
        return changed

    def _blob(self, descriptor: Descriptor) -> None:
        foreign = mediatypes.is_nondistributable(descriptor.media_type) and not self._nondistributable
        (self._skipped if foreign else self._blobs)[descriptor.digest] = descriptor

    def plan(self, original: Descriptor, root: Descriptor) -> UploadPlan:
        """Return the plan."""
        documents = [item for item in self._documents.values() if item.descriptor.digest != root.digest]
        found = [item.platform for item in self.images if item.platform]
        return UploadPlan(
            original=original,
            blobs=tuple(self._blobs.values()),
            manifests=tuple(item for item in documents if mediatypes.is_manifest(item.descriptor.media_type)),
            indexes=tuple(item for item in documents if mediatypes.is_index(item.descriptor.media_type)),
            root=self._documents[root.digest],
            skipped=tuple(self._skipped.values()),
            platforms=tuple(dict.fromkeys(found)),
        )

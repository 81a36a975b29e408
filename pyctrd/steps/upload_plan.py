"""What of an image goes into another repository: all of it, or chosen platforms with an index of their own.

Where everything is chosen nothing is rewritten: every byte and digest stays. Attestations go along with the
image that they are about (BuildKit marks them with `vnd.docker.reference.digest`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, TypeAlias

import msgspec

from pyctrd.errors import NoMatchingPlatform
from pyctrd.oci import graph, mediatypes
from pyctrd.oci.model import Descriptor, Platform
from pyctrd.oci.platforms import Matcher
from pyctrd.oci.prune import Pruner, only_image

# What becomes of an index of which not all platforms are chosen.
PushIndex: TypeAlias = Literal["prune", "flatten"]


class Document(msgspec.Struct, frozen=True):
    """A manifest or an index, with its bytes."""

    descriptor: Descriptor
    raw: bytes


class UploadPlan(msgspec.Struct, frozen=True, kw_only=True):
    """Content in the order in which a registry takes it: blobs, manifests, indexes, and the root last.

    `original` is what was chosen from; the root is another one where an index was rewritten or left out.
    `skipped` are layers that may not be distributed, and attestations of which not all is here.
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
    """Leave out children of other platforms, but not the attestations about those that stay.

    `leaves_out` is for what is not to come along although it could.
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
    """Collect what a step (see `chosen`) leads to; every document of it must be readable.

    "flatten" puts the one image in the place of the index. Raises NoMatchingPlatform when nothing is left of
    the index, InvalidInput for something to flatten that is more than one image, ContentError.
    """
    pruner = Pruner(read, step)
    root = pruner.prune(original)
    if root is None:
        raise NoMatchingPlatform(
            f"no match for platform in manifest {original.digest}: not found", name=str(original.digest)
        )
    if index == "flatten" and mediatypes.is_index(root.media_type):
        root = only_image(filter(graph.is_image, graph.preorder(root, pruner.children)))
    found = list(graph.by_digest(graph.preorder(root, pruner.children)).values())
    blobs = [item for item in found if not graph.has_children(item)]
    foreign = [
        item for item in blobs if not nondistributable and mediatypes.is_nondistributable(item.media_type)
    ]
    documents = [Document(item, pruner.read(item)) for item in found[1:] if graph.has_children(item)]
    images = [item for item in found if graph.is_image(item) and item.platform]
    return UploadPlan(
        original=original,
        blobs=tuple(item for item in blobs if item not in foreign),
        manifests=tuple(item for item in documents if mediatypes.is_manifest(item.descriptor.media_type)),
        indexes=tuple(
            item for item in reversed(documents) if mediatypes.is_index(item.descriptor.media_type)
        ),
        root=Document(root, pruner.read(root)),
        skipped=tuple(foreign),
        platforms=tuple(dict.fromkeys(item.platform for item in images if item.platform)),
    )

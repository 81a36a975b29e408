"""Plan an upload: all of an image, or selected platforms with a rewritten index.

If everything is selected, nothing is rewritten. Attestations are uploaded together with the manifest that
they describe (BuildKit marks them with `vnd.docker.reference.digest`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cache
from graphlib import TopologicalSorter
from typing import Literal, TypeAlias

import msgspec

from pyctrd.errors import NoMatchingPlatform
from pyctrd.oci import graph, mediatypes
from pyctrd.oci.model import Descriptor, Platform
from pyctrd.oci.platforms import Matcher
from pyctrd.oci.prune import Pruner, only_image

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
    return graph.without(graph.with_attestations(children, matcher), leaves_out)


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
    pruner = Pruner(read, step)
    root = pruner.prune(original)
    if root is None:
        raise NoMatchingPlatform(
            f"no match for platform in manifest {original.digest}: not found", name=str(original.digest)
        )
    children = cache(pruner.children)  # each document is parsed once
    if index == "flatten" and mediatypes.is_index(root.media_type):
        root = only_image(filter(graph.is_image, graph.preorder(root, children)))
    found = list(graph.by_digest(graph.preorder(root, children)).values())
    blobs = [item for item in found if not graph.has_children(item)]

    def is_skipped(item: Descriptor) -> bool:
        return not nondistributable and mediatypes.is_nondistributable(item.media_type)

    documents = [item for item in found[1:] if graph.has_children(item)]
    images = [item for item in found if graph.is_image(item) and item.platform]
    return UploadPlan(
        original=original,
        blobs=tuple(item for item in blobs if not is_skipped(item)),
        manifests=tuple(
            Document(item, pruner.read(item)) for item in documents if mediatypes.is_manifest(item.media_type)
        ),
        indexes=tuple(Document(item, pruner.read(item)) for item in _nested_first(documents, children)),
        root=Document(root, pruner.read(root)),
        skipped=tuple(filter(is_skipped, blobs)),
        platforms=tuple(dict.fromkeys(item.platform for item in images if item.platform)),
    )


def _nested_first(documents: Sequence[Descriptor], children: graph.Children) -> Iterator[Descriptor]:
    """Yield the indexes so that each comes after those that it lists: several may list the same one."""
    indexes = {item.digest: item for item in documents if mediatypes.is_index(item.media_type)}
    listed = {
        digest: [child.digest for child in children(item) if child.digest in indexes]
        for digest, item in indexes.items()
    }
    return map(indexes.__getitem__, TopologicalSorter(listed).static_order())

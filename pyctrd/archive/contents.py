"""Collect what goes into an archive. Reads the image's documents, writes nothing.

Deliberate differences from containerd's exporter: nested indexes are filtered by platform too (containerd
exports all of them), and may contain the manifest that docker loads (containerd fails); with all platforms,
the image need not have the host's (containerd: `no manifest found for platform`).

Source: containerd core/images/archive/exporter.go Export, getRecords.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, TypeAlias

import msgspec

from pyctrd.archive.layout import ArchiveImage, DockerEntry
from pyctrd.errors import ArchiveError, ContentError, NotFound
from pyctrd.oci import graph, mediatypes, platforms
from pyctrd.oci.model import Descriptor, Digest, ImageRecord, Manifest, Platform
from pyctrd.oci.platforms import Matcher
from pyctrd.oci.prune import ORIGINAL_INDEX, Pruner, only_image

IndexMode: TypeAlias = Literal["keep", "prune", "flatten"]


def contents(
    image: ImageRecord,
    read: graph.ReadDocument,
    narrow: graph.Narrow,
    *,
    preferences: Sequence[Matcher],
    mode: IndexMode = "keep",
    sources: Mapping[str, str] | None = None,
) -> ArchiveImage:
    """Collect an image's content; `narrow` leaves out what does not belong into the archive.

    `read` returns a document's bytes, and may raise NotFound. The first of `preferences` that matches
    anything selects the manifest that docker loads; if none does, the image has no entry in manifest.json.
    `sources` are the `containerd.io/distribution.source.*` labels of the target's blob.
    Raises ArchiveError if the target is neither an index nor a manifest, InvalidInput if "flatten" finds
    several images, ContentError.
    """
    require_exportable(image.target)
    step = narrow(graph.read_children(read))
    blobs = tuple(graph.preorder(image.target, step))
    manifests = [item for item in blobs if graph.is_image(item)]
    found = ArchiveImage(
        name=image.name,
        entries=(image.target,),
        sources=sources or {},
        docker=_docker_entry(image.target, read, step, preferences),
        blobs=blobs,
        platforms=tuple(dict.fromkeys(filter(None, (platform_of(item, read) for item in manifests)))),
    )
    if mediatypes.is_index(image.target.media_type):
        if mode == "prune":
            return _prune(found, read, step)
        if mode == "flatten":
            return _flatten(found, step)
        return msgspec.structs.replace(found, ambiguous=_ambiguous(found, read))
    return found


def require_exportable(target: Descriptor) -> None:
    """Raise ArchiveError if a target is neither an index nor a manifest."""
    if not graph.has_children(target):
        raise ArchiveError(f"only manifests may be exported: {target.media_type}: invalid argument")


# --- the manifest for docker ------------------------------------------------------------------------------


def _docker_entry(
    target: Descriptor, read: graph.ReadDocument, step: graph.Children, preferences: Sequence[Matcher]
) -> DockerEntry | None:
    chosen = None
    for preference in preferences:
        chosen = chosen or _choose(target, step, preference)
    if chosen is None:
        return None
    manifest = Manifest.parse(read(chosen))
    layers = tuple(layer.digest for layer in manifest.layers)
    return DockerEntry(manifest=chosen.digest, config=manifest.config.digest, layers=layers)


def _choose(target: Descriptor, step: graph.Children, preference: Matcher) -> Descriptor | None:
    """Return the manifest that a matcher prefers, never an attestation. Reads each index once."""
    known: dict[Digest, Descriptor | None] = {}

    def choose(descriptor: Descriptor) -> Descriptor | None:
        if mediatypes.is_manifest(descriptor.media_type):
            return descriptor
        if not mediatypes.is_index(descriptor.media_type):
            return None
        if descriptor.digest not in known:
            known[descriptor.digest] = best_of(step(descriptor))
        return known[descriptor.digest]

    def best_of(children: Sequence[Descriptor]) -> Descriptor | None:
        matching = [
            child
            for child in children
            if child.platform is None
            or (preference.match(child.platform) and not graph.is_attestation(child))
        ]
        found = map(choose, graph.closest(matching, preference))
        return next((manifest for manifest in found if manifest is not None), None)

    return choose(target)


def platform_of(descriptor: Descriptor, read: graph.ReadDocument) -> Platform | None:
    """Return a manifest's platform, from the index or else from its config; None if it is not known."""
    try:
        return graph.platform_of(descriptor, read)
    except ContentError:  # not a config that we understand
        return None


# --- the index as it is -----------------------------------------------------------------------------------


def _ambiguous(image: ArchiveImage, read: graph.ReadDocument) -> tuple[Platform, ...]:
    """Return the platforms for which containerd 1.x needs `--platform` to import the archive.

    Without it, its client also wants what the host can run besides its own platform, e.g. 386 on amd64, as
    far as the index lists it (containerd 1.7 import.go, platforms.Default).
    """
    inside = {blob.digest for blob in image.blobs}
    step = graph.tolerant(graph.read_children(read), lambda _missing: None, NotFound)
    leaves = graph.leaves_of(image.entries[0], step)
    absent = [leaf.platform for leaf in leaves if leaf.platform and leaf.digest not in inside]
    return tuple(item for item in image.platforms if any(map(platforms.only(item).match, absent)))


# --- other forms of the index -----------------------------------------------------------------------------


def _prune(image: ArchiveImage, read: graph.ReadDocument, step: graph.Children) -> ArchiveImage:
    """Remove what the archive does not contain from the index and its nested indexes."""
    pruner = Pruner(read, step)
    top = pruner.prune(image.entries[0]) or pruner.emptied(image.entries[0])
    blobs = tuple(graph.preorder(top, pruner.children))
    return msgspec.structs.replace(image, entries=(top,), blobs=blobs, generated=pruner.generated)


def _flatten(image: ArchiveImage, step: graph.Children) -> ArchiveImage:
    """Replace the index by its only image.

    With several images, importers would give the name to the last one, since they ignore platforms there.
    Attestations and other content get no name, or an import would mistake them for the image. The platform is
    removed from the image, or an import on another host would skip it.
    """
    target = image.entries[0]
    origin = {**target.annotations, ORIGINAL_INDEX: str(target.digest)}
    leaves = [
        msgspec.structs.replace(leaf, annotations={**leaf.annotations, **origin})
        for leaf in graph.by_digest(graph.leaves_of(target, step)).values()
    ]
    only = only_image(filter(graph.is_image, leaves))
    return msgspec.structs.replace(
        image,
        entries=(msgspec.structs.replace(only, platform=None),),
        companions=tuple(leaf for leaf in leaves if not graph.is_image(leaf)),
        blobs=tuple(blob for blob in image.blobs if not mediatypes.is_index(blob.media_type)),
    )

"""What of an image goes into an archive: its documents are read, nothing is written.

On purpose other than containerd's exporter: a nested index is filtered by platform too (there: all of it goes
in), and so can give the manifest that docker is to load (there: the export fails); with all platforms the
image need not have the host's (there: `no manifest found for platform`).

Source: containerd core/images/archive/exporter.go Export, getRecords.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Literal, TypeAlias

import msgspec

from pyctrd.archive.layout import ArchiveImage, DockerEntry
from pyctrd.errors import ArchiveError, ContentError, NotFound
from pyctrd.oci import graph, mediatypes
from pyctrd.oci.model import Descriptor, Digest, ImageConfig, ImageRecord, Manifest, Platform
from pyctrd.oci.platforms import Matcher
from pyctrd.oci.prune import ORIGINAL_INDEX, Pruner, only_image

IndexMode: TypeAlias = Literal["keep", "prune", "flatten"]


def contents(
    image: ImageRecord,
    read: graph.ReadDocument,
    targets: Matcher,
    *,
    preferences: Sequence[Matcher],
    mode: IndexMode = "keep",
    sources: Mapping[str, str] | None = None,
) -> ArchiveImage:
    """Collect an image's content for the target platforms.

    `read` gives a document's bytes, and may raise NotFound. `preferences` choose the manifest that docker
    loads, the first that matches anything decides; without one the image has no entry in manifest.json.
    `sources` are the `containerd.io/distribution.source.*` labels of the target's blob.
    Raises ArchiveError when the target is neither an index nor a manifest, InvalidInput for several images
    to flatten, and ContentError.
    """
    require_exportable(image.target)
    step = graph.only_platforms(graph.read_children(read), targets)
    blobs = tuple(graph.preorder(image.target, step))
    manifests = [item for item in blobs if graph.is_image(item)]
    found = ArchiveImage(
        name=image.name,
        entries=(image.target,),
        sources=sources or {},
        docker=_docker_entry(image.target, read, step, preferences),
        blobs=blobs,
        platforms=tuple(dict.fromkeys(item for item in map(_platform_of(read), manifests) if item)),
    )
    if mediatypes.is_index(image.target.media_type):
        if mode == "prune":
            return _prune(found, read, step)
        if mode == "flatten":
            return _flatten(found, step)
    return found


def require_exportable(target: Descriptor) -> None:
    """Raise ArchiveError for a target that is neither an index nor a manifest."""
    if not graph.has_children(target):
        raise ArchiveError(f"only manifests may be exported: {target.media_type}: invalid argument")


# --- docker's one manifest --------------------------------------------------------------------------------


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
    """Find the manifest that a matcher likes best; an attestation never is. Each index is read once."""
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


def _platform_of(read: graph.ReadDocument) -> Callable[[Descriptor], Platform | None]:
    """Give a manifest's platform: the index's word for it, else that of its config, where it is there."""

    def find(descriptor: Descriptor) -> Platform | None:
        if descriptor.platform is not None:
            return descriptor.platform
        config = Manifest.parse(read(descriptor)).config
        if not mediatypes.is_image_config(config.media_type):
            return None
        try:
            found = ImageConfig.parse(read(config)).platform
            return found if found.os or found.architecture else None  # a signature has none
        except (NotFound, ContentError):  # still to be fetched, in a plan; or no config that we understand
            return None

    return find


# --- other forms of the index -----------------------------------------------------------------------------


def _prune(image: ArchiveImage, read: graph.ReadDocument, step: graph.Children) -> ArchiveImage:
    """Rewrite the index, and those in it, to what the archive holds."""
    pruner = Pruner(read, step)
    top = pruner.prune(image.entries[0]) or pruner.emptied(image.entries[0])
    blobs = tuple(graph.preorder(top, pruner.children))
    return msgspec.structs.replace(image, entries=(top,), blobs=blobs, generated=pruner.generated)


def _flatten(image: ArchiveImage, step: graph.Children) -> ArchiveImage:
    """Put the one image where the index was; the index itself is left out.

    With several of them the name would be the last one's: importers know nothing of platforms there.
    Attestations and what is no manifest at all get no name: an import would take them for the image. The
    image loses its platform, since an import on another host would skip it.
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

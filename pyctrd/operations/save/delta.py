"""Leave out the layers that the target of an archive has already, and write down which these are.

The archive stays an OCI layout whose indexes, manifests and configs are complete: an import finds the layers
in the content store, or does not need them where their snapshots exist.

Source: containerd core/unpack/unpacker.go, which skips layers whose snapshot exists.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from pyctrd.archive.contents import platform_of
from pyctrd.archive.inventory import Have
from pyctrd.archive.layout import ArchiveImage
from pyctrd.archive.presumed import Presumed
from pyctrd.oci import graph, mediatypes
from pyctrd.oci.model import Descriptor, Digest, Manifest


def without_presumed(children: graph.Children, read: graph.ReadDocument, have: Have) -> graph.Children:
    """Leave out the layers of manifests that the target has; `read` is only called for configs."""

    def step(descriptor: Descriptor) -> Sequence[Descriptor]:
        found = children(descriptor)
        if not mediatypes.is_manifest(descriptor.media_type) or not found:
            return found
        config, layers = found[0], found[1:]
        chains = graph.chain_ids(config, layers, read) if have.chain_ids else [None] * len(layers)
        return [
            config,
            *(
                layer
                for layer, chain in zip(layers, chains, strict=True)
                if layer.digest not in have.blobs and chain not in have.chain_ids
            ),
        ]

    return step


def presumed(
    archived: Iterable[tuple[ArchiveImage, graph.ReadDocument]],
) -> tuple[Presumed, ...]:
    """Return the layers of the archived manifests that are not in the archive."""
    images = list(archived)
    inside = {blob.digest for image, _read in images for blob in image.blobs}
    found: dict[Digest, list[Presumed]] = {}
    for image, read in images:
        for layer in _layers(image, read):
            if layer.layer.digest not in inside:
                found.setdefault(layer.layer.digest, []).append(layer)
    return tuple(_united(found[digest]) for digest in sorted(found))


def _layers(image: ArchiveImage, read: graph.ReadDocument) -> Iterator[Presumed]:
    for blob in graph.by_digest(image.blobs).values():
        if mediatypes.is_manifest(blob.media_type):
            manifest = Manifest.parse(read(blob))
            platform = platform_of(blob, read)
            chains = graph.chain_ids(manifest.config, manifest.layers, read)
            for layer, chain in zip(manifest.layers, chains, strict=True):
                yield Presumed(
                    layer=layer,
                    chain_ids=(chain,) if chain else (),
                    platforms=(platform,) if platform else (),
                )


def _united(found: Sequence[Presumed]) -> Presumed:
    """Return what several manifests say about one layer."""
    chains = dict.fromkeys(chain for item in found for chain in item.chain_ids)
    known = all(item.platforms for item in found)
    names = dict.fromkeys(platform for item in found for platform in item.platforms) if known else ()
    return Presumed(layer=found[0].layer, chain_ids=tuple(chains), platforms=tuple(names))

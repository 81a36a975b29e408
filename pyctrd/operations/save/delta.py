"""Leave out the layers that the target of an archive has already, and write down which these are.

The archive stays an OCI layout whose indexes, manifests and configs are complete: an import finds the layers
in the content store, or does not need them where their snapshots exist.

Source: containerd core/unpack/unpacker.go, which skips layers whose snapshot exists.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import msgspec

from pyctrd.archive.inventory import Have
from pyctrd.archive.layout import ArchiveImage
from pyctrd.errors import ContentError, NotFound
from pyctrd.oci import gojson, graph, mediatypes
from pyctrd.oci.model import Descriptor, Digest, ImageConfig, Manifest


class Presumed(msgspec.Struct, frozen=True, kw_only=True):
    """A layer that an archive leaves out, and the chain ids of the snapshots that make up for it."""

    layer: Descriptor
    chain_ids: tuple[Digest, ...] = ()


def without_presumed(children: graph.Children, read: graph.ReadDocument, have: Have) -> graph.Children:
    """Leave out the layers of manifests that the target has; `read` is only called for configs."""

    def step(descriptor: Descriptor) -> Sequence[Descriptor]:
        found = children(descriptor)
        if not mediatypes.is_manifest(descriptor.media_type) or not found:
            return found
        config, layers = found[0], found[1:]
        chains = _chain_ids(config, layers, read) if have.chain_ids else [None] * len(layers)
        return [
            config,
            *(
                layer
                for layer, chain in zip(layers, chains, strict=True)
                if layer.digest not in have.blobs and chain not in have.chain_ids
            ),
        ]

    return step


def _chain_ids(
    config: Descriptor, layers: Sequence[Descriptor], read: graph.ReadDocument
) -> Sequence[Digest | None]:
    """Return the chain id of each layer, None where the config does not say it."""
    unknown = [None] * len(layers)
    if not mediatypes.is_image_config(config.media_type):
        return unknown
    try:
        found = ImageConfig.parse(read(config)).rootfs.chain_ids
    except (NotFound, ContentError):
        return unknown
    return found if len(found) == len(layers) else unknown


def presumed(
    archived: Iterable[tuple[ArchiveImage, graph.ReadDocument]],
) -> tuple[Presumed, ...]:
    """Return the layers of the archived manifests that are not in the archive."""
    images = list(archived)
    inside = {blob.digest for image, _read in images for blob in image.blobs}
    layers: dict[Digest, Descriptor] = {}
    chains: dict[Digest, dict[Digest, None]] = {}
    for image, read in images:
        for layer, chain in _layers(image, read):
            if layer.digest not in inside:
                layers.setdefault(layer.digest, layer)
                known = chains.setdefault(layer.digest, {})
                if chain is not None:
                    known[chain] = None
    return tuple(
        Presumed(layer=layer, chain_ids=tuple(chains[digest])) for digest, layer in sorted(layers.items())
    )


def _layers(image: ArchiveImage, read: graph.ReadDocument) -> Iterator[tuple[Descriptor, Digest | None]]:
    for blob in graph.by_digest(image.blobs).values():
        if mediatypes.is_manifest(blob.media_type):
            manifest = Manifest.parse(read(blob))
            yield from zip(manifest.layers, _chain_ids(manifest.config, manifest.layers, read), strict=True)


def document(found: Sequence[Presumed]) -> bytes:
    """Return the file in the archive that says what it presumes: see layout.build."""
    items: list[dict[str, Any]] = [
        {
            "mediaType": item.layer.media_type,
            "digest": str(item.layer.digest),
            "size": item.layer.size,
            "chain_ids": list(map(str, item.chain_ids)),
        }
        for item in found
    ]
    return gojson.marshal({"schema": 1, "presumed": items})

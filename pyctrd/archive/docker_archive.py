"""An archive in the format of `docker save` before Docker 25: manifest.json, configs and uncompressed layers.

For programs that do not read OCI layouts, or take layers as they are: Docker before 23 cannot load layers
that are compressed with zstd, and other programs expect a tar in every layer. An image has one platform,
and no index. The names of the files are those that skopeo uses.

Source: moby image/tarexport/load.go; containers/image docker/internal/tarfile/writer.go.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import chain
from typing import Final, TypeAlias

import msgspec

from pyctrd.archive.copying import Reader
from pyctrd.archive.decompress import MAGIC_BYTES, Decompressed, compression_of
from pyctrd.archive.layout import ArchiveImage, Entry, Layout, repo_tags
from pyctrd.errors import REPAIR, REPAIR_HINT, ArchiveError, ContentError, DigestMismatch
from pyctrd.oci import gojson, graph, mediatypes
from pyctrd.oci.model import Descriptor, Digest, ImageConfig, Manifest
from pyctrd.oci.prune import only_image
from pyctrd.ports import Chunk

_CHUNK_BYTES: Final = 1 << 20

# Called with a layer and how many bytes of it were read.
Measuring: TypeAlias = Callable[[Descriptor, int], None]


class DockerImage(msgspec.Struct, frozen=True, kw_only=True):
    """An image for docker: its config, and its layers with the digests of their uncompressed bytes."""

    config: Descriptor
    layers: tuple[tuple[Digest, Descriptor], ...]
    tags: tuple[str, ...]


def image_of(image: ArchiveImage, read: graph.ReadDocument, *, planned: bool = False) -> DockerImage:
    """Return the only image in an ArchiveImage.

    If it is only `planned`, its config is not read, which may be absent: the digests of the layers stand for
    those of their uncompressed bytes. Raises InvalidInput if there are several, ArchiveError for what is no
    image, ContentError.
    """
    manifest = Manifest.parse(read(only_image(filter(graph.is_image, image.blobs), "`format=docker`")))
    config = manifest.config
    if not mediatypes.is_image_config(config.media_type):
        raise ArchiveError(
            f"{image.name}: docker cannot load a config of type {config.media_type}",
            hint="it is not a container image; save it with `format=oci`",
        )
    diff_ids = (
        tuple(layer.digest for layer in manifest.layers)
        if planned
        else ImageConfig.parse(read(config)).rootfs.diff_ids
    )
    if len(diff_ids) != len(manifest.layers):
        raise ContentError(
            f"mismatched image rootfs and manifest layers: {config.digest} has {len(diff_ids)} diff ids, and "
            f"the manifest {len(manifest.layers)} layers"
        )
    return DockerImage(
        config=config,
        layers=tuple(zip(diff_ids, manifest.layers, strict=True)),
        tags=tuple(repo_tags(image.name)),
    )


def layers_of(images: Sequence[DockerImage]) -> dict[Digest, Descriptor]:
    """Return the distinct layers, by the digests of their uncompressed bytes."""
    found: dict[Digest, Descriptor] = {}
    for image in images:
        for diff_id, layer in image.layers:
            found.setdefault(diff_id, layer)
    return found


def descriptors(images: Sequence[DockerImage]) -> dict[str, Descriptor]:
    """Return the blobs that the members of the archive are made of, by the members' names."""
    configs = {_config_name(image.config): image.config for image in images}
    return configs | {_layer_name(diff_id): layer for diff_id, layer in layers_of(images).items()}


def blobs_of(images: Sequence[DockerImage]) -> tuple[Digest, ...]:
    """Return the digests of these blobs, in the order of the members."""
    return tuple(item.digest for _name, item in sorted(descriptors(images).items()))


def measure(
    layers: Mapping[Digest, Descriptor], read: Reader, progress: Measuring = lambda _layer, _offset: None
) -> dict[Digest, int]:
    """Return the uncompressed size of each layer, which its tar header needs, by decompressing it.

    Raises DigestMismatch if a layer is not what the config says, ContentError if it cannot be decompressed.
    """
    sizes: dict[Digest, int] = {}
    for diff_id, layer in layers.items():
        found, size = hashlib.new(diff_id.algorithm), 0
        with read(layer.digest) as chunks:
            for chunk in _uncompressed(layer, _watched(layer, chunks, progress)):
                found.update(chunk)
                size += len(chunk)
        actual = f"{diff_id.algorithm}:{found.hexdigest()}"
        if actual != diff_id:
            raise DigestMismatch(
                f"layer {layer.digest} has the diff id {actual} instead of {diff_id}",
                expected=diff_id,
                actual=actual,
                hint=REPAIR_HINT,
                remedy=REPAIR,
            )
        sizes[diff_id] = size
    return sizes


def _watched(layer: Descriptor, chunks: Iterator[Chunk], progress: Measuring) -> Iterator[Chunk]:
    offset = 0
    for chunk in chunks:
        offset += len(chunk)
        progress(layer, offset)
        yield chunk


def _uncompressed(layer: Descriptor, chunks: Iterator[Chunk]) -> Iterator[Chunk]:
    """Yield the uncompressed bytes of a layer, which its first bytes tell how to get, as in containerd.

    Raises ContentError.
    """
    first = b""
    for chunk in chunks:
        first += chunk
        if len(first) >= MAGIC_BYTES:
            break
    compression = compression_of(first)
    if not compression:
        return chain([first] if first else [], chunks)
    return _decoded(layer, Decompressed(_reading(filter(len, chain([first], chunks))), compression))


def _reading(chunks: Iterator[Chunk]) -> Callable[[int], bytes]:
    """Return the function that Decompressed reads with, which may return more than it is asked for."""
    return lambda _size: bytes(next(chunks, b""))


def _decoded(layer: Descriptor, stream: Decompressed) -> Iterator[Chunk]:
    try:
        while chunk := stream.read(_CHUNK_BYTES):
            yield chunk
    except ArchiveError as error:
        raise ContentError(
            f"layer {layer.digest} cannot be decompressed: {error.message}", hint=REPAIR_HINT, remedy=REPAIR
        ) from error


def build(images: Sequence[DockerImage], sizes: Mapping[Digest, int]) -> Layout:
    """Return the layout of an archive; `sizes` are those of `measure`, and the names of images unite."""
    entries = {"manifest.json": _manifest_json(images)}
    for config in graph.by_digest(image.config for image in images).values():
        entries[_config_name(config)] = Entry(
            name=_config_name(config), mode=0o444, size=config.size, source=config.digest
        )
    for diff_id in layers_of(images):
        name = _layer_name(diff_id)
        entries[name] = Entry(name=name, mode=0o444, size=sizes[diff_id], source=diff_id)
    return Layout(entries=tuple(entries[name] for name in sorted(entries)))


def reader(layers: Mapping[Digest, Descriptor], read: Reader) -> Reader:
    """Return a reader that also opens the uncompressed bytes of layers, by their digests."""

    @contextmanager
    def opened(digest: Digest) -> Iterator[Iterator[Chunk]]:
        layer = layers.get(digest)
        with read(layer.digest if layer else digest) as chunks:
            yield _uncompressed(layer, chunks) if layer else chunks

    return opened


def _config_name(config: Descriptor) -> str:
    return f"{config.digest.encoded}.json"


def _layer_name(diff_id: Digest) -> str:
    return f"{diff_id.encoded}.tar"


def _manifest_json(images: Sequence[DockerImage]) -> Entry:
    first: dict[Digest, DockerImage] = {}
    tags: dict[Digest, list[str]] = {}
    for image in images:
        first.setdefault(image.config.digest, image)
        tags.setdefault(image.config.digest, []).extend(image.tags)
    data = gojson.marshal(
        [
            {
                "Config": _config_name(image.config),
                "RepoTags": tags[digest] or None,
                "Layers": [_layer_name(diff_id) for diff_id, _layer in image.layers] or None,
            }
            for digest, image in first.items()
        ]
    )
    return Entry(name="manifest.json", mode=0o644, size=len(data), source=data)

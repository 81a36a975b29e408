"""Make manifests for the images of docker's archive, which has none: those that containerd's import makes.

A layer that the store has in compressed form, which the label `containerd.io/uncompressed` says, is not
stored a second time: the manifest refers to the compressed one.

Source: containerd core/images/archive/importer.go ImportIndex, resolveLayers.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import msgspec

from pyctrd.archive.decompress import compression_of
from pyctrd.archive.files import File, Files
from pyctrd.archive.images import DockerImage, docker_names
from pyctrd.errors import ArchiveError, ContentError, InvalidReference, NotFound
from pyctrd.oci import gojson, mediatypes, platforms
from pyctrd.oci.model import MAX_CONFIG_BYTES, ContentInfo, Descriptor, Digest, ImageConfig
from pyctrd.ports import ContentStore


def manifests(
    images: Sequence[DockerImage], files: Files, content: ContentStore | None
) -> Iterator[Descriptor]:
    """Yield an index entry for each tag of each image, and one without a name for an image without tags.

    Adds the manifests, and the digests of configs and layers, to `files`. Without `content`, no store is
    asked for compressed layers. Raises ArchiveError.
    """
    for image in images:
        entry = _manifest(image, files, content)
        try:
            names = [docker_names(tag) for tag in image.repo_tags]
        except InvalidReference as error:
            raise ArchiveError(f"manifest.json of the archive: {error.message}", hint=error.hint) from error
        if not names:
            yield entry
        for name in names:
            yield msgspec.structs.replace(entry, annotations=name)


def _manifest(image: DockerImage, files: Files, content: ContentStore | None) -> Descriptor:
    file = files.file(image.config)
    raw = files.read(file, limit=MAX_CONFIG_BYTES)
    try:
        parsed = ImageConfig.parse(raw)
        diff_ids = parsed.rootfs.diff_ids
    except ContentError as error:
        raise ArchiveError(f"{image.config} in the archive: {error.message}", hint=error.hint) from error
    if len(diff_ids) != len(image.layers):
        raise ArchiveError(
            f"mismatched image rootfs and manifest layers: {len(diff_ids)} diff ids in {image.config}, "
            f"{len(image.layers)} layers in manifest.json"
        )
    config = _added(files, file, Digest.of(raw), mediatypes.DOCKER_CONFIG)
    given = [
        _layer(files, files.file(name), diff_id) for name, diff_id in zip(image.layers, diff_ids, strict=True)
    ]
    present = _compressed(content, {layer.digest for layer in given}) if content is not None else {}
    layers = [present.get(layer.digest, layer) for layer in given]
    document = {
        "schemaVersion": 2,
        "mediaType": mediatypes.DOCKER_MANIFEST,
        "config": gojson.descriptor(config),
        "layers": [gojson.descriptor(layer) for layer in layers],
    }
    data = gojson.marshal(document)
    found = parsed.platform
    return Descriptor(
        media_type=mediatypes.DOCKER_MANIFEST,
        digest=files.add_document(data),
        size=len(data),
        platform=platforms.normalize(found) if found.os or found.architecture else None,
    )


def _layer(files: Files, file: File, diff_id: Digest) -> Descriptor:
    """Return a layer's descriptor. The digest of an uncompressed one is its diff id, so it need not be read.

    That it is, is checked when it is stored.
    """
    if _is_compressed(files.head(file)):
        return _added(files, file, files.hash(file), f"{mediatypes.DOCKER_LAYER}.gzip")
    if file.digest is not None and file.digest != diff_id:
        raise ArchiveError(
            f"wrong diff id: {file.name} in the archive has the digest {file.digest}, the image config has "
            f"{diff_id}"
        )
    return _added(files, file, diff_id, mediatypes.DOCKER_LAYER)


def _is_compressed(head: bytes) -> bool:
    """Whether containerd would decompress a layer; like its import, this calls zstd gzip.

    Its unpacker looks at the first bytes, not at the media type (pkg/archive/compression).
    """
    return compression_of(head) in ("gzip", "zstd")


def _added(files: Files, file: File, digest: Digest, media_type: str) -> Descriptor:
    files.add_blob(digest, file)
    return Descriptor(media_type=media_type, digest=digest, size=file.size)


def _compressed(content: ContentStore, diff_ids: Iterable[Digest]) -> dict[Digest, Descriptor]:
    """Return the layers that the store has in compressed form, by the digest of the uncompressed form."""
    filters = [f'labels."{mediatypes.UNCOMPRESSED}"=={digest}' for digest in diff_ids]
    found = sorted(content.list(filters), key=lambda info: info.digest) if filters else []
    return {
        Digest(info.labels[mediatypes.UNCOMPRESSED]): _present(content, info)
        for info in found  # as in containerd, of several the last one counts
    }


def _present(content: ContentStore, info: ContentInfo) -> Descriptor:
    try:
        with content.read(info.digest, size=10) as chunks:
            head = b"".join(map(bytes, chunks))
    except NotFound:
        head = b""
    suffix = ".gzip" if _is_compressed(head) else ""
    return Descriptor(media_type=f"{mediatypes.DOCKER_LAYER}{suffix}", digest=info.digest, size=info.size)

"""The images that an archive names: parse oci-layout, index.json and manifest.json.

As in containerd, an archive with an oci-layout is an OCI layout, and its manifest.json is ignored; without,
it is one of docker's, which podman, skopeo, kaniko and bazel write, too.

Sources: OCI image-spec image-layout.md; moby image/spec/v1.2.md; containerd core/images/archive/importer.go.
"""

from __future__ import annotations

import posixpath
from collections.abc import Mapping
from typing import Final

import msgspec

from pyctrd.archive.layout import IMAGE_NAME, REF_NAME
from pyctrd.archive.presumed import PRESUMED
from pyctrd.errors import ArchiveError, ContentError
from pyctrd.oci import graph, reference, referrers
from pyctrd.oci.model import Descriptor, Index, convert, parse_json

LAYOUT: Final = "oci-layout"
INDEX: Final = "index.json"
DOCKER_MANIFESTS: Final = "manifest.json"
# How many bytes of each are read; that of index.json and manifest.json is containerd's.
DOCUMENT_BYTES: Final[Mapping[str, int]] = {
    LAYOUT: 4096,
    INDEX: 20 << 20,
    DOCKER_MANIFESTS: 20 << 20,
    PRESUMED: 20 << 20,
}

# The server's limit is that of a bolt key, 32 KiB; no reference is longer than this.
_MAX_NAME_LENGTH: Final = 1024
_VERSION: Final = "1.0.0"
_HINT: Final = "the archive is broken or malicious; nothing of it was stored"


class DockerImage(msgspec.Struct, frozen=True, rename="pascal"):
    """An entry of manifest.json: the names of its config and layers in the archive, and its tags."""

    config: str
    repo_tags: tuple[str, ...] = ()
    layers: tuple[str, ...] = ()


def parse_documents(documents: Mapping[str, bytes]) -> Index | tuple[DockerImage, ...]:
    """Return the index of an OCI layout, or the images of docker's archive.

    `documents` are the contents of the three files above. Raises ArchiveError.
    """
    try:
        if LAYOUT in documents:
            _check_version(documents[LAYOUT])
            if INDEX not in documents:
                raise ArchiveError(f"missing {INDEX} in OCI layout {_VERSION}")
            return Index.parse(documents[INDEX])
        if DOCKER_MANIFESTS not in documents:
            raise ArchiveError(
                f"unrecognized image format: there is neither {LAYOUT} nor {DOCKER_MANIFESTS} in it",
                hint="pass an archive of `docker save`, `ctr images export` or `pyctrd save`; that of "
                "`docker export` has no image",
            )
        return _docker_images(documents[DOCKER_MANIFESTS])
    except ContentError as error:
        found = INDEX if LAYOUT in documents else DOCKER_MANIFESTS
        raise ArchiveError(f"{found} of the archive: {error.message}", hint=error.hint or _HINT) from error


def _check_version(raw: bytes) -> None:
    try:
        document = parse_json(raw)
    except ContentError as error:
        raise ArchiveError(f"{LAYOUT} of the archive: {error.message}", hint=_HINT) from error
    version = document.get("imageLayoutVersion") if isinstance(document, dict) else None
    if version != _VERSION:
        raise ArchiveError(f"unsupported OCI version {str(version)[:100]!r} in {LAYOUT}: not {_VERSION}")


def _docker_images(raw: bytes) -> tuple[DockerImage, ...]:
    document = parse_json(raw)
    if not isinstance(document, list):
        raise ContentError("not a list of images")
    try:
        found = [convert(item, DockerImage) for item in document]
    except msgspec.ValidationError as error:
        raise ContentError(str(error)) from error
    return tuple(
        DockerImage(
            config=_clean(item.config), repo_tags=item.repo_tags, layers=tuple(map(_clean, item.layers))
        )
        for item in found
    )


def _clean(name: str) -> str:
    return posixpath.normpath(name)


def docker_names(tag: str) -> dict[str, str]:
    """Return the annotations for one of an image's tags. Raises InvalidReference."""
    found = reference.parse(tag)
    if found.digest:
        found = msgspec.structs.replace(found, tag="")  # as distribution's ParseDockerRef
    return {IMAGE_NAME: str(found), REF_NAME: reference.oci_ref_name(str(found))}


def image_name(annotations: Mapping[str, str], *, prefix: str, only_prefix: bool) -> str:
    """Return the name of an entry of index.json as an image; "" if it has none.

    A name that is only a tag is appended to `prefix`. With `only_prefix`, other names count only if they
    begin with the prefix. Source: containerd core/images/archive/reference.go,
    core/transfer/image/imagestore.go.
    """
    name = annotations.get(IMAGE_NAME) or annotations.get(REF_NAME, "")
    if not name or (not annotations.get(IMAGE_NAME) and not set(name) & set("/:@")):
        return f"{prefix}:{name}" if name else ""
    rest = name.removeprefix(prefix)
    begins = name.startswith(prefix) and (not rest or rest[0] in "/:@")
    return name if begins or not only_prefix else ""


def is_name(text: str) -> bool:
    """Whether a text can be the name of an image: containerd would accept any."""
    return 0 < len(text) <= _MAX_NAME_LENGTH and text.isprintable() and " " not in text


def is_image(entry: Descriptor) -> bool:
    """Whether an entry is an image of its own; attestations and referrers only accompany one."""
    return (
        graph.has_children(entry)
        and not graph.is_attestation(entry)
        and not entry.artifact_type
        and referrers.SUBJECT not in entry.annotations
    )

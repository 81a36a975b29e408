"""The referrers of a manifest as an index under a tag, for registries without the referrers API.

Source: OCI distribution-spec 1.1 ("Pushing Manifests with Subject", "Referrers Tag Schema").
"""

from __future__ import annotations

from typing import Any, Final

from pyctrd.oci import gojson, mediatypes
from pyctrd.oci.model import Descriptor, Digest, Index, Manifest, parse_json

_MAX_ENCODED: Final = 64


def tag_of(subject: Digest) -> str:
    """Return the tag under which the referrers of a digest are listed."""
    return f"{subject.algorithm}-{subject.encoded[:_MAX_ENCODED]}"


def subject_of(descriptor: Descriptor, raw: bytes) -> Descriptor | None:
    """Return the subject of a manifest or an index. Raises ContentError if the bytes are neither."""
    return _parse(descriptor, raw).subject


def listed(descriptor: Descriptor, raw: bytes, present: bytes | None) -> bytes | None:
    """Return the bytes of the list with a manifest added; None if it is already listed.

    `present` is the current list, None for none. Raises ContentError if it is not an index.
    """
    document: dict[str, Any] = {"schemaVersion": 2, "mediaType": mediatypes.OCI_INDEX, "manifests": []}
    if present is not None:
        if any(item.digest == descriptor.digest for item in Index.parse(present).manifests):
            return None
        document = {"manifests": [], **parse_json(present)}
    document["manifests"].append(_entry(descriptor, raw))
    return gojson.marshal(document)


def _entry(descriptor: Descriptor, raw: bytes) -> dict[str, Any]:
    parsed = _parse(descriptor, raw)
    kind = parsed.artifact_type or (parsed.config.media_type if isinstance(parsed, Manifest) else "")
    return gojson.descriptor(
        Descriptor(
            media_type=descriptor.media_type,
            digest=descriptor.digest,
            size=descriptor.size,
            annotations=parsed.annotations,
            artifact_type=kind,
        )
    )


def _parse(descriptor: Descriptor, raw: bytes) -> Manifest | Index:
    return Index.parse(raw) if mediatypes.is_index(descriptor.media_type) else Manifest.parse(raw)


def descriptor_of(raw: bytes) -> Descriptor:
    """Return the descriptor of a list."""
    return Descriptor(media_type=mediatypes.OCI_INDEX, digest=Digest.of(raw), size=len(raw))

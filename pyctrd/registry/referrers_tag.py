"""The referrers of a manifest as an index under a tag, for registries without the referrers API.

Source: OCI distribution-spec 1.1 ("Pushing Manifests with Subject", "Referrers Tag Schema").
"""

from __future__ import annotations

from typing import Any, Final

from pyctrd.oci import gojson, mediatypes, referrers
from pyctrd.oci.model import Descriptor, Digest, Index, parse_json

_MAX_ENCODED: Final = 64


def tag_of(subject: Digest) -> str:
    """Return the tag under which the referrers of a digest are listed."""
    return f"{subject.algorithm}-{subject.encoded[:_MAX_ENCODED]}"


def listed(descriptor: Descriptor, raw: bytes, present: bytes | None) -> bytes | None:
    """Return the bytes of the list with a manifest added; None if it is already listed.

    `present` is the current list, None for none. Raises ContentError if it is not an index.
    """
    document: dict[str, Any] = {"schemaVersion": 2, "mediaType": mediatypes.OCI_INDEX, "manifests": []}
    if present is not None:
        if any(item.digest == descriptor.digest for item in Index.parse(present).manifests):
            return None
        document = {"manifests": [], **parse_json(present)}
    document["manifests"].append(gojson.descriptor(referrers.described(descriptor, raw)))
    return gojson.marshal(document)


def descriptor_of(raw: bytes) -> Descriptor:
    """Return the descriptor of a list."""
    return Descriptor(media_type=mediatypes.OCI_INDEX, digest=Digest.of(raw), size=len(raw))

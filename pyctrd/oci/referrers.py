"""Referrers: manifests whose `subject` is another one, such as the signatures and SBOMs of an image.

Sources: OCI image-spec manifest.md and image-index.md (`subject`); OCI distribution-spec 1.1 ("Listing
Referrers"); containerd core/images/annotations.go, mediatypes.go ChildGCLabels, handlers.go SetReferrers.
"""

from __future__ import annotations

from typing import Final

import msgspec

from pyctrd.errors import ContentError
from pyctrd.oci import graph, mediatypes
from pyctrd.oci.model import Descriptor, Digest, Index, Manifest, parse_json

# The annotation of a referrer in index.json of an archive of containerd 2.2 and later: the subject's digest.
SUBJECT: Final = "io.containerd.manifest.subject"
# A signature of an SBOM is on level 2; the limit only stops a registry that makes up new ones forever.
MAX_LEVELS: Final = 8

_GC_REFERRER: Final = f"{mediatypes.GC_REF}referrer.sha256."
_GC_BACK_REFERENCE: Final = "containerd.io/gc.bref.content"
_SHORT: Final = 12
# With one of these, an import would make an image of the referrer.
_NAMES: Final = frozenset({"io.containerd.image.name", "org.opencontainers.image.ref.name"})


class Referrer(msgspec.Struct, frozen=True, kw_only=True):
    """A manifest or an index that refers to `subject`; `target` has its artifact type and annotations."""

    subject: Digest
    target: Descriptor


def gc_label(referrer: Digest) -> dict[str, str]:
    """Return the label of a subject that protects a referrer from the garbage collector.

    containerd 2.2 and later set the same one; every release follows it.
    """
    return {f"{_GC_REFERRER}{referrer.encoded[:_SHORT]}": str(referrer)}


def is_gc_label(key: str) -> bool:
    """Whether this is the key of a label of `gc_label`."""
    return key.startswith(_GC_REFERRER)


def is_back_reference(key: str) -> bool:
    """Whether this is the key of a label with which content of containerd 2.2 and later names its parent."""
    return key == _GC_BACK_REFERENCE or key.startswith((f"{_GC_BACK_REFERENCE}.", f"{_GC_BACK_REFERENCE}/"))


def subject_of(descriptor: Descriptor, raw: bytes) -> Descriptor | None:
    """Return the subject of a manifest or an index. Raises ContentError if the bytes are neither."""
    return _parse(descriptor, raw).subject


def described(descriptor: Descriptor, raw: bytes) -> Descriptor:
    """Return a descriptor as in a list of referrers, with artifact type and annotations.

    Raises ContentError if the bytes are neither a manifest nor an index.
    """
    parsed = _parse(descriptor, raw)
    kind = parsed.artifact_type or (parsed.config.media_type if isinstance(parsed, Manifest) else "")
    return Descriptor(
        media_type=descriptor.media_type,
        digest=descriptor.digest,
        size=descriptor.size,
        annotations=parsed.annotations,
        artifact_type=kind,
    )


def recognized(digest: Digest, raw: bytes) -> Descriptor | None:
    """Return the descriptor of a stored manifest or index; None for other content."""
    try:
        document = parse_json(raw)
        if not isinstance(document, dict):
            return None
        default = mediatypes.OCI_INDEX if "manifests" in document else mediatypes.OCI_MANIFEST
        media_type = document.get("mediaType") or default
        found = Descriptor(media_type=str(media_type), digest=digest, size=len(raw))
        return described(found, raw) if graph.has_children(found) else None
    except ContentError:
        return None


def listed(referrer: Referrer) -> Descriptor:
    """Return the entry for index.json of an archive, which has no name.

    Source: containerd core/images/archive/exporter.go getRecords.
    """
    kept = {
        key: value
        for key, value in referrer.target.annotations.items()
        if key not in _NAMES and not key.startswith(mediatypes.DISTRIBUTION_SOURCE)
    }
    return Descriptor(
        media_type=referrer.target.media_type,
        digest=referrer.target.digest,
        size=referrer.target.size,
        annotations={**kept, SUBJECT: str(referrer.subject)},
        artifact_type=referrer.target.artifact_type,
    )


def _parse(descriptor: Descriptor, raw: bytes) -> Manifest | Index:
    return Index.parse(raw) if mediatypes.is_index(descriptor.media_type) else Manifest.parse(raw)

"""JSON as Go's encoding/json writes it, for documents that must be byte-identical to containerd's.

Sources: Go encoding/json (HTML escaping, sorted map keys); image-spec specs-go/v1 (field order, omitempty).
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from typing import Any, Final

from pyctrd.oci.model import Descriptor, Manifest, Platform

_ESCAPED: Final = {ord(char): f"\\u{ord(char):04x}" for char in "<>&\u2028\u2029"}


def marshal(value: Any, *, indent: int | None = None) -> bytes:
    """Encode dicts, lists, strings and numbers; dicts keep their order.

    `indent` is the number of spaces per level (Go's MarshalIndent without a prefix); None means compact.
    """
    separators = (",", ":") if indent is None else (",", ": ")
    text = json.dumps(value, ensure_ascii=False, indent=indent, separators=separators)
    # Go before 1.22 writes \b and \f as \u escapes, later ones do not. No real document contains them.
    return text.translate(_ESCAPED).encode()


def descriptor(item: Descriptor) -> dict[str, Any]:
    """Return a descriptor's fields in the order of ocispec.Descriptor, without empty ones."""
    fields: dict[str, Any] = {
        "mediaType": item.media_type,
        "digest": str(item.digest),
        "size": item.size,
        "urls": list(item.urls),
        "annotations": sorted_map(item.annotations),
        "data": base64.b64encode(item.data).decode(),
        "platform": platform(item.platform) if item.platform else None,
        "artifactType": item.artifact_type,
    }
    required = ("mediaType", "digest", "size")
    return {key: value for key, value in fields.items() if value or key in required}


def platform(item: Platform) -> dict[str, Any]:
    """Return a platform's fields in the order of ocispec.Platform."""
    fields: dict[str, Any] = {
        "architecture": item.architecture,
        "os": item.os,
        "os.version": item.os_version,
        "os.features": list(item.os_features),
        "variant": item.variant,
    }
    return {key: value for key, value in fields.items() if value or key in ("architecture", "os")}


def manifest(item: Manifest) -> dict[str, Any]:
    """Return a manifest's fields in the order of ocispec.Manifest, without fields that it does not have."""
    fields: dict[str, Any] = {
        "schemaVersion": item.schema_version,
        "mediaType": item.media_type,
        "artifactType": item.artifact_type,
        "config": descriptor(item.config),
        "layers": [descriptor(layer) for layer in item.layers],
        "subject": descriptor(item.subject) if item.subject else None,
        "annotations": sorted_map(item.annotations),
    }
    required = ("schemaVersion", "config", "layers")
    return {key: value for key, value in fields.items() if value or key in required}


def sorted_map(mapping: Mapping[str, str]) -> dict[str, str]:
    """Return a map's entries as Go writes them: sorted by the bytes of the keys."""
    return dict(sorted(mapping.items(), key=lambda pair: pair[0].encode()))

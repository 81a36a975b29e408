"""The file of a delta archive that states which layers it leaves out, because the target has them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

import msgspec

from pyctrd.errors import ArchiveError, ContentError, InvalidPlatform, InvalidReference
from pyctrd.oci import gojson, platforms
from pyctrd.oci.model import Descriptor, Digest, Platform, convert, parse_json

# It comes first in the archive: a reader of a stream needs it before the blobs.
PRESUMED: Final = "pyctrd.json"
SCHEMA: Final = 1


class Presumed(msgspec.Struct, frozen=True, kw_only=True):
    """A layer that an archive leaves out.

    `chain_ids` are those of the snapshots that replace it, `platforms` those of the manifests that have it; a
    manifest without a platform adds none, so if there are none, it may be for any.
    """

    layer: Descriptor
    chain_ids: tuple[Digest, ...] = ()
    platforms: tuple[Platform, ...] = ()


class _Item(msgspec.Struct, frozen=True):
    digest: Digest
    size: int
    media_type: str = msgspec.field(default="", name="mediaType")
    chain_ids: tuple[Digest, ...] = ()
    platforms: tuple[str, ...] = ()


class _File(msgspec.Struct, frozen=True):
    schema: int
    presumed: tuple[_Item, ...] = ()


def document(found: Iterable[Presumed]) -> bytes:
    """Return the content of the file."""
    items: list[dict[str, Any]] = [
        {
            "mediaType": item.layer.media_type,
            "digest": str(item.layer.digest),
            "size": item.layer.size,
            "chain_ids": list(map(str, item.chain_ids)),
            "platforms": list(map(platforms.format_all, item.platforms)),
        }
        for item in found
    ]
    return gojson.marshal({"schema": SCHEMA, "presumed": items})


def parse(raw: bytes) -> tuple[Presumed, ...]:
    """Parse the content of the file. Raises ArchiveError."""
    try:
        found = convert(parse_json(raw), _File)
        if found.schema != SCHEMA:
            raise ContentError(f"it has schema {found.schema}; this version reads schema {SCHEMA}")
        return tuple(
            Presumed(
                layer=Descriptor(media_type=item.media_type, digest=item.digest, size=item.size),
                chain_ids=item.chain_ids,
                platforms=tuple(map(platforms.parse, item.platforms)),
            )
            for item in found.presumed
        )
    except (ContentError, InvalidReference, InvalidPlatform, msgspec.ValidationError) as error:
        raise ArchiveError(f"{PRESUMED} of the archive: {error}") from error

"""How nerdctl resolves an image's name: which record it uses, and which registry it asks."""

from __future__ import annotations

import re

import msgspec

from pyctrd.errors import InvalidReference, NotFound
from pyctrd.oci import mediatypes, reference
from pyctrd.oci.model import ImageRecord
from pyctrd.oci.reference import Reference
from pyctrd.operations.diagnose.inspection import Inspection
from pyctrd.steps.fetch import host_name

_DIGEST = re.compile("(?:sha256:)?[a-f0-9]{64}")


class Named(msgspec.Struct, frozen=True, kw_only=True):
    """How a tool resolves a name: `error` if it finds none or several, `other` if it finds another record."""

    error: str = ""
    other: ImageRecord | None = None


def found_before_2_3(inspection: Inspection, image: ImageRecord) -> Named:
    """Return what nerdctl before 2.3 finds: it searches names, normalized names and digest prefixes.

    Source: nerdctl pkg/idutil/imagewalker/imagewalker.go Walk; pkg/cmd/image/save.go.
    """
    images = inspection.store.images
    records = [image]
    completed = _completed(image.name)
    if completed not in ("", image.name):
        records += _existing(inspection, completed)
    prefix = reference.digest_prefix(image.name)
    if prefix is not None:
        records += images.list([f"target.digest~=^{prefix}"])
    if len({record.target.digest for record in records}) > 1:
        return Named(error=f"ambiguous digest ID: multiple IDs found with provided prefix {image.name}")
    return Named()


def found_from_2_3(inspection: Inspection, image: ImageRecord) -> Named:
    """Return what nerdctl since 2.3 finds: the record with the normalized name, or with a whole digest.

    Source: nerdctl pkg/cmd/image/save.go.
    """
    if _DIGEST.fullmatch(image.name):
        digest = f"sha256:{image.name.removeprefix('sha256:')}"
        records = list(inspection.store.images.list([f"target.digest=={digest}"]))
        if image.target.digest == digest:
            return Named()
        wanted = image.name
    else:
        wanted = _completed(image.name)
        if not wanted:
            return Named(error=f'invalid image name "{image.name}"')
        records = [image] if wanted == image.name else _existing(inspection, wanted)
    if not records:
        return Named(error=f'image "{wanted}": not found')
    same = records[0].target.digest == image.target.digest
    return Named(other=None if same else records[0])


def resolve_error(name: str) -> str:
    """Return nerdctl's error for a name that it cannot parse or resolve; empty if it can."""
    return parse_error(name) or reference.resolve_error(name)


def parse_error(name: str) -> str:
    """Return nerdctl's error for a name that it cannot parse (pkg/referenceutil Parse); empty if it can."""
    return "" if _DIGEST.fullmatch(name) or _completed(name) else "invalid reference format"


def is_unlikely(inspection: Inspection, image: ImageRecord) -> bool:
    """Whether nerdctl would probably ask the wrong registry: it takes part of a short name for the host."""
    return is_foreign(inspection, image) or _completed(image.name) != image.name


def is_foreign(inspection: Inspection, image: ImageRecord) -> bool:
    """Whether the content came from another repository than the image's name says, as for a local tag.

    False if that is unknown: imported content has no labels that say where it came from.
    """
    sources = _sources(inspection, image)
    own = _parsed(image.name)
    return bool(sources) and (own is None or (host_name(own.domain), own.path) not in sources)


def repository(name: str) -> str:
    """Return the repository of a name; empty if it is not a reference."""
    parsed = _parsed(name)
    return parsed.name if parsed else ""


def _sources(inspection: Inspection, image: ImageRecord) -> set[tuple[str, str]]:
    prefix = mediatypes.DISTRIBUTION_SOURCE
    return {
        (key.removeprefix(prefix), path)
        for key, value in inspection.labels(image.target.digest).items()
        if key.startswith(prefix)
        for path in value.split(",")
        if path
    }


def _parsed(name: str) -> Reference | None:
    try:
        return reference.parse(name)
    except InvalidReference:
        return None


def _completed(name: str) -> str:
    """Return the normalized name; empty if it is not a reference."""
    parsed = _parsed(name)
    return str(parsed) if parsed else ""


def _existing(inspection: Inspection, name: str) -> list[ImageRecord]:
    try:
        return [inspection.store.images.get(name)]
    except NotFound:
        return []

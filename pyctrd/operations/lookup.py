"""From what a person types to an image record: an exact name, then a completed one, then an id or its prefix.

Names win over ids, so that an image whose name happens to look like an id can be reached; nerdctl calls
that ambiguous (nerdctl pkg/idutil/imagewalker/imagewalker.go). As there, an id is the digest of a record's
target; or, as crictl prints it, that of the image's config, which containerd's CRI makes a record's name.
"""

from __future__ import annotations

import difflib
from typing import Final

import msgspec

from pyctrd.errors import AmbiguousReference, ImageNotFound, InvalidReference, NotFound, Remedy
from pyctrd.oci import reference
from pyctrd.oci.model import ImageRecord
from pyctrd.ports import ImageStore

_NEAR: Final = 3
_ALIKE: Final = 0.75
_LISTED: Final = 8


def find(images: ImageStore, text: str) -> ImageRecord:
    """Give the record that a text names.

    Of several names of the same content, the first with a tag is given. Raises NotFound (containerd's
    `image "...": not found`, with near names as the hint), AmbiguousReference for a prefix of the digests
    of different images, and InvalidReference for a text that can be neither a name nor an id.
    """
    _refuse_unsendable(text)
    record = _get(images, text)
    if record is not None:
        return record
    prefix = reference.digest_prefix(text)
    name = _complete(text, required=prefix is None)
    record = _get(images, name) if name not in (None, text) else None
    if record is None and prefix is not None:
        record = _by_digest(images, text, prefix)
    if record is None:
        raise _not_found(images, text, name or text)
    return record


def _refuse_unsendable(text: str) -> None:
    """Refuse what containerd refuses as a name, or what no protobuf string can carry."""
    if not text:
        raise InvalidReference("invalid reference format: image name required")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise InvalidReference(f"invalid reference format: {text!r}: not valid UTF-8") from None


def _get(images: ImageStore, name: str | None) -> ImageRecord | None:
    try:
        return images.get(name) if name else None
    except NotFound:
        return None


def _complete(text: str, *, required: bool) -> str | None:
    try:
        return str(reference.parse(text))
    except InvalidReference:
        if required:
            raise
        return None


def _by_digest(images: ImageStore, text: str, prefix: str) -> ImageRecord | None:
    # Letters, digits and one colon (digest_prefix saw to it): nothing that means anything to the filter.
    found = sorted(images.list([f"target.digest~=^{prefix}", f"name~=^{prefix}"]), key=_preference)
    digests = {str(record.target.digest) for record in found}
    if len(digests) > 1:
        candidates = [f"{record.name} ({record.target.digest.short})" for record in found]
        listed = ", ".join(candidates[:_LISTED]) + (", ..." if len(candidates) > _LISTED else "")
        raise AmbiguousReference(
            f"ambiguous digest ID: multiple IDs found with provided prefix {text}: {listed}",
            candidates=[record.name for record in found],
            hint="give more digits, or a name",
        )
    if found and found[0].name.startswith(prefix):  # an id for a name: the image may have a better one
        found = sorted(images.list([f"target.digest~=^{digests.pop()}"]), key=_preference)
    return found[0] if found else None


def _preference(record: ImageRecord) -> tuple[bool, str]:
    """Put names that people gave before those made of a digest (CRI keeps `name@digest` and `sha256:...`)."""
    return "sha256:" in record.name, record.name


def _not_found(images: ImageStore, text: str, name: str) -> ImageNotFound:
    near = _near(images, name)
    remedy: Remedy | None = None
    if near:
        hint = f"did you mean {', '.join(near)}?"
    elif reference.digest_prefix(text):
        hint, remedy = "list what is here", Remedy(method="images")
    else:
        hint, remedy = "pull it", Remedy(method="pull", images=(name,))
    return ImageNotFound(f'image "{text}": not found', kind="image", name=name, hint=hint, remedy=remedy)


def _near(images: ImageStore, name: str) -> list[str]:
    """Give names of the same repository, then of repositories that are spelled alike."""
    names: dict[str, list[str]] = {}
    for record in images.list():
        names.setdefault(_repository(record.name), []).append(record.name)
    alike = difflib.get_close_matches(_repository(name), names, n=_NEAR, cutoff=_ALIKE)
    return [found for repository in alike for found in names[repository]][:_NEAR]


def _repository(name: str) -> str:
    """Give the short name without tag: registry and tag are alike too often to tell anything."""
    try:
        return msgspec.structs.replace(reference.parse(name), tag="", digest=None).familiar
    except InvalidReference:
        return name

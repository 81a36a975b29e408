"""Find an image record by its exact name, its normalized name, or a prefix of its id.

Names take precedence over ids, so that an image whose name looks like an id can be found; for nerdctl that is
ambiguous (nerdctl pkg/idutil/imagewalker/imagewalker.go). As in nerdctl, an id is the digest of a record's
target; or, as crictl shows it, that of the image's config, which containerd's CRI uses as a record's name.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Final

import msgspec

from pyctrd.errors import AmbiguousReference, ImageNotFound, InvalidReference, NotFound, Remedy
from pyctrd.oci import reference
from pyctrd.oci.model import ImageRecord
from pyctrd.ports import ImageStore

_MAX_SIMILAR: Final = 3
_CUTOFF: Final = 0.75
_LISTED: Final = 8


def find(images: ImageStore, text: str) -> ImageRecord:
    """Return the record that a text refers to.

    If several names have the same content, returns the first one with a tag. Raises ImageNotFound
    (`image "...": not found`, with similar names as the hint), AmbiguousReference for a prefix of the digests
    of different images, and InvalidReference for a text that is neither a name nor an id.
    """
    _check_text(text)
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


def find_by_name(images: ImageStore, texts: Iterable[str]) -> dict[str, ImageRecord]:
    """Return the records for the texts that are names, looked up many at a time; `find` finds the others."""
    names: dict[str, str | None] = {}
    for text in texts:
        with suppress(InvalidReference):
            _check_text(text)
            names[text] = _complete(text, required=False)
    known = images.get_several({*names, *filter(None, names.values())})
    found = {text: known.get(text) or known.get(name or "") for text, name in names.items()}
    return {text: record for text, record in found.items() if record is not None}


@contextmanager
def without_a_pull() -> Iterator[None]:
    """Replace the hint to pull an image that is not found: it does not help to remove the image."""
    try:
        yield
    except ImageNotFound as error:
        if error.remedy is not None and error.remedy.method == "pull":
            error.hint, error.remedy = "list the images", Remedy(method="images")
        raise


def _check_text(text: str) -> None:
    """Raise InvalidReference for a name that containerd refuses, or that is not valid UTF-8."""
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
    # digest_prefix returns letters, digits and a colon only, none of which is special in a filter.
    found = sorted(images.list([f"target.digest~=^{prefix}", f"name~=^{prefix}"]), key=_preference)
    digests = {str(record.target.digest) for record in found}
    if len(digests) > 1:
        candidates = [f"{record.name} ({record.target.digest.short})" for record in found]
        listed = ", ".join(candidates[:_LISTED]) + (", ..." if len(candidates) > _LISTED else "")
        raise AmbiguousReference(
            f"ambiguous digest ID: multiple IDs found with provided prefix {text}: {listed}",
            candidates=[record.name for record in found],
            hint="use more digits, or a name",
        )
    if found and found[0].name.startswith(prefix):  # a name that is an id: the image may have a better one
        found = sorted(images.list([f"target.digest~=^{digests.pop()}"]), key=_preference)
    return found[0] if found else None


def _preference(record: ImageRecord) -> tuple[bool, str]:
    """Sort names with a tag before those with a digest (CRI creates `name@digest` and `sha256:...`)."""
    return _preferred(record.name)


def _preferred(name: str) -> tuple[bool, str]:
    return "sha256:" in name, name


def _not_found(images: ImageStore, text: str, name: str) -> ImageNotFound:
    found = similar(images, name)
    remedy: Remedy | None = None
    if found:
        hint = f"did you mean {', '.join(found)}?"
    elif reference.digest_prefix(text):
        hint, remedy = "list the images", Remedy(method="images")
    else:
        hint, remedy = "pull it", Remedy(method="pull", images=(name,))
    return ImageNotFound(f'image "{text}": not found', kind="image", name=name, hint=hint, remedy=remedy)


def similar(images: ImageStore, name: str) -> list[str]:
    """Return the names that may be meant: in the same repository, in one with the same last part (another
    registry), and in repositories with a similar name; with the same tag first in each.
    """
    names: dict[str, list[str]] = {}
    for record in images.list():
        if reference.digest_prefix(record.name) is None:  # CRI's ids
            names.setdefault(_repository(record.name), []).append(record.name)
    own, tag = _repository(name), _tag(name)
    elsewhere = sorted(
        (other for other in names if _last(other) == _last(own)),
        key=lambda other: (all(_tag(found) != tag for found in names[other]), other),
    )
    import difflib

    close = difflib.get_close_matches(own, names, n=_MAX_SIMILAR, cutoff=_CUTOFF)
    near = dict.fromkeys([*([own] if own in names else []), *elsewhere, *close])
    found = (
        sorted(names[repository], key=lambda found: (_tag(found) != tag, *_preferred(found)))
        for repository in near
    )
    return [name for several in found for name in several][:_MAX_SIMILAR]


def _repository(name: str) -> str:
    """Return the familiar name without tag: registry and tag are the same too often to be useful."""
    try:
        return msgspec.structs.replace(reference.parse(name), tag="", digest=None).familiar
    except InvalidReference:
        return name


def _last(repository: str) -> str:
    return repository.rpartition("/")[2]


def _tag(name: str) -> str:
    try:
        return reference.parse(name).tag
    except InvalidReference:
        return ""

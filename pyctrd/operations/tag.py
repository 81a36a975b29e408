"""Tag: give an image more names.

The content is added to a lease before the names are created, so it stays if another client deletes the image
at the same time.
"""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Final

import msgspec

from pyctrd.amounts import listed
from pyctrd.errors import AlreadyExists, FailedPrecondition, InvalidReference, NotFound, Remedy
from pyctrd.oci.expiry import EXPIRE_LABEL, expire_label
from pyctrd.oci.model import PINNED_LABEL, ImageRecord
from pyctrd.oci.reference import Reference
from pyctrd.ports import Containerd, ImageStore
from pyctrd.steps import expiry
from pyctrd.steps.targets import require_target

# Labels that say for which of the names the collector keeps what; a new name is kept for itself.
_GC: Final = "containerd.io/gc."


class TagResult(msgspec.Struct, frozen=True, kw_only=True):
    """An image, and the records of the names that point at its target now."""

    image: ImageRecord
    tagged: tuple[ImageRecord, ...]


def tag(
    containerd: Containerd,
    image: ImageRecord,
    names: Sequence[Reference],
    *,
    force: bool = False,
    ttl: dt.timedelta | None = None,
) -> TagResult:
    """Let names point at the target of an image; those that do already only get or lose their expiry.

    New names have the labels of the image, except those for the garbage collector. Nothing is changed if one
    of the names cannot be. Raises AlreadyExists for a name that points elsewhere, unless `force` moves it,
    FailedPrecondition for a pinned one that would be moved or expire, InvalidReference for a name with
    another digest, Unsupported for `ttl` with containerd 1.x, IncompleteContent, ImageNotFound, LeaseLost.
    """
    if ttl is not None:
        expiry.check_version(containerd.version())
    _check_digests(image, names)
    with containerd.lease("tag") as leased:
        require_target(leased, image)
        tagging = _Tagging(leased.images, image, list(dict.fromkeys(map(str, names))), force=force, ttl=ttl)
        return TagResult(image=image, tagged=tagging.run())


def _check_digests(image: ImageRecord, names: Sequence[Reference]) -> None:
    for name in names:
        if name.digest is not None and name.digest != image.target.digest:
            raise InvalidReference(
                f"invalid reference {str(name)!r}: the digest of {image.name} is {image.target.digest}",
                hint="leave out the digest",
            )


class _Tagging:
    """The names for one image."""

    def __init__(
        self,
        images: ImageStore,
        image: ImageRecord,
        names: Sequence[str],
        *,
        force: bool,
        ttl: dt.timedelta | None,
    ) -> None:
        self._images = images
        self._image = image
        self._names = names
        self._force = force
        self._ttl = ttl
        self._expiry = expire_label(ttl, dt.datetime.now(dt.UTC)) if ttl is not None else {}

    def run(self) -> tuple[ImageRecord, ...]:
        """Check all names, then create or update their records."""
        filters = [f"name=={json.dumps(name)}" for name in self._names]
        found = {record.name: record for record in self._images.list(filters)}
        self._check(list(found.values()))
        return tuple(self._put(name, found.get(name)) for name in self._names)

    def _check(self, found: Sequence[ImageRecord]) -> None:
        """Raise the error for the names that must not be changed as requested."""
        moved = [record for record in found if record.target.digest != self._image.target.digest]
        if moved and not self._force:
            raise self._already_exists(moved)
        for record in moved:
            if record.is_pinned:
                raise FailedPrecondition(
                    f'image "{record.name}" is pinned, so its name cannot be moved to another image',
                    code="FAILED_PRECONDITION",
                    kind="image",
                    name=record.name,
                    hint="nothing was done; unpin it first",
                    remedy=Remedy(method="unpin", images=(record.name,)),
                )
        if self._ttl is not None:
            for record in found:
                expiry.check_not_pinned(record)

    def _already_exists(self, moved: Sequence[ImageRecord]) -> AlreadyExists:
        first = moved[0].name
        others = [record.name for record in moved[1:]]
        also = f"; so do {listed(others)}" if len(others) > 1 else f"; so does {others[0]}" if others else ""
        again = Remedy(method="tag", images=(self._image.name, *self._names), force=True)
        return AlreadyExists(
            f'image "{first}": already exists: it points at {moved[0].target.digest}, not at '
            f"{self._image.target.digest}{also}",
            code="ALREADY_EXISTS",
            kind="image",
            name=first,
            hint="nothing was done; to move the name to this image",
            # A command with the time to live again would need its original form.
            remedy=again if self._ttl is None else Remedy(force=True),
        )

    def _put(self, name: str, before: ImageRecord | None) -> ImageRecord:
        """Create or update a record; again from the start if another client does so at the same time."""
        while True:
            if before is not None:
                with suppress(NotFound):
                    return self._update(before)
            try:
                return self._images.create(
                    ImageRecord(name=name, target=self._image.target, labels=self._labels())
                )
            except AlreadyExists:
                before = None
                with suppress(NotFound):
                    before = self._images.get(name)
                self._check([before] if before is not None else [])

    def _labels(self) -> Mapping[str, str]:
        kept = {key: value for key, value in self._image.labels.items() if not key.startswith(_GC)}
        if self._expiry:
            kept.pop(PINNED_LABEL, None)
        return {**kept, **self._expiry}

    def _update(self, before: ImageRecord) -> ImageRecord:
        """Change a record as far as needed."""
        moved = before.target.digest != self._image.target.digest
        labels = self._labels() if moved else self._expiry
        fields = [f"labels.{key}" for key in labels]
        if EXPIRE_LABEL in before.labels and not self._expiry:
            fields.append(f"labels.{EXPIRE_LABEL}")
        if moved:
            fields.insert(0, "target")
        if not fields:
            return before
        changed = ImageRecord(name=before.name, target=self._image.target, labels=labels)
        return self._images.update(changed, fields=fields)

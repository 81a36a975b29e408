"""Pin images: the kubelet's garbage collection, and pyctrd's own rm and prune, leave pinned images.

An image of the kubelet has several names, and is pinned if one of them is; crictl and the kubelet remove an
image with all of its names. So all names of a target are pinned together. Source: containerd
internal/cri/store/image/image.go.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress

import msgspec

from pyctrd.errors import ImageNotFound, NotFound
from pyctrd.oci.expiry import EXPIRE_LABEL
from pyctrd.oci.model import PINNED, PINNED_LABEL, ImageRecord
from pyctrd.ports import Containerd


class PinResult(msgspec.Struct, frozen=True, kw_only=True):
    """All records with the targets of the images, and the names of those that were changed."""

    images: tuple[ImageRecord, ...]
    changed: tuple[str, ...]


def pin(containerd: Containerd, images: Sequence[ImageRecord]) -> PinResult:
    """Pin images: all records that have their targets, so that they do not expire either.

    Raises ImageNotFound if another client deletes an image in the meantime.
    """
    return _set(containerd, images, pinned=True)


def unpin(containerd: Containerd, images: Sequence[ImageRecord]) -> PinResult:
    """Remove the pin from all records that have the targets of images.

    containerd pins the sandbox image of its configuration again at once (internal/cri/server/images
    UpdateImage). Raises ImageNotFound as `pin`.
    """
    return _set(containerd, images, pinned=False)


def _set(containerd: Containerd, images: Sequence[ImageRecord], *, pinned: bool) -> PinResult:
    store = containerd.images
    filters = [f"target.digest=={digest}" for digest in dict.fromkeys(i.target.digest for i in images)]
    changed: dict[str, None] = {}
    while True:  # a name that another client creates in the meantime is found the next time
        found = store.list(filters)
        # Each only once: containerd pins the sandbox image of its configuration again.
        new = [record for record in found if record.name not in changed]
        wrong = [(record, fields) for record in new if (fields := _fields(record, pinned=pinned))]
        if not wrong:
            break
        for record, fields in wrong:
            labels = {PINNED_LABEL: PINNED} if pinned else {}
            changed[record.name] = None
            with suppress(NotFound):
                store.update(
                    ImageRecord(name=record.name, target=record.target, labels=labels), fields=fields
                )
    _check_found(images, found)
    return PinResult(
        images=tuple(sorted(found, key=lambda record: record.name)),
        changed=tuple(record.name for record in found if record.name in changed),
    )


def _fields(record: ImageRecord, *, pinned: bool) -> list[str]:
    """Return the fields to change."""
    if not pinned:
        return [f"labels.{PINNED_LABEL}"] if PINNED_LABEL in record.labels else []
    fields = [] if record.is_pinned else [f"labels.{PINNED_LABEL}"]
    return [*fields, f"labels.{EXPIRE_LABEL}"] if EXPIRE_LABEL in record.labels else fields


def _check_found(images: Sequence[ImageRecord], found: Sequence[ImageRecord]) -> None:
    digests = {record.target.digest for record in found}
    for image in images:
        if image.target.digest not in digests:
            raise ImageNotFound(
                f'image "{image.name}": not found: another client has deleted it',
                kind="image",
                name=image.name,
            )

"""Label: set and remove labels of an image record."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from pyctrd.errors import InvalidInput, Remedy
from pyctrd.oci.expiry import EXPIRE_LABEL
from pyctrd.oci.model import PINNED, PINNED_LABEL, ImageRecord
from pyctrd.operations.pull import check_labels
from pyctrd.ports import Containerd

_GC: Final = "containerd.io/gc."
_CRI: Final = "io.cri-containerd."


def label(containerd: Containerd, image: ImageRecord, changes: Mapping[str, str]) -> ImageRecord:
    """Set labels of an image record; an empty value removes a label. Other labels are left as they are.

    Nothing is written if nothing changes. Raises NotFound if another client deletes the image.
    """
    fields = [f"labels.{key}" for key, value in changes.items() if image.labels.get(key, "") != value]
    if not fields:
        return image
    changed = ImageRecord(name=image.name, target=image.target, labels=changes)
    return containerd.images.update(changed, fields=fields)


def check(name: str, changes: Mapping[str, str], *, force: bool) -> None:
    """Raise InvalidInput for labels that containerd would refuse.

    Without `force`, also for those that the garbage collector or the kubelet reads.
    """
    if "" in changes:
        raise InvalidInput("a label needs a key")
    check_labels(changes)
    for key, value in changes.items() if not force else ():
        reason = _reason(key)
        if reason:
            hint, remedy = _instead(name, key, value)
            raise InvalidInput(f"label {key}: {reason}", hint=hint, remedy=remedy)


def _reason(key: str) -> str:
    """Return what depends on a label, or an empty string."""
    if key == EXPIRE_LABEL:
        return "containerd 2 removes the image at the time that it names"
    if key.startswith(_GC):
        return "the garbage collector reads it to decide which images, content and snapshots stay"
    if key == PINNED_LABEL:
        return "the kubelet does not remove images that have it"
    if key.startswith(_CRI):
        return "the kubelet's services read it to decide which images are theirs"
    return ""


def _instead(name: str, key: str, value: str) -> tuple[str, Remedy]:
    """Return what to do instead."""
    if key == PINNED_LABEL and value in (PINNED, ""):
        method = Remedy(method="pin" if value else "unpin", images=(name,))
        return "for all names of the image", method
    return "to change it anyway", Remedy(force=True)

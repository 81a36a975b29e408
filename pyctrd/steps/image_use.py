"""Which images of a namespace are in use by a container, or pinned against the kubelet's removal."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

import msgspec

from pyctrd.oci.model import Digest, ImageRecord
from pyctrd.oci.resources import Container

PINNED_LABEL: Final = "io.cri-containerd.pinned"
PINNED: Final = "pinned"


class ImageUse(msgspec.Struct, frozen=True, kw_only=True):
    """Who uses an image under any of its names.

    `containers` are the ids of the containers that name one of its records, which for CRI may be the id of
    its config; `pinned` are the records with CRI's label for pinned images.
    """

    containers: tuple[str, ...] = ()
    pinned: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        """Whether the image is in use or pinned."""
        return bool(self.containers or self.pinned)


def uses(images: Iterable[ImageRecord], containers: Iterable[Container]) -> Mapping[Digest, ImageUse]:
    """Return who uses the images, by the digest of their target; unused ones are left out."""
    targets: dict[str, Digest] = {}
    pinned: dict[Digest, list[str]] = {}
    for image in images:
        targets[image.name] = image.target.digest
        if image.labels.get(PINNED_LABEL) == PINNED:
            pinned.setdefault(image.target.digest, []).append(image.name)
    running: dict[Digest, list[str]] = {}
    for container in containers:
        # CRI's records also have the id, which is right even if the name has moved to another image.
        target = targets.get(container.image_id) or targets.get(container.image)
        if target is not None:
            running.setdefault(target, []).append(container.id)
    return {
        digest: ImageUse(
            containers=tuple(sorted(running.get(digest, ()))), pinned=tuple(sorted(pinned.get(digest, ())))
        )
        for digest in {*pinned, *running}
    }

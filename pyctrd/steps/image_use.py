"""Which images of a namespace are in use by a container, or pinned against the kubelet's removal."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

import msgspec

from pyctrd.oci.model import PINNED, PINNED_LABEL, Digest, ImageRecord
from pyctrd.oci.resources import Container

__all__ = ["MANAGED", "MANAGED_LABEL", "PINNED", "PINNED_LABEL", "ImageUse", "uses"]

# CRI's label for the records that it keeps: a tag, `name@digest` and the id of the config, of each image.
MANAGED_LABEL: Final = "io.cri-containerd.image"
MANAGED: Final = "managed"


class ImageUse(msgspec.Struct, frozen=True, kw_only=True):
    """Who uses an image under any of its names.

    `named` maps the ids of the containers that name one of its records to that name, which for CRI may be the
    id of its config; `pinned` are the records with CRI's label for pinned images.
    """

    named: Mapping[str, str] = msgspec.field(default_factory=dict)
    pinned: tuple[str, ...] = ()

    @property
    def containers(self) -> tuple[str, ...]:
        """The ids of the containers."""
        return tuple(self.named)

    def __bool__(self) -> bool:
        """Whether the image is in use or pinned."""
        return bool(self.named or self.pinned)


def uses(images: Iterable[ImageRecord], containers: Iterable[Container]) -> Mapping[Digest, ImageUse]:
    """Return who uses the images, by the digest of their target; unused ones are left out."""
    targets: dict[str, Digest] = {}
    pinned: dict[Digest, list[str]] = {}
    for image in images:
        targets[image.name] = image.target.digest
        if image.is_pinned:
            pinned.setdefault(image.target.digest, []).append(image.name)
    running: dict[Digest, dict[str, str]] = {}
    for container in sorted(containers, key=lambda container: container.id):
        target = targets.get(container.image)
        if target is not None:
            running.setdefault(target, {})[container.id] = container.image
    return {
        digest: ImageUse(named=running.get(digest, {}), pinned=tuple(sorted(pinned.get(digest, ()))))
        for digest in {*pinned, *running}
    }

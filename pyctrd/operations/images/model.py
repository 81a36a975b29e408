"""The values of an overview of images."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from typing import Literal, TypeAlias

import msgspec

from pyctrd.oci.model import Descriptor, ImageRecord, Platform

ImageStatus: TypeAlias = Literal["complete", "incomplete", "unavailable"]


class ImagePlatform(msgspec.Struct, frozen=True, kw_only=True):
    """A platform of an image, and whether all of its content is in the store."""

    platform: Platform
    complete: bool


class ImageOverview(msgspec.Struct, frozen=True, kw_only=True):
    """An image, its platforms, and the bytes of its content in the store.

    `bytes_own` are those of content that no other image refers to, `bytes_shared` the others; records with
    the same target are one image. `containers` are the ids of the containers that were made from it, under
    any of its names. Unreadable content counts as absent. `alias_of` is the name that stands for this one, if
    containerd's CRI made this record in addition to it (`name@digest`, or the id that crictl shows).

    `status` is that of the host's platform, as `ctr images check` reports it; if the image has no such
    platform, it is complete if any of its platforms is, and an artifact if all of its content is in the
    store. It is unavailable if not even the target is.
    """

    namespace: str
    image: ImageRecord
    status: ImageStatus = "unavailable"
    platforms: tuple[ImagePlatform, ...] = ()
    bytes_own: int = 0
    bytes_shared: int = 0
    pinned: bool = False
    containers: tuple[str, ...] = ()
    alias_of: str = ""

    @property
    def name(self) -> str:
        """The name of the record."""
        return self.image.name

    @property
    def target(self) -> Descriptor:
        """The target of the record."""
        return self.image.target

    @property
    def labels(self) -> Mapping[str, str]:
        """The labels of the record."""
        return self.image.labels

    @property
    def created_at(self) -> dt.datetime | None:
        """When the record was created."""
        return self.image.created_at

    @property
    def updated_at(self) -> dt.datetime | None:
        """When the record was updated."""
        return self.image.updated_at

    @property
    def bytes(self) -> int:
        """All bytes of its content in the store."""
        return self.bytes_own + self.bytes_shared

    @property
    def complete(self) -> tuple[Platform, ...]:
        """The platforms with all their content in the store."""
        return tuple(item.platform for item in self.platforms if item.complete)

    @property
    def incomplete(self) -> tuple[Platform, ...]:
        """The other platforms."""
        return tuple(item.platform for item in self.platforms if not item.complete)

    @property
    def in_use(self) -> bool:
        """Whether a container was made from it."""
        return bool(self.containers)

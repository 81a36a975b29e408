"""Image records: list and find them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pyctrd import namespaces
from pyctrd.archive.inventory import Inventory
from pyctrd.images.part import Part, listed
from pyctrd.oci.model import ImageRecord

if TYPE_CHECKING:
    from pyctrd.operations.images import ImageOverview

Metadata = Literal["all", "selected"]


class Records(Part):
    """The methods of Images for image records."""

    def list(self) -> tuple[ImageRecord, ...]:
        """Return all images, sorted by name."""
        with self._working() as (daemon, _):
            return listed(daemon)

    def get(self, ref: str) -> ImageRecord:
        """Return an image.

        Raises ImageNotFound (`image "...": not found`; the hint names other namespaces that have it),
        AmbiguousReference, InvalidReference.
        """
        with self._working() as (daemon, _):
            return namespaces.find_image(daemon, ref)

    def overview(self) -> tuple[ImageOverview, ...]:
        """Return all images, sorted by name, with their size in the store and their complete platforms.

        Reads every index and manifest in the store. Does not use the network.
        """
        from pyctrd.operations.images import overview

        with self._working() as (daemon, _):
            return overview(daemon, listed(daemon))

    def inventory(self) -> Inventory:
        """Return what the namespace has, for `have` of a save on another machine.

        `Inventory.to_json` returns what `pyctrd inventory --format json` prints.
        """
        from pyctrd.operations.inventory import inventory

        with self._working() as (daemon, _):
            return inventory(daemon, daemon.introspection.snapshotters())

"""Image records: list and find them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from pyctrd import arguments, namespaces
from pyctrd.archive.inventory import Inventory
from pyctrd.images.part import Part, listed
from pyctrd.oci.model import ImageRecord

if TYPE_CHECKING:
    from pyctrd.operations.images.model import ImageOverview


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

    def overview(
        self, filters: str | Iterable[str] = (), *, all_namespaces: bool = False
    ) -> tuple[ImageOverview, ...]:
        """Return images, sorted by name, with their size in the store, their platforms and their use.

        An image has to match one of containerd's `filters` (`name~=alpine`, `labels.key==value`), and for
        each key of docker's one of its values: `reference=PATTERN`, `label=KEY[=VALUE]` (all of them),
        `before=REF`, `since=REF`, and with true or false `dangling`, `complete`, `in-use` and `pinned`.
        `all_namespaces` lists those of every namespace, by namespace. Reads every index and manifest in the
        store. Does not use the network. Raises InvalidInput for another filter, ImageNotFound for `before`
        and `since`.
        """
        from pyctrd.operations.images import overview
        from pyctrd.operations.images.filters import ImageFilters

        chosen = ImageFilters(arguments.texts("filters", filters))
        with self._working() as (daemon, _):
            places = namespaces.all_of(daemon) if all_namespaces else [daemon]
            return tuple(item for place in places for item in overview(place, chosen))

    def inventory(self) -> Inventory:
        """Return what the namespace has, for `have` of a save on another machine.

        `Inventory.to_json` returns what `pyctrd inventory --format json` prints.
        """
        from pyctrd.operations.inventory import inventory

        with self._working() as (daemon, _):
            return inventory(daemon, daemon.introspection.snapshotters())

"""Image records: list, find, name, pin and label them."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from pyctrd import arguments, namespaces
from pyctrd.errors import InvalidInput
from pyctrd.images.part import Part, listed
from pyctrd.oci import reference
from pyctrd.oci.model import ImageRecord, Platform
from pyctrd.oci.platforms import Platforms, select

if TYPE_CHECKING:
    from pyctrd.archive.inventory import Inventory
    from pyctrd.operations.history import HistoryStep
    from pyctrd.operations.images.model import ImageOverview
    from pyctrd.operations.inspect import ImageInfo
    from pyctrd.operations.pin import PinResult
    from pyctrd.operations.tag import TagResult


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
        each key of docker's one of its values: `reference=PATTERN` (`*` and `?` do not match a slash),
        `label=KEY[=VALUE]` (of the record or of a config; all of them), `before=REF`, `since=REF` and
        `until=TIME` (when the record was created; also `24h` ago), and with true or false `dangling`,
        `complete`, `in-use` and `pinned`. `all_namespaces` lists those of every namespace, by namespace.
        Reads every index and manifest in the store. Does not use the network. Raises InvalidInput for
        another filter, ImageNotFound for `before` and `since`.
        """
        from pyctrd.operations.images import overview
        from pyctrd.operations.images.filters import ImageFilters

        chosen = ImageFilters(arguments.texts("filters", filters))
        with self._working() as (daemon, _):
            return overview(namespaces.all_of(daemon) if all_namespaces else [daemon], chosen)

    def inspect(self, ref: str, platforms: Platforms | None = None) -> ImageInfo:
        """Return all that is known about an image, and the documents of the selected platforms.

        With `platforms` None, the host's platform is selected, or if the image has none, a complete one, or
        else the first. Does not use the network. Raises ImageNotFound, AmbiguousReference,
        NoMatchingPlatform, and ContentError for a document that does not match its media type.
        """
        from pyctrd.operations.inspect import inspect

        selection = select(platforms)
        with self._working() as (daemon, _):
            image = namespaces.find_image(daemon, ref)
            return inspect(daemon, image, selection, snapshotter=daemon.snapshotter)

    def history(self, ref: str, platform: str | Platform | None = None) -> tuple[HistoryStep, ...]:
        """Return the steps of an image's build with their layers, the latest first, as docker does.

        The platform is selected as for `inspect`. Raises ImageNotFound, AmbiguousReference,
        NoMatchingPlatform, IncompleteContent if the manifest or the config is missing, and ContentError for a
        document that does not match its media type.
        """
        from pyctrd.operations.history import history

        selection = select(platform)
        with self._working() as (daemon, _):
            image = namespaces.find_image(daemon, ref)
            return history(daemon, image, selection, snapshotter=daemon.snapshotter)

    def inventory(self) -> Inventory:
        """Return what the namespace has, for `have` of a save on another machine.

        `Inventory.to_json` returns what `pyctrd inventory --format json` prints.
        """
        from pyctrd.operations.inventory import inventory

        with self._working() as (daemon, _):
            return inventory(daemon, daemon.introspection.snapshotters())

    def tag(
        self, ref: str, names: str | Iterable[str], *, force: bool = False, ttl: dt.timedelta | None = None
    ) -> TagResult:
        """Give an image more names, which are completed as by `pull`.

        A name that points at this image already is left as it is, and `force` moves one that points
        elsewhere; either all names are set or none. New names have the image's labels, except those for the
        garbage collector. After `ttl`, containerd 2.0 or later removes the names; without it, they do not
        expire, even if they did before. Raises ImageNotFound, AmbiguousReference, InvalidReference,
        AlreadyExists, IncompleteContent if the target is missing, FailedPrecondition for a pinned name that
        would be moved or expire, Unsupported for `ttl` with containerd 1.x.
        """
        from pyctrd.operations.tag import tag

        parsed = [reference.parse(name) for name in _some("names", names)]
        lifetime = arguments.ttl("ttl", ttl)
        with self._working() as (daemon, _):
            return tag(daemon, namespaces.find_image(daemon, ref), parsed, force=force, ttl=lifetime)

    def pin(self, refs: str | Iterable[str]) -> PinResult:
        """Pin images, with all names that point at their targets, so that they stay.

        The kubelet's garbage collection leaves pinned images, and so do `remove` and `prune`. They do not
        expire any more. Raises ImageNotFound, AmbiguousReference.
        """
        from pyctrd.operations.pin import pin

        names = _some("refs", refs)
        with self._working() as (daemon, _):
            return pin(daemon, namespaces.find_images(daemon, names))

    def unpin(self, refs: str | Iterable[str]) -> PinResult:
        """Remove the pins of images, from all names that point at their targets.

        Raises ImageNotFound, AmbiguousReference.
        """
        from pyctrd.operations.pin import unpin

        names = _some("refs", refs)
        with self._working() as (daemon, _):
            return unpin(daemon, namespaces.find_images(daemon, names))

    def label(self, ref: str, labels: Mapping[str, str], *, force: bool = False) -> ImageRecord:
        """Set labels of an image record; an empty value removes a label, and other labels stay.

        Labels that the garbage collector or the kubelet reads are set only with `force`. Raises
        ImageNotFound, AmbiguousReference, and InvalidInput for labels that containerd would refuse.
        """
        from pyctrd.operations.label import check, label

        changes = arguments.labels("labels", labels)
        if not changes:
            raise InvalidInput("labels: at least one is required")
        check(arguments.text("ref", ref), changes, force=force)
        with self._working() as (daemon, _):
            return label(daemon, namespaces.find_image(daemon, ref), changes)


def _some(name: str, values: str | Iterable[str]) -> tuple[str, ...]:
    found = arguments.texts(name, values)
    if not found:
        raise InvalidInput(f"{name}: at least one is required")
    return found

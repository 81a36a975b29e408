"""The history of an image: the steps of its build, with the layers that they made."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator, Sequence

import msgspec

from pyctrd.errors import InvalidPlatform, NotFound, Remedy
from pyctrd.oci.details import HistoryEntry, ImageDetails
from pyctrd.oci.errors import IncompleteContent
from pyctrd.oci.model import Descriptor, Digest, ImageRecord, Platform, SnapshotInfo
from pyctrd.oci.platforms import Selection
from pyctrd.operations.diagnose.inspection import Inspection
from pyctrd.operations.diagnose.survey import Branch, Layer, Survey
from pyctrd.operations.selected import default_snapshotter, selected
from pyctrd.ports import Store
from pyctrd.steps.targets import incomplete


class HistoryStep(msgspec.Struct, frozen=True, kw_only=True):
    """A step of an image's build.

    `layer` is the layer that it made, None for a step that made none; `present` is whether the store has its
    blob. If it is unpacked, `snapshotter` has the snapshot `snapshot`, which uses `bytes_unpacked` of disk
    space without its parents. A layer that the history does not mention has a step without `created_by`.
    """

    created_at: dt.datetime | None = None
    created_by: str = ""
    author: str = ""
    comment: str = ""
    layer: Descriptor | None = None
    present: bool = False
    diff_id: Digest | None = None
    snapshotter: str = ""
    snapshot: str = ""
    bytes_unpacked: int = 0

    @property
    def bytes(self) -> int:
        """The size of the layer's blob; 0 for a step that made no layer."""
        return self.layer.size if self.layer else 0


def history(
    store: Store, image: ImageRecord, selection: Selection, *, snapshotter: str = ""
) -> tuple[HistoryStep, ...]:
    """Return the steps of an image's build for one platform, the latest first, as docker does.

    Raises NoMatchingPlatform, IncompleteContent if the store does not have the manifest and its config,
    InvalidPlatform for several platforms, ContentError, DaemonError.
    """
    if selection.all or len(selection.platforms) > 1:
        raise InvalidPlatform("a history is that of one platform", hint="select one platform")
    survey = Survey(Inspection(store), image, snapshotter or default_snapshotter(store))
    chosen = selected(survey, selection)
    if survey.unread:
        raise _incomplete(image, survey.unread)
    if not chosen:
        raise _incomplete(image, [item for branch in survey.branches for item in branch.missing])
    branch = chosen[0]
    if branch.manifest is None:
        raise _incomplete(image, [branch.descriptor], branch.platform)
    if branch.kind == "image" and not branch.config_present:
        raise _incomplete(image, [branch.manifest.config], branch.platform)
    return steps(store, branch, survey.snapshotter)


def _incomplete(
    image: ImageRecord, absent: Sequence[Descriptor], platform: Platform | None = None
) -> IncompleteContent:
    owner = {item.digest: platform for item in absent}
    return incomplete(image, absent, owner, remedy=Remedy(method="ensure", images=(image.name,)))


def steps(store: Store, branch: Branch, snapshotter: str) -> tuple[HistoryStep, ...]:
    """Return the steps of a manifest, the latest first; asks for the usage of each snapshot.

    A layer's snapshot is that of `snapshotter`, or else of another one that has it. Raises DaemonError.
    """
    entries = ImageDetails.of(branch.config).history if branch.config else ()
    found = [_step(store, entry, layer, snapshotter) for entry, layer in _matched(entries, branch.layers)]
    return tuple(reversed(found))


def _matched(
    entries: Sequence[HistoryEntry], layers: Sequence[Layer]
) -> Iterator[tuple[HistoryEntry, Layer | None]]:
    """Match entries with layers: in order, since nothing else relates them."""
    left = iter(layers)
    for entry in entries:
        yield entry, None if entry.empty_layer else next(left, None)
    for layer in left:
        yield HistoryEntry(), layer


def _step(store: Store, entry: HistoryEntry, layer: Layer | None, snapshotter: str) -> HistoryStep:
    name, snapshot = _snapshot(layer, snapshotter)
    return HistoryStep(
        created_at=entry.created_at,
        created_by=entry.created_by,
        author=entry.author,
        comment=entry.comment,
        layer=layer.descriptor if layer else None,
        present=layer.present if layer else False,
        diff_id=layer.diff_id if layer else None,
        snapshotter=name,
        snapshot=snapshot.name if snapshot else "",
        bytes_unpacked=_usage(store, name, snapshot),
    )


def _snapshot(layer: Layer | None, snapshotter: str) -> tuple[str, SnapshotInfo | None]:
    if layer is None or not layer.snapshots:
        return "", None
    name = snapshotter if snapshotter in layer.snapshots else min(layer.snapshots)
    return name, layer.snapshots[name]


def _usage(store: Store, snapshotter: str, snapshot: SnapshotInfo | None) -> int:
    if snapshot is None:
        return 0
    try:
        return store.snapshots.usage(snapshotter, snapshot.name).bytes
    except NotFound:  # it was removed after it was found
        return 0

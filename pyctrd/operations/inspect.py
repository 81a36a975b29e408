"""All that is known about an image: its record and documents, who uses it, and where it came from."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import suppress

import msgspec

from pyctrd.errors import NotFound
from pyctrd.oci import mediatypes
from pyctrd.oci.details import ImageDetails
from pyctrd.oci.model import Descriptor, Digest, ImageConfig, ImageRecord, Index, Manifest
from pyctrd.oci.platforms import Selection
from pyctrd.oci.resources import Lease
from pyctrd.operations.diagnose.inspection import Inspection
from pyctrd.operations.diagnose.model import PlatformState
from pyctrd.operations.diagnose.rows import rows
from pyctrd.operations.diagnose.survey import Branch, Survey
from pyctrd.operations.history import HistoryStep, steps
from pyctrd.operations.selected import default_snapshotter, selected
from pyctrd.ports import Containerd
from pyctrd.steps.image_use import ImageUse, uses_in
from pyctrd.steps.sources import fetched_from


class UnpackedImage(msgspec.Struct, frozen=True, kw_only=True):
    """Where a manifest is unpacked: the name of its top snapshot, and the bytes of its chain on the disk."""

    snapshotter: str
    snapshot: str
    bytes: int


class ManifestInfo(msgspec.Struct, frozen=True, kw_only=True):
    """A manifest of an image, for the platform of `state`.

    `manifest` and `config` are None if the store does not have them, and `config` and `details` also if the
    config is not that of an image. `history` has the latest step first. `missing` is known to be missing;
    `state.missing_known` says whether that is all. `bytes` is the size of its content in the store.
    """

    descriptor: Descriptor
    state: PlatformState
    manifest: Manifest | None = None
    config: ImageConfig | None = None
    details: ImageDetails | None = None
    history: tuple[HistoryStep, ...] = ()
    missing: tuple[Descriptor, ...] = ()
    unpacked: tuple[UnpackedImage, ...] = ()
    bytes: int = 0

    @property
    def complete(self) -> bool:
        """Whether all of its content is in the store."""
        return self.state.complete


class ImageInfo(msgspec.Struct, frozen=True, kw_only=True):
    """All that is known about an image.

    `names` are the other names of the same target. `index` is None if the target is a manifest, or is not in
    the store; `platforms` has a row for each manifest, `manifests` are those of the selected platforms, with
    their documents. `unread` are absent indexes. `sources` are the repositories that its content was fetched
    from, by the labels of the target and of these manifests. `containers` are the ids of the containers that
    were made from it under any of its names, `leases` protect some of it, and `pinned` says whether one of
    its records has CRI's label for pinned images.
    """

    namespace: str
    image: ImageRecord
    names: tuple[str, ...] = ()
    index: Index | None = None
    platforms: tuple[PlatformState, ...] = ()
    manifests: tuple[ManifestInfo, ...] = ()
    unread: tuple[Descriptor, ...] = ()
    sources: tuple[str, ...] = ()
    containers: tuple[str, ...] = ()
    leases: tuple[Lease, ...] = ()
    pinned: bool = False

    @property
    def complete(self) -> bool:
        """Whether all content of the selected platforms is in the store."""
        return bool(self.manifests) and not self.unread and all(item.complete for item in self.manifests)

    @property
    def in_use(self) -> bool:
        """Whether a container was made from it."""
        return bool(self.containers)


def inspect(
    store: Containerd, image: ImageRecord, selection: Selection, *, snapshotter: str = ""
) -> ImageInfo:
    """Return all that is known about an image, and the documents of the selected platforms.

    Without a selection, the host's platform is selected, or if the image has none, a complete one, or else
    the first. `snapshotter` is where to look for unpacked layers (empty: the default one, and those in the
    image's labels). Raises NoMatchingPlatform, ContentError, DaemonError.
    """
    inspection = Inspection(store)
    survey = Survey(inspection, image, snapshotter or default_snapshotter(store))
    chosen = selected(survey, selection)
    states = _states(survey, chosen, selection)
    found = [_manifest(store, survey, branch, states[id(branch)]) for branch in chosen]
    records = store.images.list([f"target.digest=={image.target.digest}"])
    use = uses_in(store, records).get(image.target.digest, ImageUse())
    return ImageInfo(
        namespace=store.namespace,
        image=image,
        names=tuple(sorted(record.name for record in records if record.name != image.name)),
        index=_index(inspection, image.target),
        platforms=tuple(states.values()),
        manifests=tuple(found),
        unread=tuple(survey.unread),
        sources=_sources(inspection, image.target, chosen),
        containers=use.containers,
        leases=_leases(store, {record.name for record in records}, _objects(image.target, chosen)),
        pinned=bool(use.pinned),
    )


def _states(survey: Survey, chosen: Iterable[Branch], selection: Selection) -> dict[int, PlatformState]:
    """Return the row of each manifest; two may have the same digest."""
    shown = set(map(id, chosen))
    table = rows(survey.branches, selection.resolve(lambda: ()), None)
    return {
        id(branch): msgspec.structs.replace(state, target=id(branch) in shown)
        for branch, state in zip(survey.branches, table, strict=True)
    }


def _manifest(store: Containerd, survey: Survey, branch: Branch, state: PlatformState) -> ManifestInfo:
    """Return what is known about a manifest."""
    children = [branch.manifest.config, *branch.manifest.layers] if branch.manifest else []
    present = {item.digest: item.size for item in (branch.descriptor, *children)}
    for item in branch.missing:
        present.pop(item.digest, None)
    history = steps(store, branch, survey.snapshotter)
    return ManifestInfo(
        descriptor=branch.descriptor,
        state=state,
        manifest=branch.manifest,
        config=branch.config,
        details=ImageDetails.of(branch.config) if branch.config else None,
        history=history,
        missing=branch.missing,
        unpacked=tuple(_unpacked(store, branch, history)),
        bytes=sum(present.values()),
    )


def _unpacked(store: Containerd, branch: Branch, history: Iterable[HistoryStep]) -> Iterator[UnpackedImage]:
    known = {(step.snapshotter, step.snapshot): step.bytes_unpacked for step in history}
    for snapshotter in branch.unpacked_in:
        found = (layer.snapshots.get(snapshotter) for layer in branch.layers)
        chain = [snapshot.name for snapshot in found if snapshot is not None]
        for name in chain:
            if (snapshotter, name) not in known:
                with suppress(NotFound):  # it was removed after it was found
                    known[snapshotter, name] = store.snapshots.usage(snapshotter, name).bytes
        yield UnpackedImage(
            snapshotter=snapshotter,
            snapshot=chain[-1],
            bytes=sum(known.get((snapshotter, name), 0) for name in dict.fromkeys(chain)),
        )


def _index(inspection: Inspection, target: Descriptor) -> Index | None:
    if not mediatypes.is_index(target.media_type):
        return None
    try:
        return Index.parse(inspection.read(target))
    except NotFound:
        return None


def _sources(inspection: Inspection, target: Descriptor, chosen: Iterable[Branch]) -> tuple[str, ...]:
    documents = dict.fromkeys([target.digest, *(branch.descriptor.digest for branch in chosen)])
    labels = map(inspection.labels, documents)
    return tuple(source.name for source in fetched_from(inspection.store, labels))


def _objects(target: Descriptor, chosen: Iterable[Branch]) -> set[tuple[str, str]]:
    """Return what leases may hold of an image: its content, and the snapshots that it is unpacked to."""
    found: set[tuple[str, Digest | str]] = {("content", target.digest)}
    for branch in chosen:
        found.add(("content", branch.descriptor.digest))
        if branch.manifest is not None:
            found.add(("content", branch.manifest.config.digest))
        for layer in branch.layers:
            found.add(("content", layer.descriptor.digest))
            found.update((f"snapshots/{name}", item.name) for name, item in layer.snapshots.items())
    return {(kind, str(name)) for kind, name in found}


def _leases(store: Containerd, names: Iterable[str], objects: set[tuple[str, str]]) -> tuple[Lease, ...]:
    wanted = objects | {("images", name) for name in names}
    return tuple(
        sorted((lease for lease in store.leases.list() if _holds(store, lease, wanted)), key=lambda it: it.id)
    )


def _holds(store: Containerd, lease: Lease, wanted: set[tuple[str, str]]) -> bool:
    try:
        return any((item.type, item.id) in wanted for item in store.leases.resources(lease.id))
    except NotFound:  # it was deleted after it was listed
        return False

"""Unpack an image that is in the store, so that containers can be created from it.

A pull unpacks, too; afterwards, of ctr's commands only `images mount`, `run` and `container create` do.
Source: containerd client/image.go Unpack.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import msgspec

from pyctrd.errors import NotFound, Remedy
from pyctrd.oci import graph, mediatypes
from pyctrd.oci.model import Descriptor, Digest, ImageRecord, Manifest, Platform, freeze
from pyctrd.oci.platforms import Selection, Targets
from pyctrd.ports import Store
from pyctrd.progress import Progress, ProgressSink, no_progress
from pyctrd.steps.local import LocalImage, RememberedStore
from pyctrd.steps.targets import incomplete, require_target
from pyctrd.steps.unpack import in_store
from pyctrd.steps.unpacking import Unpacking


class UnpackResult(msgspec.Struct, frozen=True, kw_only=True):
    """An unpacked image: the top snapshot of each platform, None if it has no layers.

    `layers` is the number of layers that were unpacked now; the snapshots of the others existed.
    """

    image: ImageRecord
    snapshotter: str
    snapshots: Mapping[Platform, Digest | None]
    layers: int

    def __post_init__(self) -> None:
        freeze(self, "snapshots")


def unpack(
    store: Store,
    image: ImageRecord,
    selection: Selection,
    *,
    snapshotter: str = "",
    progress: ProgressSink = no_progress,
) -> UnpackResult:
    """Unpack the layers of the selected platforms that are not unpacked yet.

    An empty `snapshotter` means the default one. A layer that is missing is needed only if its snapshot does
    not exist. Raises IncompleteContent, NoMatchingPlatform, ContentError, DigestMismatch, ImageNotFound,
    LeaseLost, Unsupported for a snapshotter that is not loaded.
    """
    chosen = snapshotter or store.default_snapshotter()
    counted = _Counting(progress)
    with store.lease("unpack") as leased:
        require_target(leased, image)
        remembered = RememberedStore(leased)
        local = LocalImage(remembered, image.target)
        targets = selection.resolve(local.platforms)
        _require_content(remembered, local, image, targets, chosen)
        with Unpacking(remembered, image.target, chosen, in_store, counted) as unpacking:
            step = _narrow(targets)(local.children)
            unpacking.consider(tuple(graph.preorder(image.target, step)), targets.matcher)
            unpacking.finish()
    progress(Progress(action="done", descriptor=image.target, detail=image.name))
    return UnpackResult(
        image=image, snapshotter=chosen, snapshots=unpacking.top_snapshots(), layers=counted.layers
    )


class _Counting:
    """A progress sink that counts unpacked layers."""

    def __init__(self, progress: ProgressSink) -> None:
        self._progress = progress
        self.layers = 0

    def __call__(self, event: Progress) -> None:
        if event.action == "unpacked":
            self.layers += 1
        self._progress(event)


def _narrow(targets: Targets) -> graph.Narrow:
    """Return what leaves out other platforms, and attestations, which have nothing to unpack."""
    return lambda step: graph.only_platforms(graph.without(step, graph.is_attestation), targets.matcher)


def _require_content(
    store: RememberedStore, local: LocalImage, image: ImageRecord, targets: Targets, snapshotter: str
) -> None:
    """Raise IncompleteContent unless all that has to be unpacked is in the store."""
    narrow = _narrow(targets)
    missing = {item.digest: item for item in local.missing(targets, narrow)}
    if not missing:
        return
    walked = list(graph.preorder(image.target, narrow(local.children)))
    for layer in _unpacked_layers(store, local, walked, snapshotter):
        missing.pop(layer, None)
    if missing:
        _, owner = graph.with_platforms(image.target, local.children)
        raise incomplete(
            image,
            list(missing.values()),
            owner,
            remedy=Remedy(method="ensure", images=(image.name,), all_platforms=targets.selection.all),
        )


def _unpacked_layers(
    store: RememberedStore, local: LocalImage, walked: Sequence[Descriptor], snapshotter: str
) -> Iterator[Digest]:
    """Yield the layers of manifests whose snapshots exist."""
    for descriptor in walked:
        if not mediatypes.is_manifest(descriptor.media_type) or not local.is_present(descriptor):
            continue
        manifest = Manifest.parse(local.read(descriptor))
        layers = [layer for layer in manifest.layers if mediatypes.is_layer(layer.media_type)]
        for layer, chain_id in zip(layers, graph.chain_ids(manifest.config, layers, local.read), strict=True):
            if chain_id is not None and _exists(store, snapshotter, chain_id):
                yield layer.digest


def _exists(store: RememberedStore, snapshotter: str, chain_id: Digest) -> bool:
    try:
        store.snapshots.stat(snapshotter, str(chain_id))
    except NotFound:
        return False
    return True

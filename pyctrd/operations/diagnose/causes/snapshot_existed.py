"""Layers that a pull did not download because their snapshots already existed."""

from __future__ import annotations

from pyctrd.operations.diagnose.causes.gap import Gap, count
from pyctrd.operations.diagnose.model import Cause
from pyctrd.operations.diagnose.survey import Layer

CODE = "skipped_snapshot_existed"

_SHOWN = 3  # each requires a scan of the content's labels


def find(gap: Gap) -> Cause | None:
    """Return the cause for missing layers at the bottom of the chain that are labelled and unpacked.

    containerd's unpacker goes up the chain, skips every layer whose snapshot exists, and fetches from the
    first one without a snapshot; so what it skips is always the bottom of the chain (containerd
    core/unpack/unpacker.go; containerd issue 8973). A missing layer above a present one was removed, unless
    the present one comes from another image.
    """
    missing = {layer.descriptor.digest for layer in gap.missing_layers}
    skipped: list[Layer] = []
    for layer in gap.branch.layers:
        if layer.descriptor.digest not in missing or not layer.snapshots:
            break
        skipped.append(layer)
    if not skipped:
        return None
    shared = _shared(gap, skipped)
    return gap.cause(
        CODE,
        f"{count(len(skipped), 'layer')} of {gap.label} likely never downloaded: the snapshots existed when "
        "the image was pulled, and containerd 2.x, the kubelet and nerdctl then skip the download",
        [layer.descriptor.digest for layer in skipped],
        "the snapshots of these layers, at the bottom of the chain, exist",
        "the manifest has gc labels for these layers, so the garbage collector did not remove them",
        *shared,
    )


def _shared(gap: Gap, layers: list[Layer]) -> list[str]:
    """Return evidence that the snapshots come from another image, with other blobs of the same layers."""
    evidence = []
    for layer in layers[:_SHOWN]:
        blobs = gap.survey.inspection.blobs_of_diff_id(layer.diff_id) if layer.diff_id else ()
        found = [item for item in blobs if item != layer.descriptor.digest]
        if found:
            evidence.append(f"{found[0].short} is {layer.descriptor.digest.short} compressed differently")
    return evidence

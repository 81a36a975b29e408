"""Layers that a pull did not download because their snapshots were there already."""

from __future__ import annotations

from pyctrd.operations.diagnose.causes.gap import Gap, count
from pyctrd.operations.diagnose.model import Cause
from pyctrd.operations.diagnose.survey import Layer

CODE = "skipped_snapshot_existed"

_SHOWN = 3  # each takes a pass over the content's labels


def find(gap: Gap) -> Cause | None:
    """Explain missing layers, labelled and unpacked, below which nothing is left to download.

    containerd's unpacker goes up the chain, passes over every layer whose snapshot exists, and fetches from
    the first that does not; so what it skips is always the bottom of the chain (containerd
    core/unpack/unpacker.go; containerd issue 8973). A layer that is missing above a present one was
    removed, unless another image brought the present one.
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
        "the image was pulled, and containerd 2.x, the kubelet and nerdctl skip the download then",
        [layer.descriptor.digest for layer in skipped],
        "the snapshots of these layers, the bottom of the chain, are here",
        "the manifest has its gc labels for these layers, so the collector did not take them",
        *shared,
    )


def _shared(gap: Gap, layers: list[Layer]) -> list[str]:
    """Find blobs of other digests that unpacked to the same files: another image made the snapshots."""
    evidence = []
    for layer in layers[:_SHOWN]:
        blobs = gap.survey.inspection.blobs_of_diff_id(layer.diff_id) if layer.diff_id else ()
        found = [item for item in blobs if item != layer.descriptor.digest]
        if found:
            evidence.append(f"{found[0].short} is {layer.descriptor.digest.short} packed otherwise")
    return evidence

"""Layers that the kubelet's runtime discarded after unpacking (discard_unpacked_layers)."""

from __future__ import annotations

from pyctrd.operations.diagnose.causes.gap import Gap, count
from pyctrd.operations.diagnose.model import Cause

CODE = "discarded_after_unpack"


def find(gap: Gap) -> Cause | None:
    """Return the cause for missing layers of a kubelet's image that are unpacked and have no gc label.

    With that setting, the runtime does not label layers, so the garbage collector removes them after the pull
    (containerd internal/cri/server/images/image_pull.go, ChildGCLabelsFilterLayers).
    """
    by_cri = gap.made_by_cri
    loose = gap.unlabelled()
    digests = [
        layer.descriptor.digest
        for layer in gap.missing_layers
        if layer.snapshots and layer.descriptor.digest in loose
    ]
    if not by_cri or not digests:
        return None
    return gap.cause(
        CODE,
        f"{count(len(digests), 'layer')} of {gap.label} likely discarded after unpacking: the runtime of "
        "this node has discard_unpacked_layers on; containers run, but nothing can be exported or pushed",
        digests,
        "the snapshots of these layers exist",
        "the manifest has no gc labels for these layers",
        *by_cri,
    )

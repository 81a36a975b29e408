"""Layers that a lazy snapshotter reads from the registry on demand, and so never stores."""

from __future__ import annotations

from pyctrd.operations.diagnose.causes.gap import Gap, count
from pyctrd.operations.diagnose.model import Cause
from pyctrd.operations.diagnose.survey import Layer

CODE = "lazy_snapshotter"

# Labels of remote snapshotters on snapshots whose content is elsewhere (stargz and soci: remote; containerd
# docs/remote-snapshotter.md; nydus-snapshotter and accelerated-container-image: their own).
_PREFIXES = (
    "containerd.io/snapshot/remote",
    "containerd.io/snapshot/nydus",
    "containerd.io/snapshot/overlaybd",
    "containerd.io/snapshot/soci",
)
_LAZY = frozenset({"stargz", "soci", "nydus", "overlaybd", "estargz", "cvmfs-snapshotter"})


def find(gap: Gap) -> Cause | None:
    """Return the cause for missing layers whose snapshot says that its content is remote."""
    remote = {layer.descriptor.digest: sign for layer in gap.missing_layers if (sign := _sign(layer))}
    if not remote:
        return None
    return gap.cause(
        CODE,
        f"{count(len(remote), 'layer')} of {gap.label} mounted by a lazy snapshotter: it reads files from "
        "the registry on demand, and never stored the layers in the content store",
        list(remote),
        *dict.fromkeys(remote.values()),
        certain=True,
    )


def _sign(layer: Layer) -> str:
    for snapshotter, snapshot in layer.snapshots.items():
        for key in snapshot.labels:
            if key.startswith(_PREFIXES):
                return f"snapshots of {snapshotter} have the label {key}"
        if snapshotter in _LAZY:
            return f"the snapshots are in {snapshotter}, which mounts layers lazily"
    return ""

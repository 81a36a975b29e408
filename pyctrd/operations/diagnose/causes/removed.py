"""What is left when nothing else explains a gap: the content has been here and somebody took it away."""

from __future__ import annotations

from pyctrd.operations.diagnose.causes.gap import Gap, count
from pyctrd.operations.diagnose.model import Cause

CODE = "content_removed"


def find(gap: Gap) -> Cause | None:
    """Explain all that is left."""
    parts = []
    if gap.branch.present:
        parts.append("the manifest is here, and names and keeps what is missing")
    if any(layer.present for layer in gap.branch.layers):
        parts.append("other layers of it are here")
    if any(layer.snapshots for layer in gap.missing_layers):
        parts.append("the snapshot of a missing layer is here, so the layer has been here, too")
    return gap.cause(
        CODE,
        f"{count(len(gap.missing), 'blob')} of {gap.label} likely removed after the pull (`ctr content rm`, "
        "a cleaned or restored disk), or the pull that made this record did not finish",
        [item.digest for item in gap.missing],
        *parts,
    )

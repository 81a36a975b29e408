"""The cause if no other applies: the content was removed."""

from __future__ import annotations

from pyctrd.operations.diagnose.causes.gap import Gap, count
from pyctrd.operations.diagnose.model import Cause

CODE = "content_removed"


def find(gap: Gap) -> Cause | None:
    """Return the cause for all content that is left."""
    parts = []
    if gap.branch.present:
        parts.append("the manifest is in the store and has gc labels for the missing content")
    if any(layer.present for layer in gap.branch.layers):
        parts.append("other layers are in the store")
    if any(layer.snapshots for layer in gap.missing_layers):
        parts.append("the snapshot of a missing layer exists, so the layer was once in the store")
    return gap.cause(
        CODE,
        f"{count(len(gap.missing), 'blob')} of {gap.label} likely removed after the pull (`ctr content rm`, "
        "a cleaned or restored disk), or the pull that created this record did not finish",
        [item.digest for item in gap.missing],
        *parts,
    )

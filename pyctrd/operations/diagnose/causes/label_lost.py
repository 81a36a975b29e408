"""Content whose parent is here without the label that keeps it: the collector has taken it."""

from __future__ import annotations

from pyctrd.oci import mediatypes
from pyctrd.oci.model import Digest
from pyctrd.operations.diagnose.causes.gap import Gap, count
from pyctrd.operations.diagnose.family import Family
from pyctrd.operations.diagnose.model import Cause

CODE = "gc_label_lost"


def find(gap: Gap) -> Cause | None:
    """Explain what is missing and not labelled on its parent, be that the manifest or the index above it."""
    if gap.branch.manifest is not None:
        return _explain(gap, gap.survey.family(gap.branch.descriptor))
    if gap.branch.parent is not None:
        return _explain(gap, gap.survey.family(gap.branch.parent))
    return None


def _explain(gap: Gap, family: Family) -> Cause | None:
    parent = family.parent
    digests = [item.digest for item in gap.missing if item.digest in family.unlabelled]
    if not digests:
        return None
    kind = "index" if mediatypes.is_index(parent.media_type) else "manifest"
    return gap.cause(
        CODE,
        f"{count(len(digests), 'blob')} of {gap.label} likely garbage collected: the {kind} no longer has "
        "the labels that keep them (`ctr content prune references` and imports that discard layers do that)",
        digests,
        f"{kind} {parent.digest} is here without {_listed(family.lost_keys(digests))}",
        *_snapshot_evidence(gap, digests),
    )


def _listed(keys: tuple[str, ...]) -> str:
    shown = ", ".join(keys[:3])
    return shown if len(keys) <= 3 else f"{shown} and {len(keys) - 3} more"


def _snapshot_evidence(gap: Gap, digests: list[Digest]) -> list[str]:
    unpacked = {layer.descriptor.digest for layer in gap.missing_layers if layer.snapshots}
    return ["snapshots of the missing layers are here"] if unpacked & set(digests) else []

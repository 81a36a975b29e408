"""Content that was garbage collected because its parent lost the gc label."""

from __future__ import annotations

from pyctrd.oci import mediatypes
from pyctrd.oci.model import Digest
from pyctrd.operations.diagnose.causes.gap import Gap, count
from pyctrd.operations.diagnose.model import Cause
from pyctrd.operations.diagnose.parent_document import ParentDocument

CODE = "gc_label_lost"


def find(gap: Gap) -> Cause | None:
    """Return the cause for missing content without a gc label on its parent, the manifest or the index."""
    if gap.branch.manifest is not None:
        return _explain(gap, gap.survey.parent_document(gap.branch.descriptor))
    if gap.branch.parent is not None:
        return _explain(gap, gap.survey.parent_document(gap.branch.parent))
    return None


def _explain(gap: Gap, document: ParentDocument) -> Cause | None:
    parent = document.descriptor
    digests = [item.digest for item in gap.missing if item.digest in document.unlabelled]
    if not digests:
        return None
    kind = "index" if mediatypes.is_index(parent.media_type) else "manifest"
    return gap.cause(
        CODE,
        f"{count(len(digests), 'blob')} of {gap.label} likely garbage collected: the {kind} no longer has "
        "their gc labels (`ctr content prune references` and imports that discard layers remove them)",
        digests,
        f"{kind} {parent.digest} does not have {_listed(document.lost_keys(digests))}",
        *_snapshot_evidence(gap, digests),
    )


def _listed(keys: tuple[str, ...]) -> str:
    shown = ", ".join(keys[:3])
    return shown if len(keys) <= 3 else f"{shown} and {len(keys) - 3} more"


def _snapshot_evidence(gap: Gap, digests: list[Digest]) -> list[str]:
    unpacked = {layer.descriptor.digest for layer in gap.missing_layers if layer.snapshots}
    return ["snapshots of the missing layers exist"] if unpacked & set(digests) else []

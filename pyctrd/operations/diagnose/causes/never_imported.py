"""Platforms that an import left out."""

from __future__ import annotations

from pyctrd.operations.diagnose.causes.gap import Gap
from pyctrd.operations.diagnose.model import Cause

CODE = "never_imported"


def find(gap: Gap) -> Cause | None:
    """Return the cause for an absent manifest if its index has gc labels for exactly the present children.

    A pull labels all children before it filters; `ctr images import` of 1.6 and 1.7, and with `--local`,
    filters first (containerd client/import.go).
    """
    parent = gap.branch.parent
    if parent is None or gap.branch.present:
        return None
    if not gap.survey.parent_document(parent).was_imported_in_part:
        return None
    return gap.cause(
        CODE,
        f"{gap.label} was likely left out of an import, which took only other platforms from the archive",
        [gap.branch.descriptor.digest],
        f"index {parent.digest} has gc labels for exactly the manifests in the store",
    )

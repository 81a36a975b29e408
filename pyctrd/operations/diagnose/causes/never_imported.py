"""Platforms that an import left out: it labels only what it keeps."""

from __future__ import annotations

from pyctrd.operations.diagnose.causes.gap import Gap
from pyctrd.operations.diagnose.model import Cause

CODE = "never_imported"


def find(gap: Gap) -> Cause | None:
    """Explain an absent manifest when its index keeps exactly those children that are here.

    A pull labels every child before it filters; `ctr images import` of 1.6 and 1.7 and `--local` filters
    first (containerd client/import.go).
    """
    parent = gap.branch.parent
    if parent is None or gap.branch.present:
        return None
    if not gap.survey.family(parent).is_of_an_import:
        return None
    return gap.cause(
        CODE,
        f"{gap.label} was likely left out of an import: only the other platforms were taken from the archive",
        [gap.branch.descriptor.digest],
        f"index {parent.digest} has gc labels for just the manifests that are here",
    )

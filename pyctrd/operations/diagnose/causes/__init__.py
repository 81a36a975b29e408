"""The causes of missing content. Each check has a file; the first that applies to a blob explains it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from pyctrd.oci.model import Platform
from pyctrd.operations.diagnose.causes import (
    absent_documents,
    discarded,
    label_lost,
    lazy_snapshotter,
    never_imported,
    never_pulled,
    other_namespace,
    removed,
    snapshot_existed,
    unprotected,
)
from pyctrd.operations.diagnose.causes.gap import Check, Gap
from pyctrd.operations.diagnose.inspection import Inspection
from pyctrd.operations.diagnose.model import Cause, PlatformState
from pyctrd.operations.diagnose.survey import Branch, Survey

# From the most specific evidence to the least.
CHECKS: Final[tuple[Check, ...]] = (
    lazy_snapshotter.find,
    discarded.find,
    never_imported.find,
    label_lost.find,
    never_pulled.find,
    snapshot_existed.find,
    removed.find,
)


def causes(
    survey: Survey, rows: Sequence[PlatformState], absent: Sequence[Platform], others: Sequence[Inspection]
) -> tuple[Cause, ...]:
    """Return the causes of all missing content, and warnings for unprotected content."""
    found: list[Cause] = []
    target_present = survey.inspection.is_present(survey.image.target)
    if not target_present:
        found.append(absent_documents.target_gone(survey))
    found += absent_documents.indexes_gone(survey)
    if target_present:
        found += absent_documents.no_such_platform(survey, absent)
        for branch, row in zip(survey.branches, rows, strict=True):
            found += _of_branch(survey, branch, _label(branch, row), others)
    return tuple(found)


def _of_branch(survey: Survey, branch: Branch, label: str, others: Sequence[Inspection]) -> Iterator[Cause]:
    gap = Gap(survey=survey, branch=branch, label=label, missing=branch.missing, others=others)
    yield from _explain(gap)
    for extra in (other_namespace.find(gap), unprotected.find(survey, branch, label)):
        if extra is not None:
            yield extra


def _explain(gap: Gap) -> Iterator[Cause]:
    for check in CHECKS:
        if not gap.missing:
            return
        cause = check(gap)
        if cause is not None:
            yield cause
            gap = gap.without(cause.missing)


def _label(branch: Branch, row: PlatformState) -> str:
    if row.attestation_for:
        return f"attestation for {row.attestation_for}"
    return row.platform or branch.descriptor.digest.short

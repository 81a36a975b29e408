"""Verdict: whether the selected platforms of an image are complete."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from pyctrd.errors import Remedy, Unsupported
from pyctrd.oci import platforms
from pyctrd.oci.model import Platform
from pyctrd.oci.platforms import Selection, Targets
from pyctrd.operations.diagnose.model import Content, PlatformState
from pyctrd.operations.diagnose.rows import rows
from pyctrd.operations.diagnose.survey import Survey
from pyctrd.operations.diagnose.targets import absent_platforms, complete_platforms
from pyctrd.ports import Store


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """What a selection means for an image, and whether all of its content is in the store.

    `absent` are the selected platforms that the image does not have.
    """

    targets: Targets
    rows: tuple[PlatformState, ...]
    absent: tuple[Platform, ...]
    complete: bool


def verdict(survey: Survey, selection: Selection, snapshotter: str) -> Verdict:
    """Return the verdict on an image; an empty `snapshotter` means that a row may be unpacked in any."""
    targets = selection.resolve(lambda: complete_platforms(survey.branches))
    found = rows(survey.branches, targets, snapshotter or None)
    # An absent index may have any platform.
    absent = () if survey.unread else absent_platforms(targets, survey.branches)
    return Verdict(targets=targets, rows=found, absent=absent, complete=_complete(survey, found, absent))


def remedy_for(image: str, selection: Selection, found: Verdict, missing: Sequence[Content]) -> Remedy | None:
    """Return the call that fetches what the selected platforms lack; None if nothing can be fetched."""
    if found.complete or not (missing or selection.local):
        return None
    names = [platforms.format_all(item) for item in selection.platforms if item not in found.absent]
    return Remedy(method="ensure", images=(image,), platforms=tuple(names), all_platforms=selection.all)


def default_snapshotter(store: Store) -> str:
    """Return the default snapshotter; empty if it is not loaded, which does not prevent a diagnosis."""
    try:
        return store.default_snapshotter()
    except Unsupported:
        return ""


def _complete(survey: Survey, table: Sequence[PlatformState], absent: Sequence[Platform]) -> bool:
    """Whether all content of the target platforms is in the store.

    An absent nested index counts as missing, since what a tool would export from it is unknown.
    """
    chosen = [row for row in table if row.target]
    return bool(chosen) and not absent and not survey.unread and all(row.complete for row in chosen)

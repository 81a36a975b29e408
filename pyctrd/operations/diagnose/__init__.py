"""Diagnose an image: what is in the store, what each tool would do, why content is missing, and what helps.

Does not use the network or change anything: it creates no lease, sets no label and opens no write.
"""

from __future__ import annotations

from collections.abc import Sequence

from pyctrd.errors import Unsupported
from pyctrd.oci import platforms
from pyctrd.oci.model import ImageRecord, Platform
from pyctrd.oci.platforms import Selection
from pyctrd.operations.diagnose.causes import causes
from pyctrd.operations.diagnose.engine import engine
from pyctrd.operations.diagnose.inspection import Inspection
from pyctrd.operations.diagnose.model import (
    Cause,
    Content,
    Diagnosis,
    ExportForecast,
    PlatformState,
    SaveForecast,
    Tools,
)
from pyctrd.operations.diagnose.rows import rows
from pyctrd.operations.diagnose.survey import Survey
from pyctrd.operations.diagnose.targets import absent_platforms, complete_platforms
from pyctrd.operations.diagnose.tools import forecast
from pyctrd.ports import Store

__all__ = [
    "Cause",
    "Content",
    "Diagnosis",
    "ExportForecast",
    "PlatformState",
    "SaveForecast",
    "Tools",
    "diagnose",
]


def diagnose(
    store: Store,
    image: ImageRecord,
    selection: Selection,
    *,
    snapshotter: str = "",
    others: Sequence[Store] = (),
    transfer: bool = True,
    version: str = "",
) -> Diagnosis:
    """Diagnose an image.

    `selection` are the platforms to check. `snapshotter` is where to look for unpacked layers (empty: the
    default one, and those in the image's labels). `others` are the namespaces whose content this one can use;
    they are only asked for missing content. `transfer` says whether the daemon has the transfer service
    (containerd 1.7 and later) that nerdctl 2.3 uses; `version` is the daemon's version (empty: the newest).
    Raises ContentError for a document that does not match its media type, Unsupported if the snapshotter is
    not loaded, DaemonError, DaemonUnreachable.
    """
    inspection = Inspection(store)
    survey = Survey(inspection, image, snapshotter or _default_snapshotter(store))
    targets = selection.resolve(lambda: complete_platforms(survey.branches))
    table = rows(survey.branches, targets, snapshotter or None)
    # An absent index may have any platform.
    absent = () if survey.unread else absent_platforms(targets, survey.branches)
    return Diagnosis(
        image=image.name,
        namespace=store.namespace,
        target=Content.of(image.target),
        snapshotter=survey.snapshotter,
        targets=("all",) if selection.all else tuple(map(platforms.format_all, targets.listed)),
        complete=_complete(survey, table, absent),
        absent_platforms=tuple(map(platforms.format_all, absent)),
        platforms=table,
        unread=tuple(map(Content.of, survey.unread)),
        tools=forecast(survey, targets, engine(version, transfer=transfer)),
        causes=causes(survey, table, absent, tuple(map(Inspection, others))),
    )


def _default_snapshotter(store: Store) -> str:
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

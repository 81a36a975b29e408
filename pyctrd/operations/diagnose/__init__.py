"""diagnose: what of an image is here, what each tool would do with it, why something is missing, what helps.

Nothing here touches the network or changes anything: no lease, no label, no write is opened.
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
from pyctrd.operations.diagnose.targets import resolve
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
    targets: Selection,
    *,
    host: Platform,
    snapshotter: str = "",
    others: Sequence[Store] = (),
    transfer: bool = True,
    version: str = "",
) -> Diagnosis:
    """Find out what of an image is here.

    `targets` are the platforms that the answer is about (nothing chosen: the host's), `snapshotter` the one
    to look for unpacked layers in (empty: the server's default and those that the image's labels name),
    `others` the namespaces whose content this one can take over: they are only asked for what is missing.
    `transfer` says that the daemon has a transfer service (containerd 1.7 and later), which nerdctl 2.3
    exports through; `version` is the daemon's (empty: the newest).
    Raises ContentError for a document that is not what its media type says, Unsupported for a snapshotter
    that is not loaded, DaemonError, DaemonUnreachable.
    """
    inspection = Inspection(store)
    survey = Survey(inspection, image, snapshotter or _default_snapshotter(store))
    resolved = resolve(targets, host, survey.branches)
    table = rows(survey.branches, resolved, snapshotter or None)
    # Behind an absent index there may be any platform.
    absent = () if survey.unread else resolved.absent(survey.branches)
    return Diagnosis(
        image=image.name,
        namespace=store.namespace,
        target=Content.of(image.target),
        snapshotter=survey.snapshotter,
        targets=("all",) if resolved.all else tuple(map(platforms.format_all, resolved.wanted)),
        complete=_complete(survey, table, absent),
        absent_platforms=tuple(map(platforms.format_all, absent)),
        platforms=table,
        unread=tuple(map(Content.of, survey.unread)),
        tools=forecast(survey, targets, resolved, host, engine(version, transfer=transfer)),
        causes=causes(survey, table, absent, tuple(map(Inspection, others))),
    )


def _default_snapshotter(store: Store) -> str:
    """Give the default snapshotter; empty where it is not loaded, which is no obstacle to a diagnosis."""
    try:
        return store.default_snapshotter()
    except Unsupported:
        return ""


def _complete(survey: Survey, table: Sequence[PlatformState], absent: Sequence[Platform]) -> bool:
    """Tell whether every platform asked for is here in full.

    An absent nested index counts as a gap: what a tool exports below it cannot be known.
    """
    chosen = [row for row in table if row.target]
    return bool(chosen) and not absent and not survey.unread and all(row.complete for row in chosen)

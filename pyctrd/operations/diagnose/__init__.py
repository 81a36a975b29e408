"""Diagnose an image: what is in the store, what each tool would do, why content is missing, and what helps.

Does not use the network or change anything: it creates no lease, sets no label and opens no write.
"""

from __future__ import annotations

from collections.abc import Sequence

from pyctrd.oci import platforms
from pyctrd.oci.model import ImageRecord
from pyctrd.oci.platforms import Selection
from pyctrd.operations.diagnose.all_images import diagnose_all
from pyctrd.operations.diagnose.causes import causes
from pyctrd.operations.diagnose.engine import engine
from pyctrd.operations.diagnose.inspection import Inspection
from pyctrd.operations.diagnose.model import (
    Cause,
    Content,
    Diagnosis,
    DiagnosisSummary,
    ExportForecast,
    PlatformState,
    SaveForecast,
    Tools,
    missing_of,
)
from pyctrd.operations.diagnose.survey import Survey
from pyctrd.operations.diagnose.tools import forecast
from pyctrd.operations.diagnose.verdict import default_snapshotter, remedy_for, verdict
from pyctrd.ports import Store

__all__ = [
    "Cause",
    "Content",
    "Diagnosis",
    "DiagnosisSummary",
    "ExportForecast",
    "PlatformState",
    "SaveForecast",
    "Tools",
    "diagnose",
    "diagnose_all",
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
    inspection.remember_image(image.target)
    survey = Survey(inspection, image, snapshotter or default_snapshotter(store))
    found = verdict(survey, selection, snapshotter)
    targets = found.targets
    unread = tuple(map(Content.of, survey.unread))
    return Diagnosis(
        image=image.name,
        namespace=store.namespace,
        target=Content.of(image.target),
        snapshotter=survey.snapshotter,
        targets=("all",) if selection.all else tuple(map(platforms.format_all, targets.listed)),
        complete=found.complete,
        absent_platforms=tuple(map(platforms.format_all, found.absent)),
        platforms=found.rows,
        unread=unread,
        tools=forecast(survey, targets, engine(version, transfer=transfer)),
        remedy=remedy_for(image.name, selection, found, missing_of(found.rows, unread)),
        causes=causes(survey, found.rows, found.absent, tuple(map(Inspection, others))),
    )

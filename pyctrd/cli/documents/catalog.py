"""Which command prints which documents, with the versions of their schemas."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from pyctrd import Explanation, ImageUsage, Mount, TagList
from pyctrd.cli.documents import archives, images, services, space, transfers


class Schema(NamedTuple):
    """The documents of a command: one of `kinds`.

    `version` is MAJOR.MINOR: MINOR grows with what is added, MAJOR with any other change.
    """

    version: str
    kinds: tuple[Any, ...]


def _schema(*kinds: Any, version: str = "1.0") -> Schema:
    return Schema(version, kinds)


# By the words of the command, joined by "-"; `NAME.line` is a line of `--format jsonl` or `--progress json`.
SCHEMAS: Final[Mapping[str, Schema]] = {
    "pull": _schema(transfers.Pull),
    "unpack": _schema(transfers.Unpack),
    "tag": _schema(transfers.Tag),
    "pin": _schema(transfers.Pin),
    "unpin": _schema(transfers.Pin),
    "label": _schema(transfers.Label),
    "diagnose": _schema(images.Diagnosis, images.DiagnoseAll),
    "diagnose.line": _schema(images.Diagnosis, images.DiagnosisSummary),
    "ensure": _schema(transfers.Ensure, transfers.EnsurePlan, transfers.EnsureAll),
    "save": _schema(transfers.Save, transfers.SavePlan),
    "load": _schema(transfers.Load),
    "inspect": _schema(images.InspectImage, archives.InspectArchive),
    "history": _schema(list[images.HistoryStep]),
    "history.line": _schema(images.HistoryStep),
    "inventory": _schema(transfers.Inventory),
    "push": _schema(transfers.Send, transfers.SendPlan),
    "copy": _schema(transfers.Send, transfers.SendPlan),
    "sync": _schema(transfers.Sync),
    "verify": _schema(archives.Verify, archives.VerifyArchives),
    "images": _schema(list[images.Image]),
    "images.line": _schema(images.Image),
    "why": _schema(space.Why),
    "rm": _schema(space.Remove),
    "usage": _schema(space.Usage),
    "usage.line": _schema(ImageUsage),
    "prune": _schema(space.Prune),
    "doctor": _schema(space.Doctor),
    "doctor.line": _schema(space.DoctorFinding),
    "registry-explain": _schema(Explanation),
    "registry-referrers": _schema(services.RegistryReferrers),
    "registry-tags": _schema(TagList),
    "content-fetch": _schema(transfers.Pull),
    "content-info": _schema(services.StoredBlob),
    "content-label": _schema(services.StoredBlob),
    "content-ls": _schema(list[services.StoredBlob]),
    "content-ls.line": _schema(services.StoredBlob),
    "content-rm": _schema(services.RemovedContent),
    "ingests-abort": _schema(services.AbortedIngests),
    "ingests-ls": _schema(list[services.Ingest]),
    "ingests-ls.line": _schema(services.Ingest),
    "leases-create": _schema(services.Lease),
    "leases-inspect": _schema(services.InspectedLease),
    "leases-ls": _schema(list[services.ListedLease]),
    "leases-ls.line": _schema(services.ListedLease),
    "leases-rm": _schema(services.Removed),
    "namespaces-create": _schema(services.Namespace),
    "namespaces-label": _schema(services.Namespace),
    "namespaces-ls": _schema(list[services.ListedNamespace]),
    "namespaces-ls.line": _schema(services.ListedNamespace),
    "namespaces-rm": _schema(services.Removed),
    "snapshots-ls": _schema(list[services.Snapshot]),
    "snapshots-ls.line": _schema(services.Snapshot),
    "snapshots-mounts": _schema(list[Mount]),
    "snapshots-rm": _schema(services.Removed),
    "snapshots-tree": _schema(list[services.SnapshotLevel]),
    "snapshots-tree.line": _schema(services.SnapshotLevel),
    "snapshots-usage": _schema(list[services.SnapshotUsage]),
    "snapshots-usage.line": _schema(services.SnapshotUsage),
    "events.line": _schema(services.Event),
    "plugins": _schema(list[services.Plugin]),
    "plugins.line": _schema(services.Plugin),
    "version": _schema(services.Version),
    "progress.line": _schema(services.Progress),
}

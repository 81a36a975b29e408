"""Documents of what is kept and removed: rm, prune, why, usage, doctor."""

from __future__ import annotations

from typing import Literal, NotRequired, TypeAlias, TypedDict

from pyctrd import ImageUsage, SnapshotTotal, SpaceTotal
from pyctrd.cli.documents.content import Blob, Count, Strings, Time

ObjectKind: TypeAlias = Literal["image", "content", "snapshot", "lease", "container", "ingest"]
Severity: TypeAlias = Literal["error", "warning", "info"]


class RemovedBlob(Blob):
    """A blob that is removed; `shared` if another namespace has it, too."""

    shared: bool


class RemovedSnapshot(TypedDict):
    """A snapshot that is removed."""

    snapshotter: str
    key: str
    bytes: Count


class Keeper(TypedDict):
    """An object that keeps content."""

    kind: ObjectKind
    name: str


class KeptImage(TypedDict):
    """A name whose content stays."""

    image: str
    by: list[Keeper]


class Remove(TypedDict):
    """What was removed, or would be."""

    images: Strings
    blobs: list[RemovedBlob]
    snapshots: list[RemovedSnapshot]
    leases: Strings
    ingests: Strings
    bytes: Count
    kept: list[KeptImage]


class Prune(Remove):
    """What was removed, or would be, and what could not be freed."""

    bytes_missing: Count


class WhyObject(TypedDict):
    """What a name stands for."""

    kind: ObjectKind
    name: str
    snapshotter: NotRequired[str]


class WhyLink(WhyObject):
    """An object in a chain of references."""

    via: str
    expires_at: NotRequired[Time]
    purpose: NotRequired[str]


class Why(TypedDict):
    """What keeps an object."""

    objects: list[WhyObject]
    chains: list[list[WhyLink]]
    containers: Strings
    pinned: Strings


class Usage(TypedDict):
    """The disk space of images."""

    images: list[ImageUsage]
    blobs: SpaceTotal
    snapshots: SnapshotTotal
    ingests: SpaceTotal
    bytes: Count
    reclaimable: Count


class DoctorFinding(TypedDict):
    """Something that is wrong with a machine's containerd."""

    code: str
    severity: Severity
    what: str
    evidence: Strings
    remedy: str


class SkippedCheck(TypedDict):
    """A check that could not be made, or not completely."""

    check: str
    reason: str


class Doctor(TypedDict):
    """What was found on a machine."""

    findings: list[DoctorFinding]
    checks: Strings
    skipped: list[SkippedCheck]

"""Documents of registries, of parts of containerd such as leases, of events, and of progress."""

from __future__ import annotations

from typing import Any, Literal, NotRequired, TypedDict

from pyctrd.cli.documents.content import (
    Blob,
    Count,
    ExactTime,
    Labels,
    ListedReferrer,
    NamedTarget,
    Sha,
    Strings,
    Time,
)
from pyctrd.progress import Action


class RegistryReferrers(TypedDict):
    """The artifacts that refer to a manifest."""

    repository: str
    host: str
    mirror: bool
    subject: Sha
    source: Literal["api", "tag"]
    referrers: list[ListedReferrer]


class StoredBlob(Blob):
    """A blob in the content store."""

    labels: Labels
    created_at: Time
    updated_at: Time


class RemovedContent(TypedDict):
    """The blobs that were removed."""

    removed: list[Blob]


class Removed(TypedDict):
    """The names, ids or keys of what was removed."""

    removed: Strings


class Ingest(TypedDict):
    """An unfinished write."""

    ref: str
    offset: Count
    total: Count
    expected: str
    started_at: Time
    updated_at: Time
    writer: str
    leases: Strings


class AbortedIngests(TypedDict):
    """The writes that were aborted, and those that were left alone."""

    aborted: list[Ingest]
    active: list[Ingest]


class Lease(TypedDict):
    """A lease."""

    id: str
    created_at: Time
    expires_at: Time
    purpose: str
    labels: Labels


class ListedLease(Lease):
    """A lease, and how many objects of each kind it holds."""

    content: Count
    snapshots: Count
    ingests: Count
    images: Count


class HeldSnapshot(TypedDict):
    """A snapshot that a lease holds."""

    snapshotter: str
    key: str
    bytes: Count
    inodes: Count


class MissingResource(TypedDict):
    """What a lease holds, but is gone."""

    type: str
    id: str


class InspectedLease(Lease):
    """A lease, and what it holds."""

    content: list[Blob]
    snapshots: list[HeldSnapshot]
    ingests: list[Ingest]
    images: list[NamedTarget]
    missing: list[MissingResource]
    bytes: Count


class Namespace(TypedDict):
    """A namespace."""

    name: str
    labels: Labels


class ListedNamespace(Namespace):
    """A namespace, and the numbers of its images and containers."""

    images: Count
    containers: Count


class Snapshot(TypedDict):
    """A snapshot."""

    key: str
    parent: str
    kind: str
    labels: Labels
    created_at: Time
    updated_at: Time


class SnapshotLevel(Snapshot):
    """A snapshot, and the number of its parents."""

    depth: Count


class SnapshotUsage(TypedDict):
    """The disk space of a snapshot, without its parents."""

    key: str
    kind: str
    bytes: Count
    inodes: Count


class Event(TypedDict):
    """Something that happened in containerd. `payload` are the fields of its message."""

    time: ExactTime
    namespace: str
    topic: str
    kind: str
    action: str
    name: str
    type_url: str
    payload: dict[str, Any] | None


class Plugin(TypedDict):
    """A plugin of containerd."""

    type: str
    id: str
    platforms: Strings
    capabilities: Strings
    exports: Labels
    status: Literal["ok", "skip", "error"]
    error: str


class DaemonVersion(TypedDict):
    """The version of containerd."""

    version: str
    revision: str


class Version(TypedDict):
    """The versions of pyctrd and containerd; null if containerd is unreachable."""

    pyctrd: str
    containerd: DaemonVersion | None


class Progress(TypedDict):
    """An event of a long operation."""

    action: Action
    offset: Count
    total: Count
    resumed: NotRequired[Count]
    mediaType: NotRequired[str]
    digest: NotRequired[Sha]
    detail: NotRequired[str]

"""Documents of what moves images: pull, ensure, save, load, sync, push, copy."""

from __future__ import annotations

from typing import Literal, NotRequired, TypedDict

from pyctrd.cli.documents.content import (
    Blob,
    Content,
    Count,
    Labels,
    NamedTarget,
    Referrer,
    ResumedContent,
    Sha,
    Strings,
    Time,
)


class Pull(TypedDict):
    """What a pull did."""

    image: str
    target: Content
    fetched: list[Content]
    bytes: Count
    resumed: list[ResumedContent]
    bytes_resumed: Count
    unpacked: Strings
    expires_at: Time


class PlatformSnapshot(TypedDict):
    """The snapshot of a platform's top layer."""

    platform: str
    snapshot: str


class Unpack(TypedDict):
    """What was unpacked."""

    image: str
    target: Content
    snapshotter: str
    snapshots: list[PlatformSnapshot]
    layers: Count


class Tag(TypedDict):
    """The names that were set."""

    image: str
    target: Content
    tagged: Strings
    expires_at: Time


class PinnedImage(TypedDict):
    """An image record, and whether it was pinned or unpinned now."""

    name: str
    target: Content
    pinned: bool
    changed: bool


class Pin(TypedDict):
    """All records that have the targets of the images."""

    images: list[PinnedImage]


class Label(TypedDict):
    """An image and its labels."""

    image: str
    target: Content
    labels: Labels


class Ensure(TypedDict):
    """What was fetched for an image."""

    fetched: list[Content]
    bytes: Count
    resumed: list[ResumedContent]
    bytes_resumed: Count


class EnsurePlan(TypedDict):
    """What `--dry-run` would fetch for an image."""

    fetch: list[Content]
    bytes: Count


class EnsuredImage(TypedDict):
    """What was fetched, or would be, for one of many images; nothing of it after an error."""

    image: str
    namespace: str
    error: str | None
    fetched: NotRequired[list[Content]]
    resumed: NotRequired[list[ResumedContent]]
    bytes_resumed: NotRequired[Count]
    fetch: NotRequired[list[Content]]
    bytes: NotRequired[Count]


class EnsureAll(TypedDict):
    """What was fetched for all images."""

    images: list[EnsuredImage]
    complete: Count
    bytes: Count


class SkippedPlatform(TypedDict):
    """What `--on-missing` left out."""

    image: str
    platform: str
    referrer: str
    missing: list[Content]


class Save(TypedDict):
    """What was saved."""

    images: Strings
    platforms: Strings
    fetched: list[Content]
    bytes_fetched: Count
    bytes_resumed: Count
    bytes_written: Count
    compression: Literal["none", "gzip", "zstd"]
    presumed: list[Blob]
    referrers: list[Referrer]
    skipped: list[SkippedPlatform]
    import_platforms: Strings


class SavePlan(TypedDict):
    """What `--dry-run` would save."""

    images: Strings
    platforms: Strings
    fetch: list[Content]
    fetch_bytes: Count
    write: list[Sha]
    archive_bytes: Count
    presumed: list[Blob]
    referrers: list[Referrer]
    skipped: list[SkippedPlatform]


class InventoryImage(TypedDict):
    """An image's name and the digest of its target."""

    name: str
    digest: Sha


class Inventory(TypedDict):
    """What a namespace has."""

    schema: Literal[1]
    namespace: str
    blobs: list[Blob]
    snapshots: dict[str, list[Sha]]
    images: list[InventoryImage]
    default_snapshotter: str


class LoadedImage(NamedTarget):
    """An image that was loaded."""

    platforms: Strings
    complete: bool


class Load(TypedDict):
    """What was loaded, or would be."""

    images: list[LoadedImage]
    bytes_written: Count
    bytes_present: Count
    unpacked: Strings
    referrers: list[Referrer]


class Sync(TypedDict):
    """What was copied to another containerd, or would be."""

    images: list[NamedTarget]
    bytes_sent: Count
    blobs_sent: Count
    blobs_present: Count
    bytes_resumed: Count
    sent: list[Content]
    unpacked: Strings


class Sent(TypedDict):
    """What the documents of a push, or of its plan, have in common."""

    source: str
    name: str
    original: Content
    target: Content
    platforms: Strings
    present: list[Content]
    skipped: list[Content]
    bytes: Count


class Send(Sent):
    """What was uploaded."""

    uploaded: list[Content]
    mounted: list[Content]


class SendPlan(Sent):
    """What `--dry-run` would upload."""

    upload: list[Content]
    mount: list[Content]

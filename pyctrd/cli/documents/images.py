"""Documents of images: images, inspect, history, diagnose."""

from __future__ import annotations

from typing import Any, Literal, TypeAlias, TypedDict

from pyctrd import PlatformState, Tools
from pyctrd.cli.documents.content import Content, Count, Labels, Sha, Strings, Time

ManifestKind: TypeAlias = Literal["image", "attestation", "artifact", "other"]


class HistoryStep(TypedDict):
    """A step of an image's build."""

    created_at: Time
    created_by: str
    author: str
    comment: str
    layer: Content | None
    present: bool
    bytes: Count
    diff_id: Sha | None
    snapshotter: str
    snapshot: str
    bytes_unpacked: Count


class UnpackedManifest(TypedDict):
    """Where a manifest is unpacked."""

    snapshotter: str
    snapshot: str
    bytes: Count


class InspectedManifest(TypedDict):
    """A manifest of a selected platform. `manifest` and `config` are the image's own documents."""

    platform: str
    target: Content
    complete: bool
    missing: list[Content]
    bytes: Count
    unpacked: list[UnpackedManifest]
    history: list[HistoryStep]
    manifest: dict[str, Any] | None
    config: dict[str, Any] | None


class InspectedPlatform(TypedDict):
    """A manifest in the image's index."""

    platform: str
    digest: str
    kind: ManifestKind
    selected: bool
    complete: bool
    missing_bytes: Count
    unpacked_in: Strings
    attestation_for: str | None


class ImageLease(TypedDict):
    """A lease that protects some of an image."""

    id: str
    labels: Labels
    created_at: Time


class InspectImage(TypedDict):
    """All about an image. `index` is the image's own document."""

    name: str
    namespace: str
    target: Content
    labels: Labels
    created_at: Time
    updated_at: Time
    names: Strings
    sources: Strings
    pinned: bool
    in_use: bool
    containers: Strings
    leases: list[ImageLease]
    complete: bool
    unread: list[Content]
    platforms: list[InspectedPlatform]
    index: dict[str, Any] | None
    manifests: list[InspectedManifest]


class Cause(TypedDict):
    """Why content is missing."""

    code: str
    platform: str
    digest: Sha | None
    text: str
    certain: bool
    evidence: Strings
    missing: list[Sha]
    remedy: str


class Diagnosis(TypedDict):
    """The diagnosis of an image."""

    image: str
    namespace: str
    target: Content
    snapshotter: str
    targets: Strings
    complete: bool
    absent_platforms: Strings
    platforms: list[PlatformState]
    unread: list[Content]
    tools: Tools
    causes: list[Cause]
    remedy: str | None


class DiagnosisSummary(TypedDict):
    """The diagnosis of one of many images."""

    image: str
    namespace: str
    complete: bool
    missing_bytes: Count
    cause: str | None
    remedy: str | None


class DiagnoseAll(TypedDict):
    """The diagnoses of many images."""

    images: list[DiagnosisSummary]


class ListedPlatform(TypedDict):
    """A platform of an image, and whether all of its content is in the store."""

    platform: str
    complete: bool


class Image(TypedDict):
    """An image, its size and its use."""

    name: str
    namespace: str
    target: Content
    platforms: list[ListedPlatform]
    bytes: Count
    bytes_own: Count
    bytes_shared: Count
    created_at: Time
    updated_at: Time
    labels: Labels
    pinned: bool
    in_use: bool
    containers: Strings
    alias_of: str

"""Documents of verify and of archives."""

from __future__ import annotations

from typing import Literal, TypeAlias, TypedDict

from pyctrd.cli.documents.content import Blob, Content, Count, NamedTarget, Sha, Strings

Fault: TypeAlias = Literal["missing", "unreadable", "truncated", "corrupt", "malformed"]
Completeness: TypeAlias = Literal["complete", "presumed", "incomplete", "absent"]
LayoutKind: TypeAlias = Literal["oci", "docker"]


class Finding(TypedDict):
    """Damaged or missing content."""

    digest: Sha
    mediaType: str
    size: Count
    fault: Fault
    detail: str
    images: Strings
    platform: str | None
    repaired: bool


class ArchiveFinding(Finding):
    """Damaged or missing content in an archive."""

    archive: str


class Hashed(TypedDict):
    """How much was hashed."""

    blobs: Count
    bytes: Count


class Verify(Hashed):
    """What a verification of the content store found."""

    findings: list[Finding]


class ArchivedManifest(TypedDict):
    """A manifest of an image in an archive."""

    platform: str
    digest: Sha
    state: Completeness
    size: Count
    missing: list[Content]


class ArchivedImage(NamedTarget):
    """An image in an archive."""

    platforms: Strings
    complete: bool
    manifests: list[ArchivedManifest]
    attestations: Count


class VerifiedImage(ArchivedImage):
    """An image in one of several archives."""

    archive: str


class VerifyArchives(Hashed):
    """What a verification of archives found."""

    findings: list[ArchiveFinding]
    images: list[VerifiedImage]
    platforms: Strings
    presumed: list[Blob]


class InspectArchive(TypedDict):
    """What is in an archive."""

    archive: str
    layout: LayoutKind
    folder: bool
    compression: str
    images: list[ArchivedImage]
    others: list[Content]
    blobs: list[Content]
    bytes: Count
    presumed: list[Blob]

"""Check an archive, and show what is in it, without a containerd. Nothing is extracted or stored."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from pyctrd.archive.inventory import Have
from pyctrd.archive.reader import Archive
from pyctrd.oci.model import Descriptor, Platform
from pyctrd.oci.platforms import Targets
from pyctrd.operations.archives.files import CheckedFiles
from pyctrd.operations.archives.survey import ArchivedImage, LayoutKind, Survey
from pyctrd.operations.verify import VerifyResult
from pyctrd.progress import Progress, ProgressSink, no_progress


class VerifyArchiveResult(VerifyResult, frozen=True, kw_only=True):
    """What was found in an archive: its images, and the problems.

    `presumed` are the layers that the archive says it leaves out, because the target should have them.
    """

    images: tuple[ArchivedImage, ...]
    presumed: tuple[Descriptor, ...] = ()

    @property
    def platforms(self) -> tuple[Platform, ...]:
        """The platforms that are complete in every image."""
        found = [image.having("complete") for image in self.images]
        return tuple(item for item in found[0] if all(item in others for others in found)) if found else ()


class ArchiveInfo(msgspec.Struct, frozen=True, kw_only=True):
    """What is in an archive, as it says itself: only documents are read.

    `layout` is "oci" for an OCI layout, "docker" for docker's own format. `folder` is true for a folder, and
    `compression` is that of the archive, empty for none. `others` are attestations, signatures and other
    entries that accompany images. `blobs` have an empty media type if no image refers to them. `presumed` are
    the layers that the archive says it leaves out, because the target should have them.
    """

    name: str
    layout: LayoutKind
    folder: bool
    compression: str
    images: tuple[ArchivedImage, ...]
    others: tuple[Descriptor, ...]
    blobs: tuple[Descriptor, ...]
    presumed: tuple[Descriptor, ...]


def no_check() -> None:
    """Never ask for an end."""


def verify_archive(
    archive: Archive,
    targets: Targets | None = None,
    have: Have | None = None,
    *,
    check: Callable[[], None] = no_check,
    progress: ProgressSink = no_progress,
) -> VerifyArchiveResult:
    """Hash all of an archive, and find out what is complete in it, together with what the target has.

    Without `targets`, the platforms have to be complete of which the archive has the manifest. `check` is
    called regularly, and may raise. Raises ArchiveError for an archive that cannot be read on.
    """
    files = CheckedFiles(archive, hashing=True, check=check, progress=progress)
    found = Survey(files, targets, have)
    progress(Progress(action="done", detail=archive.name))
    return VerifyArchiveResult(
        blobs=files.count,
        bytes_hashed=files.bytes,
        findings=found.findings,
        images=found.images,
        presumed=_presumed(found),
    )


def inspect_archive(archive: Archive, *, check: Callable[[], None] = no_check) -> ArchiveInfo:
    """Find out what is in an archive. Reads only the documents of a file, but all of a pipe.

    `check` is called regularly, and may raise. Raises ArchiveError for an archive that cannot be read on.
    """
    files = CheckedFiles(archive, hashing=False, check=check, progress=no_progress)
    found = Survey(files)
    return ArchiveInfo(
        name=archive.name,
        layout=found.layout,
        folder=archive.is_folder,
        compression=archive.compression,
        images=found.images,
        others=found.others,
        blobs=found.blobs,
        presumed=_presumed(found),
    )


def _presumed(found: Survey) -> tuple[Descriptor, ...]:
    return tuple(item.layer for item in found.presumed.values())

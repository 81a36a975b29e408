"""Check and show archives without a client: `pyctrd.verify_archive` and `pyctrd.inspect_archive`."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from pyctrd import arguments
from pyctrd.archive.inventory import have_of
from pyctrd.archive.inventory import read as read_inventory
from pyctrd.archive.reader import open_archive
from pyctrd.oci.platforms import Platforms, select
from pyctrd.operations import archives
from pyctrd.progress import ProgressSink, no_progress, one_at_a_time

if TYPE_CHECKING:
    import threading

    from pyctrd.archive.inventory import InventorySource
    from pyctrd.archive.reader import Source
    from pyctrd.operations.archives import ArchiveInfo, VerifyArchiveResult


def verify_archive(
    source: Source,
    *,
    platforms: Platforms | None = None,
    have: InventorySource | None = None,
    progress: ProgressSink = no_progress,
    cancel: threading.Event | None = None,
) -> VerifyArchiveResult:
    """Hash the content of an archive, and report what is damaged or missing. Needs no containerd.

    `source` is what `client.images.load` accepts: a path, `-` for stdin, or a binary stream. Every blob is
    hashed, and every document validated. `platforms` have to be complete; without, those of which the archive
    has the manifest. `have` is the inventory of the containerd that will load a delta archive: an Inventory,
    a path, or a binary stream. With it, platforms are complete if that containerd has what the archive lacks;
    without, layers that the archive says it leaves out are no findings, but are in `presumed`. Setting
    `cancel` makes the call raise Cancelled.

    Raises ArchiveError if the source is no image archive, is truncated, or is malicious, InvalidInput.
    """
    targets = None if platforms is None else select(platforms).resolve()
    known = None if have is None else have_of(read_inventory(have))
    check = _checking(cancel)
    with open_archive(source, check=check) as archive:
        return archives.verify_archive(archive, targets, known, check=check, progress=one_at_a_time(progress))


def inspect_archive(source: Source, *, cancel: threading.Event | None = None) -> ArchiveInfo:
    """Return what is in an archive: images, platforms, blobs. Needs no containerd, and stores nothing.

    `source` is what `client.images.load` accepts. Of a file that is not compressed and of a folder, only the
    documents are read; other content counts as complete if its size is right. Setting `cancel` makes the call
    raise Cancelled. Raises ArchiveError if the source is no image archive, is truncated, or is malicious,
    InvalidInput.
    """
    check = _checking(cancel)
    with open_archive(source, check=check) as archive:
        return archives.inspect_archive(archive, check=check)


def _checking(cancel: threading.Event | None) -> Callable[[], None]:
    """Return a function that raises Cancelled once the event is set."""
    if cancel is None:
        return archives.no_check
    check = partial(arguments.event, "cancel", cancel)
    check()
    return check

"""`pyctrd inspect`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from pyctrd.cli import settings
from pyctrd.cli.archives import amounts_of, image_document, is_archive, print_image, print_presumed
from pyctrd.cli.page import Item, Page
from pyctrd.cli.render import amount, blobs_table, content_of, emit_json, open_page
from pyctrd.cli.settings import Settings

if TYPE_CHECKING:
    from pyctrd import ArchiveInfo

_LAYOUTS = {"oci": "OCI layout", "docker": "docker archive"}


@click.command("inspect")
@click.argument("archive", type=click.Path(allow_dash=True))
@settings.format_option("table", "json")
@settings.global_options
def command(archive: str, output_format: str) -> None:
    """Show what is in an archive, without loading it.

    ARCHIVE is a file, the folder of an OCI layout, or - for stdin. Platforms are complete if all of their
    content is there; `pyctrd verify ARCHIVE` also hashes it.
    """
    if not is_archive(archive):
        raise click.UsageError(
            f"{archive!r} is not an archive: there is no such file, and no OCI layout in such a folder. "
            "For images in containerd, see `pyctrd images` and `pyctrd diagnose`"
        )
    from pyctrd.archives import inspect_archive

    chosen = click.get_current_context().ensure_object(Settings)
    found = inspect_archive(archive, cancel=chosen.cancel)
    if output_format == "json":
        emit_json(_document(found))
    else:
        print_info(open_page(), found)


def _document(found: ArchiveInfo) -> dict[str, object]:
    return {
        "archive": found.name,
        "layout": found.layout,
        "folder": found.folder,
        "compression": found.compression or "none",
        "images": list(map(image_document, found.images)),
        "others": list(map(content_of, found.others)),
        "blobs": list(map(content_of, found.blobs)),
        "bytes": sum(blob.size for blob in found.blobs),
        "presumed": amounts_of(found.presumed),
    }


def print_info(page: Page, found: ArchiveInfo) -> None:
    """Print what is in an archive."""
    container = "folder" if found.folder else f"tar, {found.compression or 'not compressed'}"
    page.items(
        [
            Item("archive", found.name),
            Item("layout", f"{_LAYOUTS[found.layout]}, {container}"),
            Item("content", amount(found.blobs, sum(blob.size for blob in found.blobs))),
        ]
    )
    for image in found.images:
        print_image(page, image)
    if found.others:
        page.heading("Attestations, signatures and other artifacts")
        blobs_table(page, found.others)
    print_presumed(page, found.presumed)
    page.heading("Content")
    blobs_table(page, found.blobs)

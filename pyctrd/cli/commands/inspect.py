"""`pyctrd inspect`."""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING

import click

from pyctrd.cli import imageinfo, settings
from pyctrd.cli.archives import amounts_of, image_document, is_archive, print_image, print_presumed
from pyctrd.cli.page import Item, Page
from pyctrd.cli.render import amount, blobs_table, content_of, emit_json, open_page
from pyctrd.cli.session import open_client
from pyctrd.cli.settings import Settings
from pyctrd.errors import ImageNotFound, InvalidReference

if TYPE_CHECKING:
    from pyctrd import ArchiveInfo
    from pyctrd.cli.documents import archives

_LAYOUTS = {"oci": "OCI layout", "docker": "docker archive"}


@click.command("inspect")
@settings.image_argument("ref", metavar="REF|ARCHIVE")
@settings.platform_option("Platform whose manifest and config to show (default: the host's).")
@settings.all_platforms_option
@settings.format_option("table", "json")
@settings.global_options
def command(ref: str, platforms: tuple[str, ...], all_platforms: bool, output_format: str) -> None:
    """Show all about an image, or what is in an archive.

    Of an image: its record, index, manifest, config and history, where it came from, who uses it, and what
    of it is here. Of an archive, which is a file, the folder of an OCI layout, or - for stdin (see `pyctrd
    verify --help`): its images, and which of their platforms are complete in it.
    """
    wanted = settings.platforms_of(platforms, all_platforms)
    if not is_archive(ref):
        _inspect_image(ref, wanted, output_format)
        return
    if wanted:
        raise click.UsageError(f"--platform is for images, and {ref} is an archive")
    from pyctrd.archives import inspect_archive

    chosen = click.get_current_context().ensure_object(Settings)
    found = inspect_archive(ref, cancel=chosen.cancel)
    if output_format == "json":
        emit_json(_document(found))
    else:
        print_info(open_page(), found)


def _inspect_image(ref: str, platforms: tuple[str, ...] | None, output_format: str) -> None:
    try:
        with open_client() as client:
            info = client.images.inspect(ref, platforms)
    except (ImageNotFound, InvalidReference) as error:
        error.hint = "; ".join(filter(None, ("there is no such file either", error.hint)))
        raise
    if output_format == "json":
        emit_json(imageinfo.document(info))
    else:
        imageinfo.render(info, open_page(), dt.datetime.now(dt.UTC))


def _document(found: ArchiveInfo) -> archives.InspectArchive:
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

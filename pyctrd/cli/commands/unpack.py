"""`pyctrd unpack`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from pyctrd.cli import settings
from pyctrd.cli.page import Cell, Column, Item, Page
from pyctrd.cli.progress import reporting
from pyctrd.cli.render import content_of, digest_cell, emit_json, open_page
from pyctrd.cli.session import open_client
from pyctrd.cli.text import count
from pyctrd.oci.platforms import format_all

if TYPE_CHECKING:
    from pyctrd import UnpackResult
    from pyctrd.cli.documents import transfers


@click.command("unpack")
@settings.image_argument("ref")
@settings.platform_option("Platform to unpack (default: the host's).")
@settings.all_platforms_option
@settings.snapshotter_option
@settings.format_option("text", "json")
@settings.progress_option
@settings.quiet_option
@settings.global_options
def command(
    ref: str,
    platforms: tuple[str, ...],
    all_platforms: bool,
    snapshotter: str | None,
    output_format: str,
    progress: str,
    quiet: bool,
) -> None:
    """Unpack an image that is in the store.

    Containers are created from the snapshots. Does not use the network; layers that are unpacked already are
    left as they are.
    """
    wanted = settings.platforms_of(platforms, all_platforms)
    with open_client(snapshotter=snapshotter) as client, reporting(progress, quiet=quiet) as sink:
        result = client.images.unpack(ref, platforms=wanted, progress=sink)
    if output_format == "json":
        emit_json(_document(result))
    elif quiet:
        for snapshot in filter(None, result.snapshots.values()):
            open_page().line(snapshot)
    else:
        _print(open_page(), result)


def _document(result: UnpackResult) -> transfers.Unpack:
    return {
        "image": result.image.name,
        "target": content_of(result.image.target),
        "snapshotter": result.snapshotter,
        "snapshots": [
            {"platform": format_all(platform), "snapshot": snapshot or ""}
            for platform, snapshot in result.snapshots.items()
        ],
        "layers": result.layers,
    }


def _print(page: Page, result: UnpackResult) -> None:
    page.line(result.image.name, "strong")
    if not result.snapshots:
        unpacked = "nothing, it has no layers to unpack"
    else:
        unpacked = count(result.layers, "layer") if result.layers else "nothing, already unpacked"
    page.items([Item("snapshotter", result.snapshotter), Item("unpacked", unpacked)])
    if result.snapshots:
        page.table(
            [Column("PLATFORM"), Column("SNAPSHOT")],
            [
                (Cell(format_all(platform)), digest_cell(snapshot) if snapshot else Cell("no layers", "dim"))
                for platform, snapshot in result.snapshots.items()
            ],
        )

"""`pyctrd sync`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from pyctrd.amounts import listed
from pyctrd.cli import settings
from pyctrd.cli.page import Item, Page
from pyctrd.cli.progress import reporting_later
from pyctrd.cli.render import amount, blobs_table, content_of, emit_json, open_page
from pyctrd.cli.session import open_client, resumable
from pyctrd.oci.platforms import format_all

if TYPE_CHECKING:
    from pyctrd import SyncResult
    from pyctrd.cli.documents import transfers


@click.command("sync")
@settings.image_argument("words", nargs=-1, required=True, metavar="REF... [TO]")
@click.option("--from", "source", metavar="FROM", help="Copy from this containerd, instead of to TO.")
@settings.platform_option("Platform to copy (default: that of the machine that receives).")
@settings.all_platforms_option
@click.option(
    "--unpack/--no-unpack",
    default=None,
    help="Unpack the layers there.  [default: unpack, except for `all` and `local` platforms]",
)
@click.option(
    "--snapshotter",
    metavar="S",
    default="",
    help="Snapshotter to unpack into.  [default: that of the containerd that receives]",
)
@click.option("--dry-run", is_flag=True, help="Print what would be sent, without sending it.")
@settings.format_option("text", "json")
@settings.progress_option
@settings.quiet_option
@settings.global_options
def command(
    words: tuple[str, ...],
    source: str | None,
    platforms: tuple[str, ...],
    all_platforms: bool,
    unpack: bool | None,
    snapshotter: str,
    dry_run: bool,
    output_format: str,
    progress: str,
    quiet: bool,
) -> None:
    """Copy images to or from another containerd.

    TO and FROM are ssh://[USER@]HOST[:PORT][/SOCKET], or unix:///SOCKET on this machine, and may end with
    ?namespace=NAME (default: the namespace of -n). Only content that is missing there is sent. OpenSSH's
    client connects, with your configuration; nothing is installed on the other machine. An interrupted copy
    is resumed by the next one.
    """
    wanted = settings.platforms_of(platforms, all_platforms)
    refs, to = (words, None) if source is not None else (words[:-1], words[-1])
    if not refs:
        raise click.UsageError(
            "name one image or more, then the other containerd: ssh://HOST or unix:///SOCKET"
        )
    click.get_current_context().ensure_object(settings.Settings).images = refs if source is None else ()
    with open_client() as client, reporting_later("none" if dry_run else progress, quiet=quiet) as sink:
        if not dry_run:
            resumable("what was copied is kept for a day")
        result = client.images.sync(
            refs,
            to,
            source=source,
            platforms=wanted,
            unpack=unpack,
            snapshotter=snapshotter,
            dry_run=dry_run,
            progress=sink,
        )
    if output_format == "json":
        emit_json(_document(result))
    elif quiet:
        for image in result.images:
            open_page().line(image.name)
    else:
        _print(open_page(), result)


def _document(result: SyncResult) -> transfers.Sync:
    return {
        "images": [{"name": image.name, "target": content_of(image.target)} for image in result.images],
        "bytes_sent": result.bytes_sent,
        "blobs_sent": len(result.sent),
        "blobs_present": len(result.present),
        "bytes_resumed": result.bytes_resumed,
        "sent": [content_of(item) for item in result.sent],
        "unpacked": list(map(format_all, result.unpacked)),
    }


def _print(page: Page, result: SyncResult) -> None:
    for image in result.images:
        page.line(image.name, "strong")
    sent = amount(result.sent, result.bytes_sent) if result.sent else "nothing, already complete"
    items = [Item("would send" if result.dry_run else "sent", sent)]
    if result.resumed:
        items.append(
            Item("resumed", f"{amount(result.resumed, result.bytes_resumed)} from an interrupted copy")
        )
    if result.present:
        items.append(Item("present", amount(result.present, sum(item.size for item in result.present))))
    if result.dry_run:
        page.items(items)
        blobs_table(page, result.sent)
    else:
        page.items([*items, Item("unpacked", listed(list(map(format_all, result.unpacked))) or "no")])

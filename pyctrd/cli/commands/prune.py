"""`pyctrd prune`."""

from __future__ import annotations

import datetime as dt
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import click
import msgspec

from pyctrd.cli import removed, screen, settings
from pyctrd.cli.page import Page
from pyctrd.cli.render import emit_json, open_page
from pyctrd.cli.session import open_client
from pyctrd.cli.text import count, size

if TYPE_CHECKING:
    import threading

    from pyctrd import RemoveResult

_POLICIES: Final = "--dangling, --unused, --older-than, --keep-last, --until-free, --expired or --leftovers"


def _duration(_context: click.Context, _parameter: click.Parameter, text: str | None) -> dt.timedelta | None:
    return None if text is None else settings.duration(text)


@click.command("prune")
@click.option("--dangling", is_flag=True, help="Remove images without a tag.")
@click.option("--unused", "--all", "unused", is_flag=True, help="Remove images that no container uses.")
@click.option(
    "--older-than",
    metavar="TIME",
    callback=_duration,
    help="Remove only images that were pulled or changed longer ago, e.g. 12h, 7d or 2w.",
)
@click.option(
    "--keep-last",
    type=click.IntRange(min=1),
    metavar="N",
    help="Keep the N newest images of each repository.",
)
@click.option(
    "--until-free",
    metavar="SIZE|%",
    help="Remove the oldest images, and only as many as needed for so much free disk space, e.g. 20G or 15%.",
)
@click.option(
    "--keep", multiple=True, metavar="REGEX", help="Keep images with a name that REGEX matches; repeatable."
)
@click.option("--expired", is_flag=True, help="Remove images and leases whose expiry is over.")
@click.option("--leftovers", is_flag=True, help="Remove what interrupted pulls have left.")
@click.option("--dry-run", is_flag=True, help="Print what would be removed and freed, without removing it.")
@click.option("-f", "--force", "-y", "--yes", "force", is_flag=True, help="Do not ask.")
@click.option("-q", "--quiet", is_flag=True, help="Print only the names of the removed images.")
@settings.format_option("table", "json")
@settings.global_options
def command(dry_run: bool, force: bool, quiet: bool, output_format: str, **policies: Any) -> None:
    """Remove images by policies, and what interrupted pulls left.

    At least one policy is required. An image that a container uses or that is pinned is never removed, nor is
    one that --keep matches, and all names of one image go together or not at all.

    --dangling and --unused choose images. --older-than, --keep-last and --until-free each leave some of
    these; without --dangling, they mean --unused. --expired removes images with `--ttl`, which containerd 2
    does by itself. --leftovers removes unfinished writes without progress for an hour, and their leases.
    Whatever nothing refers to goes in any case, as it does when containerd collects garbage.
    """
    if not any(
        value is not None and value is not False for name, value in policies.items() if name != "keep"
    ):
        raise click.UsageError(f"nothing is removed without a policy: {_POLICIES}")
    if not (force or dry_run or screen.is_interactive()):
        raise click.UsageError(
            "there is no terminal to ask on: use --force, or --dry-run to see what would go"
        )
    chosen = click.get_current_context().ensure_object(settings.Settings)
    page = open_page()
    asking = not (force or dry_run)
    is_table = output_format == "table" and not quiet
    confirm = partial(_confirm, page if is_table else None, cancel=chosen.cancel) if asking else None
    with open_client() as client:
        result = client.images.prune(**policies, dry_run=dry_run, confirm=confirm)
    if output_format == "json":
        emit_json({**removed.document(result), "bytes_missing": result.bytes_missing})
    elif quiet:
        for name in result.images:
            page.line(name)
    else:
        if asking:  # they were listed with the question
            result = msgspec.structs.replace(result, images=(), leases=(), ingests=())
        removed.show(page, result, dry_run=dry_run)
        _show_missing(page, result)


def _confirm(page: Page | None, planned: RemoveResult, *, cancel: threading.Event) -> bool:
    """List what would go, and ask; do not ask if nothing would."""
    if page is not None:
        removed.show(page, planned, dry_run=True)
    if not (planned.images or planned.leases or planned.ingests or planned.blobs or planned.snapshots):
        return True
    what = count(len(planned.images), "image name") if planned.images else "what nothing refers to"
    if screen.confirm(f"Remove {what}, and free {size(planned.bytes)}?", cancel):
        return True
    raise click.ClickException("nothing was removed")


def _show_missing(page: Page, result: RemoveResult) -> None:
    if result.bytes_missing:
        page.line(
            f"{size(result.bytes_missing)} more would have to become free: all other images are in use, "
            "pinned or kept",
            "warn",
        )

"""`pyctrd ensure`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from pyctrd.cli import settings
from pyctrd.cli.progress import reporting
from pyctrd.cli.render import amount, blobs_table, content_of, emit_json, open_page, resumed_of
from pyctrd.cli.session import open_client, resumable
from pyctrd.oci.model import Descriptor

if TYPE_CHECKING:
    from pyctrd import EnsureResult


@click.command("ensure")
@settings.image_argument("ref")
@settings.platform_option("Platform to complete (default: the host's).")
@settings.all_platforms_option
@click.option(
    "--from",
    "source",
    metavar="FILE",
    help="Take content from an archive, before a registry is asked; not from a compressed one.",
)
@click.option("--dry-run", is_flag=True, help="Print what would be fetched, without fetching it.")
@settings.registry_options
@settings.format_option("text", "json")
@settings.progress_option
@settings.quiet_option
@settings.global_options
def command(
    ref: str,
    platforms: tuple[str, ...],
    all_platforms: bool,
    source: str | None,
    dry_run: bool,
    output_format: str,
    progress: str,
    quiet: bool,
) -> None:
    """Fetch the missing content of an image.

    Fetches by digest from the image's original repository and does not resolve the tag again. If nothing is
    missing, no registry is contacted.
    """
    wanted = settings.platforms_of(platforms, all_platforms)
    with open_client() as client, reporting("none" if dry_run else progress, quiet=quiet) as sink:
        if not dry_run:
            resumable()
        result = client.images.ensure(ref, platforms=wanted, source=source, dry_run=dry_run, progress=sink)
    _show(_document(result), _summary(result), result.fetched or tuple(result.resumed), output_format, quiet)


def _document(result: EnsureResult) -> dict[str, object]:
    fetched = [content_of(item) for item in result.fetched]
    if result.dry_run:
        return {"fetch": fetched, "bytes": result.bytes_fetched}
    return {
        "fetched": fetched,
        "bytes": result.bytes_fetched,
        "resumed": resumed_of(result.resumed),
        "bytes_resumed": result.bytes_resumed,
    }


def _summary(result: EnsureResult) -> str:
    fetched = (
        f"{'would fetch' if result.dry_run else 'fetched'} {amount(result.fetched, result.bytes_fetched)}"
    )
    return f"{fetched}, resumed {amount(result.resumed, result.bytes_resumed)}" if result.resumed else fetched


def _show(
    document: dict[str, object], summary: str, blobs: Sequence[Descriptor], output_format: str, quiet: bool
) -> None:
    page = open_page()
    if output_format == "json":
        emit_json(document)
    elif quiet:
        for item in blobs:
            page.line(item.digest)
    elif not blobs:
        page.line("nothing is missing", "good")
    else:
        page.line(summary, "strong")
        blobs_table(page, blobs)

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
@click.option("--dry-run", is_flag=True, help="Print what would be fetched, and change nothing.")
@settings.registry_options
@settings.format_option("text", "json")
@settings.progress_option
@settings.quiet_option
@settings.global_options
def command(
    ref: str,
    platforms: tuple[str, ...],
    all_platforms: bool,
    dry_run: bool,
    output_format: str,
    progress: str,
    quiet: bool,
) -> None:
    """Fetch what an image lacks for its target platforms, and nothing else.

    Every blob is asked for by its digest, in the repository that the image or its content's labels name:
    a tag that moved, or is gone, does no harm. Where nothing is missing, no registry is asked.
    """
    with open_client() as client:
        if dry_run:
            plan = client.plan_ensure(ref, platforms, all_platforms=all_platforms)
            document = {"fetch": [content_of(item) for item in plan.fetch], "bytes": plan.bytes}
            _show(document, f"would fetch {amount(plan.fetch, plan.bytes)}", plan.fetch, output_format, quiet)
            return
        with reporting(progress, quiet=quiet) as sink:
            resumable()
            result = client.ensure(ref, platforms, all_platforms=all_platforms, progress=sink)
    _show(_document(result), _told(result), result.fetched or tuple(result.resumed), output_format, quiet)


def _document(result: EnsureResult) -> dict[str, object]:
    return {
        "fetched": [content_of(item) for item in result.fetched],
        "bytes": result.bytes,
        "resumed": resumed_of(result.resumed),
        "bytes_resumed": result.bytes_resumed,
    }


def _told(result: EnsureResult) -> str:
    fetched = f"fetched {amount(result.fetched, result.bytes)}"
    return f"{fetched}, resumed {amount(result.resumed, result.bytes_resumed)}" if result.resumed else fetched


def _show(
    document: dict[str, object], told: str, blobs: Sequence[Descriptor], output_format: str, quiet: bool
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
        page.line(told, "strong")
        blobs_table(page, blobs)

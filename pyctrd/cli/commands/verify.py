"""`pyctrd verify`."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import click

from pyctrd.cli import commandline, settings
from pyctrd.cli.page import Cell, Column, Page
from pyctrd.cli.progress import reporting
from pyctrd.cli.render import digest_cell, emit_json, open_page
from pyctrd.cli.session import open_client
from pyctrd.cli.settings import Settings
from pyctrd.cli.text import count, size
from pyctrd.errors import Remedy

if TYPE_CHECKING:
    from pyctrd import Finding, VerifyResult

_INCOMPLETE = 4


@click.command("verify")
@settings.image_argument("refs", nargs=-1, metavar="[REF...]")
@settings.platform_option("Platform that must be complete (default: the host's).")
@settings.all_platforms_option
@click.option("--repair", is_flag=True, help="Replace bad content with good copies, fetched by digest.")
@settings.registry_options
@settings.format_option("table", "json")
@settings.progress_option
@settings.quiet_option
@settings.global_options
def command(
    refs: tuple[str, ...],
    platforms: tuple[str, ...],
    all_platforms: bool,
    repair: bool,
    output_format: str,
    progress: str,
    quiet: bool,
) -> None:
    """Report damaged or missing content.

    Hashes the content of each REF, or of the whole namespace if none is given. Missing content is reported
    for the selected platforms only. Exits with 4 if problems remain.
    """
    wanted = settings.platforms_of(platforms, all_platforms)
    with open_client() as client, reporting(progress, quiet=quiet) as sink:
        result = client.images.verify(refs, platforms=wanted, repair=repair, progress=sink)
    if output_format == "json":
        emit_json(
            {
                "blobs": result.blobs,
                "bytes": result.bytes_hashed,
                "findings": [_document(x) for x in result.findings],
            }
        )
    elif not quiet or not result.ok:
        _print(open_page(), result)
        if not result.ok and not repair:
            again = Remedy(method="verify", repair=True, platforms=platforms, all_platforms=all_platforms)
            _advise(open_page(), result, again)
    if not result.ok:
        click.get_current_context().exit(_INCOMPLETE)


def _document(finding: Finding) -> dict[str, object]:
    return {
        "digest": finding.digest,
        "mediaType": finding.media_type,
        "size": finding.size,
        "fault": finding.fault,
        "detail": finding.detail,
        "images": list(finding.images),
        "repaired": finding.repaired,
    }


def _print(page: Page, result: VerifyResult) -> None:
    hashed = f"{count(result.blobs, 'blob')}, {size(result.bytes_hashed)} hashed"
    if not result.findings:
        page.line(f"{hashed}: no problems found", "good")
        return
    page.line(f"{hashed}: {count(len(result.findings), 'problem')} found", "bad")
    page.table(
        [Column("DIGEST"), Column("FAULT"), Column("REPAIRED"), Column("SIZE", right=True), Column("IMAGE")],
        [
            (
                digest_cell(item.digest),
                Cell(item.fault, "bad"),
                Cell("yes", "good") if item.repaired else Cell("no", "bad"),
                Cell(size(item.size)),
                Cell(", ".join(item.images) or "-"),
            )
            for item in result.findings
        ],
    )
    for item in result.findings:
        if not item.repaired:
            page.line(f"{item.digest}: {item.detail}", "dim")
    if any(item.fault == "malformed" for item in result.findings):
        page.line("malformed content matches its digest: the image was built wrongly and cannot be repaired")


def _advise(page: Page, result: VerifyResult, again: Remedy) -> None:
    """Print the commands that fix the findings."""
    chosen = click.get_current_context().ensure_object(Settings)
    names = dict.fromkeys(
        name for item in result.findings if item.fault != "malformed" for name in item.images
    )
    if names:
        page.line("replace with good copies, fetched by digest:")
        page.command(commandline.of(replace(again, images=tuple(names)), chosen))
    orphans = [str(item.digest) for item in result.findings if not item.images]
    if orphans:
        page.line("remove blobs that no image refers to:")
        page.command(commandline.ctr(chosen, "content", "rm", *orphans))

"""`pyctrd verify`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import click

from pyctrd.cli import commandline, settings
from pyctrd.cli.archives import amounts_of, image_document, is_archive, print_image, print_presumed
from pyctrd.cli.page import Cell, Column, Page
from pyctrd.cli.progress import reporting
from pyctrd.cli.render import amount, digest_cell, emit_json, open_page
from pyctrd.cli.session import open_client
from pyctrd.cli.settings import Settings
from pyctrd.cli.text import count, size
from pyctrd.errors import Remedy
from pyctrd.oci.platforms import format_all

if TYPE_CHECKING:
    from pyctrd import Finding, VerifyArchiveResult, VerifyResult
    from pyctrd.cli.documents import archives
    from pyctrd.oci.model import Platform

_INCOMPLETE = 4


@click.command("verify")
@settings.image_argument("refs", nargs=-1, metavar="[REF|ARCHIVE]...")
@settings.platform_option(
    "Platform that must be complete (default: the host's; of an archive, all that it has the manifests of)."
)
@settings.all_platforms_option
@click.option("--repair", is_flag=True, help="Replace bad content with good copies, fetched by digest.")
@click.option("--have", metavar="FILE", help="Inventory of the containerd that is to load the archive.")
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
    have: str | None,
    output_format: str,
    progress: str,
    quiet: bool,
) -> None:
    """Report damaged or missing content.

    Hashes the content of each REF, or of the whole namespace if none is given, or of an archive, for which no
    containerd is needed. An argument is an archive if it is -, an existing file, a folder with a file
    oci-layout, begins with / or ./ or ../, or ends like app.tar or app.tar.gz; any other is a reference.
    Missing content is reported for the selected platforms only. Exits with 4 if problems remain.
    """
    wanted = settings.platforms_of(platforms, all_platforms)
    archives = [ref for ref in refs if is_archive(ref)]
    if archives and len(archives) < len(refs):
        other = next(ref for ref in refs if ref not in archives)
        raise click.UsageError(
            f"cannot verify archives and images in one run: {archives[0]} is an archive, {other} is none"
        )
    if archives and repair:
        raise click.UsageError("--repair replaces content in containerd, not in an archive")
    if have == "-" and (len(archives) > 1 or "-" in archives):
        raise click.UsageError("stdin can only be read once: pass a file to --have")
    if have is not None and not archives:
        raise click.UsageError("--have is for archives only")
    if archives:
        _verify_archives(archives, wanted, have, output_format, progress, quiet=quiet)
        return
    with open_client() as client, reporting(progress, quiet=quiet) as sink:
        result = client.images.verify(refs, platforms=wanted, repair=repair, progress=sink)
    if output_format == "json":
        emit_json(_result(result))
    elif not quiet or not result.ok:
        _print(open_page(), result)
        if not result.ok and not repair:
            again = Remedy(method="verify", repair=True, platforms=platforms, all_platforms=all_platforms)
            _advise(open_page(), result, again)
    if not result.ok:
        click.get_current_context().exit(_INCOMPLETE)


def _summary(results: Sequence[VerifyResult]) -> archives.Hashed:
    return {
        "blobs": sum(result.blobs for result in results),
        "bytes": sum(result.bytes_hashed for result in results),
    }


def _result(result: VerifyResult) -> archives.Verify:
    return {**_summary([result]), "findings": [_document(item) for item in result.findings]}


def _document(finding: Finding) -> archives.Finding:
    return {
        "digest": finding.digest,
        "mediaType": finding.media_type,
        "size": finding.size,
        "fault": finding.fault,
        "detail": finding.detail,
        "images": list(finding.images),
        "platform": format_all(finding.platform) if finding.platform else None,
        "repaired": finding.repaired,
    }


# --- archives ---------------------------------------------------------------------------------------------


def _verify_archives(
    archives: Sequence[str],
    platforms: Sequence[str] | None,
    have: str | None,
    output_format: str,
    progress: str,
    *,
    quiet: bool,
) -> None:
    from pyctrd.archives import verify_archive

    chosen = click.get_current_context().ensure_object(Settings)
    results: dict[str, VerifyArchiveResult] = {}
    with reporting(progress, quiet=quiet) as sink:
        for archive in archives:
            results[archive] = verify_archive(
                archive, platforms=platforms, have=have, progress=sink, cancel=chosen.cancel
            )
    if output_format == "json":
        emit_json(_archives_document(results))
    else:
        for archive, result in results.items():
            if not quiet or not result.ok:
                _print_archive(open_page(), archive, result, with_heading=len(results) > 1)
    if not all(result.ok for result in results.values()):
        click.get_current_context().exit(_INCOMPLETE)


def _archives_document(results: Mapping[str, VerifyArchiveResult]) -> archives.VerifyArchives:
    return {
        **_summary(list(results.values())),
        "findings": [
            {"archive": archive, **_document(item)}
            for archive, result in results.items()
            for item in result.findings
        ],
        "images": [
            {"archive": archive, **image_document(image)}
            for archive, result in results.items()
            for image in result.images
        ],
        "platforms": list(map(format_all, _shared([result.platforms for result in results.values()]))),
        "presumed": amounts_of(
            dict.fromkeys(blob for result in results.values() for blob in result.presumed)
        ),
    }


def _shared(platforms: Sequence[Sequence[Platform]]) -> list[Platform]:
    first, *others = platforms
    return [item for item in first if all(item in other for other in others)]


def _print_archive(page: Page, archive: str, result: VerifyArchiveResult, *, with_heading: bool) -> None:
    if with_heading:
        page.heading(archive)
    _print(page, result, in_archive=True)
    for image in result.images:
        print_image(page, image)
    print_presumed(page, result.presumed)
    if not result.ok:
        page.line("")
        page.line("the archive is damaged, or lacks something: copy it, or save it again")


# --- text -------------------------------------------------------------------------------------------------


def _print(page: Page, result: VerifyResult, *, in_archive: bool = False) -> None:
    hashed = f"{count(result.blobs, 'blob')}, {size(result.bytes_hashed)} hashed"
    if not result.findings:
        page.line(f"{hashed}: no problems found", "good")
        return
    page.line(f"{hashed}: {count(len(result.findings), 'problem')} found", "bad")
    missing = [item for item in result.findings if item.fault == "missing"]
    if len(missing) < len(result.findings):
        damaged = [item for item in result.findings if item.fault != "missing"]
        _damaged(page, damaged, in_archive=in_archive)
    _missing(page, missing)


def _damaged(page: Page, findings: Sequence[Finding], *, in_archive: bool) -> None:
    repaired = [] if in_archive else [Column("REPAIRED")]
    page.table(
        [Column("DIGEST"), Column("FAULT"), *repaired, Column("SIZE", right=True), Column("IMAGE")],
        [
            (
                digest_cell(item.digest),
                Cell(item.fault, "bad"),
                *(Cell("yes", "good") if item.repaired else Cell("no", "bad") for _column in repaired),
                Cell(size(item.size)),
                Cell(", ".join(item.images) or "-"),
            )
            for item in findings
        ],
    )
    for item in findings:
        if not item.repaired:
            page.line(f"{item.digest}: {item.detail}", "dim")
    if any(item.fault == "malformed" for item in findings):
        page.line("malformed content matches its digest: the image was built wrongly and cannot be repaired")


def _missing(page: Page, findings: Sequence[Finding]) -> None:
    """Print what is missing by image and platform: an image may lack hundreds of blobs."""
    groups: dict[tuple[tuple[str, ...], str], list[Finding]] = {}
    for item in findings:
        platform = format_all(item.platform) if item.platform else ""
        groups.setdefault((item.images, platform), []).append(item)
    for (images, platform), group in groups.items():
        repaired = sum(item.repaired for item in group)
        parts = (
            f"missing: {platform}:" if platform else "missing:",
            amount(group, sum(item.size for item in group)),
            f"of {', '.join(images)}" if images else "",
            f"({'all' if repaired == len(group) else repaired} repaired)" if repaired else "",
        )
        page.line(" ".join(filter(None, parts)), "good" if repaired == len(group) else "bad")
        left = [item for item in group if not item.repaired]
        if left:
            first = (
                left[0].detail if left[0].digest in left[0].detail else f"{left[0].digest}: {left[0].detail}"
            )
            more = f" (and {count(len(left) - 1, 'more blob')})" if len(left) > 1 else ""
            page.line(f"{first}{more}", "dim")


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

"""`pyctrd save`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

import click

from pyctrd.amounts import listed
from pyctrd.cli import commandline, settings
from pyctrd.cli.page import Item, Page
from pyctrd.cli.progress import reporting
from pyctrd.cli.render import (
    amount,
    blobs_table,
    content_of,
    emit_json,
    kind_of,
    open_page,
    referrers_of,
)
from pyctrd.cli.session import open_client, resumable
from pyctrd.cli.text import count, sanitize, size
from pyctrd.oci import platforms as platform_names

if TYPE_CHECKING:
    from pyctrd import (
        ArchiveFormat,
        AttestationMode,
        Compression,
        EnsureMode,
        IndexMode,
        OnMissing,
        SaveResult,
        Skipped,
    )
    from pyctrd.cli.documents import content, transfers


# File extensions of compressions that save does not write, and the program for each.
_OTHER_COMPRESSIONS: Final = {".xz": "xz", ".bz2": "bzip2"}
_ARCHIVES: Final = ("oci", "docker", "dir")


def _one_of_each(
    _context: click.Context, _parameter: click.Parameter, values: tuple[str, ...]
) -> tuple[str, str]:
    """Return the format of the archive and that of the result."""
    archive = [value for value in dict.fromkeys(values) if value in _ARCHIVES] or ["oci"]
    result = [value for value in dict.fromkeys(values) if value not in _ARCHIVES] or ["text"]
    for found in (archive, result):
        if len(found) > 1:
            raise click.BadParameter(f"cannot specify both {found[0]} and {found[1]}")
    return archive[0], result[0]


@click.command("save")
@settings.image_argument("refs", nargs=-1, required=True, metavar="REF...")
@click.option(
    "-o",
    "--output",
    metavar="FILE",
    type=click.Path(),
    callback=settings.remember_output,
    help="Write the archive to FILE, atomically.  [default: stdout, unless it is a terminal]",
)
@click.option(
    "--compress",
    type=click.Choice(["gzip", "zstd", "none"]),
    default=None,
    help="Compress the archive, on all cores.  [default: by the extension of FILE: .gz, .tgz, .zst, .tzst]",
)
@settings.platform_option("Platform to save (default: the host's).")
@settings.all_platforms_option
@click.option(
    "--ensure",
    type=click.Choice(["target", "all", "none"]),
    default=None,
    help="Missing content to fetch first: that of the saved platforms, what nerdctl 2.0.0 - 2.0.3 would "
    "fetch, or none.  [default: target]",
)
@click.option("--offline", is_flag=True, help="Do not contact any registry; same as --ensure none.")
@click.option(
    "--index",
    type=click.Choice(["keep", "prune", "flatten"]),
    default="keep",
    show_default=True,
    help="Keep the index, prune it to the saved platforms, or flatten it to a single manifest. Programs that "
    "import all platforms, as kind does, refuse a kept index of which some are missing.",
)
@click.option(
    "--attestations",
    type=click.Choice(["keep", "drop"]),
    default=None,
    help="Save the attestations of the saved platforms, or none.  "
    "[default: keep with all platforms, else drop]",
)
@click.option(
    "--on-missing",
    type=click.Choice(["fail", "warn", "skip"]),
    default="fail",
    show_default=True,
    help="Fail if an image lacks a platform, or content is missing and cannot be fetched; or save the other "
    "platforms and images, with or without a warning.",
)
@click.option(
    "--have",
    metavar="FILE",
    help="Leave out the layers that the target has: FILE is the output of `pyctrd inventory --format json` "
    "there, - for stdin.",
)
@click.option(
    "--referrers",
    is_flag=True,
    help="Also save signatures, SBOMs and other referrers of what is saved; what the registry lists is "
    "fetched.",
)
@click.option(
    "--since",
    metavar="FILE",
    multiple=True,
    help="Leave out the layers of an older archive that was loaded on the target, - for stdin. Repeatable.",
)
@click.option(
    "--from",
    "source",
    metavar="FILE",
    help="Take missing content from an archive, before a registry is asked; not from a compressed one.",
)
@click.option("--reproducible", is_flag=True, help="Omit host-specific metadata.")
@click.option("--dry-run", is_flag=True, help="Print what would be fetched and written, without doing it.")
@settings.registry_options
@click.option(
    "--format",
    "formats",
    type=click.Choice([*_ARCHIVES, "text", "json"]),
    multiple=True,
    callback=_one_of_each,
    help="Format of the archive: oci (an OCI layout with Docker's manifest.json), dir (the same in a folder) "
    "or docker (as `docker save` before Docker 25: one platform, uncompressed layers); or of the result: text"
    " or json. Repeatable.  [default: oci, text]",
)
@settings.progress_option
@settings.quiet_option
@settings.global_options
def command(
    refs: tuple[str, ...],
    output: str | None,
    platforms: tuple[str, ...],
    all_platforms: bool,
    compress: Compression | None,
    ensure: EnsureMode | None,
    offline: bool,
    index: IndexMode,
    attestations: AttestationMode | None,
    on_missing: OnMissing,
    have: str | None,
    referrers: bool,
    since: tuple[str, ...],
    source: str | None,
    reproducible: bool,
    dry_run: bool,
    formats: tuple[ArchiveFormat, str],
    progress: str,
    quiet: bool,
) -> None:
    """Save images to an archive.

    Fetches missing content of the saved platforms first. The archive is an OCI image layout with Docker's
    manifest.json, as written by `ctr images export`.
    """
    archive_format, output_format = formats
    if offline and ensure not in (None, "none"):
        raise click.UsageError(f"cannot specify both --offline and --ensure {ensure}")
    mode: EnsureMode = "none" if offline else ensure or "target"
    options: dict[str, Any] = {
        "platforms": settings.platforms_of(platforms, all_platforms),
        "ensure": mode,
        "index": index,
        "format": archive_format,
        "compress": compress,
        "attestations": attestations,
        "on_missing": on_missing,
        "have": have,
        "referrers": referrers,
        "since": since,
        "source": source,
        "reproducible": reproducible,
    }
    if dry_run:
        with open_client() as client:
            result = client.images.save(refs, output, **options, dry_run=True)
        _show_plan(result, output_format)
        return
    _check_stdout(output in (None, "-"), output_format)
    if compress is None and archive_format != "dir":
        _warn_of_compression(
            output or "",
            [
                *(word for platform in platforms for word in ("--platform", platform)),
                *(["--all-platforms"] if all_platforms else []),
                *(["--ensure", mode] if mode != "target" else []),
                *(["--index", index] if index != "keep" else []),
                *(["--attestations", attestations] if attestations else []),
                *(["--on-missing", on_missing] if on_missing != "fail" else []),
                *(["--format", archive_format] if archive_format != "oci" else []),
                *(["--have", have] if have else []),
                *(["--referrers"] if referrers else []),
                *(word for file in since for word in ("--since", file)),
                *(["--from", source] if source else []),
                *(["--reproducible"] if reproducible else []),
                "--",
                *refs,
            ],
        )
    with open_client() as client, reporting(progress, quiet=quiet) as sink:
        resumable("complete layers are kept")
        result = client.images.save(refs, output or "-", **options, progress=sink)
    if output_format == "json":
        emit_json(_document(result))
    elif not quiet:
        _print_summary(result, "stdout" if output is None or output == "-" else output, archive_format)


def _check_stdout(to_stdout: bool, output_format: str) -> None:
    """Reject output that could not be written in the end, before anything is fetched."""
    if to_stdout and output_format == "json":
        raise click.UsageError("--format json needs -o FILE: stdout is the archive")
    if to_stdout and sys.stdout.isatty():
        raise click.UsageError("cowardly refusing to save to a terminal. Use the -o flag or redirect")


def _warn_of_compression(output: str, words: Sequence[str]) -> None:
    """Warn that an extension stands for a compression that save does not write, and how to do it."""
    endings = _OTHER_COMPRESSIONS.items()
    program = next((name for ending, name in endings if output.lower().endswith(ending)), "")
    if program:
        chosen = click.get_current_context().ensure_object(settings.Settings)
        piped = commandline.pyctrd(chosen, "save", *words)
        click.echo(
            sanitize(
                f"pyctrd: warning: {output} will be an uncompressed tar: save compresses with gzip "
                "or zstd only\n"
                f"hint: {piped} | {program} > {commandline.quote(output)}",
                keep="\n",
            ),
            err=True,
        )


def _document(result: SaveResult) -> transfers.Save:
    return {
        "images": list(result.images),
        "platforms": [platform_names.to_string(item) for item in result.platforms],
        "fetched": [content_of(item) for item in result.fetched],
        "bytes_fetched": result.bytes_fetched,
        "bytes_resumed": result.bytes_resumed,
        "bytes_written": result.bytes_written,
        "compression": result.compression,
        "presumed": _presumed_of(result),
        "referrers": referrers_of(result.referrers),
        "skipped": [_skipped_of(item) for item in result.skipped],
        "import_platforms": [platform_names.to_string(item) for item in result.import_platforms],
    }


def _presumed_of(result: SaveResult) -> list[content.Blob]:
    return [{"digest": item.digest, "size": item.size} for item in result.presumed]


def _skipped_of(skipped: Skipped) -> transfers.SkippedPlatform:
    return {
        "image": skipped.image,
        "platform": platform_names.to_string(skipped.platform) if skipped.platform else "",
        "referrer": skipped.referrer or "",
        "missing": [content_of(item) for item in skipped.missing],
    }


def _print_summary(result: SaveResult, place: str, archive_format: ArchiveFormat) -> None:
    """Print to stderr what was done: stdout may be the archive."""
    names = listed([platform_names.to_string(item) for item in result.platforms])
    what = ", ".join(result.images) + (f" ({names})" if names else "")  # an artifact has no platform
    fetched = amount(result.fetched, result.bytes_fetched) if result.fetched else "nothing"
    resumed = f", {size(result.bytes_resumed)} resumed" if result.bytes_resumed else ""
    sizes = sum(item.size for item in result.presumed)
    presumed = f", {amount(result.presumed, sizes)} left out: the target has them" if result.presumed else ""
    kept = f", with {count(len(result.referrers), 'referrer')}" if result.referrers else ""
    skipped = "".join(
        f", {count(len(found), what)} left out"
        for what, found in (
            ("platform", [item for item in result.skipped if not item.referrer]),
            ("referrer", [item for item in result.skipped if item.referrer]),
        )
        if found
    )
    written = f"{size(result.bytes_written)} written{kept}, {fetched} fetched{resumed}{presumed}{skipped}"
    click.echo(sanitize(f"saved {what} to {place}: {written}"), err=True)
    if result.import_platforms:
        platform = platform_names.to_string(result.import_platforms[0])
        command = _import_command(place, platform, result.compression, archive_format)
        told = f"hint: for containerd 1.x, save with --index prune, or load it with --platform: {command}"
        click.echo(sanitize(told), err=True)


def _import_command(
    place: str, platform: str, compression: Compression, archive_format: ArchiveFormat
) -> str:
    """Return the command that loads an archive; ctr reads only uncompressed ones."""
    file = "-" if place == "stdout" else place
    words = ["ctr", "images", "import", "--platform", platform]
    before: list[str] = []
    if archive_format == "dir":
        before = ["tar", "-C", file, "-c", "."]
    elif compression != "none":
        before = [compression, "-dc", *([file] if file != "-" else [])]
    if before:
        return f"{commandline.join(before)} | {commandline.join([*words, '-'])}"
    return commandline.join([*words, file])


def _show_plan(plan: SaveResult, output_format: str) -> None:
    if output_format == "json":
        emit_json(_plan_document(plan))
    else:
        _print_plan(open_page(), plan)


def _plan_document(plan: SaveResult) -> transfers.SavePlan:
    return {
        "images": list(plan.images),
        "platforms": [platform_names.to_string(item) for item in plan.platforms],
        "fetch": [content_of(item) for item in plan.fetched],
        "fetch_bytes": plan.bytes_fetched,
        "write": list(plan.blobs),
        "archive_bytes": plan.bytes_written,
        "presumed": _presumed_of(plan),
        "referrers": referrers_of(plan.referrers),
        "skipped": [_skipped_of(item) for item in plan.skipped],
    }


def _print_plan(page: Page, plan: SaveResult) -> None:
    for name in plan.images:
        page.line(name, "strong")
    names = listed([platform_names.to_string(item) for item in plan.platforms])
    page.items(
        [
            *([Item("platforms", names)] if names else []),
            Item("would fetch", amount(plan.fetched, plan.bytes_fetched) if plan.fetched else "nothing"),
            *(
                [Item("presumed", amount(plan.presumed, sum(item.size for item in plan.presumed)))]
                if plan.presumed
                else []
            ),
            *(
                [Item("referrers", listed([kind_of(item) for item in plan.referrers]))]
                if plan.referrers
                else []
            ),
            Item("would write", f"{size(plan.bytes_written)}, with {count(len(plan.blobs), 'blob')}"),
        ]
    )
    blobs_table(page, plan.fetched)

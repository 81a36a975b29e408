"""`pyctrd save`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

import click

from pyctrd.amounts import listed
from pyctrd.cli import commandline, settings
from pyctrd.cli.page import Item, Page
from pyctrd.cli.progress import reporting
from pyctrd.cli.render import amount, blobs_table, content_of, emit_json, open_page
from pyctrd.cli.session import open_client, resumable
from pyctrd.cli.text import count, sanitize, size
from pyctrd.oci import platforms as platform_names

if TYPE_CHECKING:
    from pyctrd import EnsureMode, IndexMode, SaveResult


# File extensions of compressed archives, and the program for each.
_COMPRESSED: Final = {
    ".gz": "gzip",
    ".tgz": "gzip",
    ".zst": "zstd",
    ".tzst": "zstd",
    ".xz": "xz",
    ".bz2": "bzip2",
}


@click.command("save")
@settings.image_argument("refs", nargs=-1, required=True, metavar="REF...")
@click.option(
    "-o",
    "--output",
    metavar="FILE",
    type=click.Path(dir_okay=False),
    callback=settings.remember_output,
    help="Write the archive to FILE, atomically.  [default: stdout, unless it is a terminal]",
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
    help="Keep the index, prune it to the saved platforms, or flatten it to a single manifest.",
)
@click.option("--reproducible", is_flag=True, help="Omit host-specific metadata.")
@click.option("--dry-run", is_flag=True, help="Print what would be fetched and written, without doing it.")
@settings.registry_options
@settings.format_option("text", "json")
@settings.progress_option
@settings.quiet_option
@settings.global_options
def command(
    refs: tuple[str, ...],
    output: str | None,
    platforms: tuple[str, ...],
    all_platforms: bool,
    ensure: EnsureMode | None,
    offline: bool,
    index: IndexMode,
    reproducible: bool,
    dry_run: bool,
    output_format: str,
    progress: str,
    quiet: bool,
) -> None:
    """Save images to an archive.

    Fetches missing content of the saved platforms first. The archive is an OCI image layout with Docker's
    manifest.json, as written by `ctr images export`.
    """
    if offline and ensure not in (None, "none"):
        raise click.UsageError(f"cannot specify both --offline and --ensure {ensure}")
    mode: EnsureMode = "none" if offline else ensure or "target"
    wanted = settings.platforms_of(platforms, all_platforms)
    if dry_run:
        with open_client() as client:
            result = client.images.save(
                refs, platforms=wanted, ensure=mode, index=index, reproducible=reproducible, dry_run=True
            )
        _show_plan(result, output_format)
        return
    to_stdout = output in (None, "-")
    _check_stdout(to_stdout, output_format)
    _warn_of_compression(
        output or "",
        [
            *(word for platform in platforms for word in ("--platform", platform)),
            *(["--all-platforms"] if all_platforms else []),
            *(["--ensure", mode] if mode != "target" else []),
            *(["--index", index] if index != "keep" else []),
            *(["--reproducible"] if reproducible else []),
            "--",
            *refs,
        ],
    )
    with open_client() as client, reporting(progress, quiet=quiet) as sink:
        resumable("complete layers are kept")
        result = client.images.save(
            refs,
            output or "-",
            platforms=wanted,
            ensure=mode,
            index=index,
            reproducible=reproducible,
            progress=sink,
        )
    if output_format == "json":
        emit_json(_document(result))
    elif not quiet:
        _print_summary(result, "stdout" if output is None or output == "-" else output)


def _check_stdout(to_stdout: bool, output_format: str) -> None:
    """Reject output that could not be written in the end, before anything is fetched."""
    if to_stdout and output_format == "json":
        raise click.UsageError("--format json needs -o FILE: stdout is the archive")
    if to_stdout and sys.stdout.isatty():
        raise click.UsageError("cowardly refusing to save to a terminal. Use the -o flag or redirect")


def _warn_of_compression(output: str, words: Sequence[str]) -> None:
    """Warn that the extension of a compressed file does not compress the archive, and how to do it."""
    program = next(
        (name for extension, name in _COMPRESSED.items() if output.lower().endswith(extension)), ""
    )
    if program:
        chosen = click.get_current_context().ensure_object(settings.Settings)
        piped = commandline.pyctrd(chosen, "save", *words)
        click.echo(
            sanitize(
                f"pyctrd: warning: {output} will be an uncompressed tar: save does not compress\n"
                f"hint: {piped} | {program} > {commandline.quote(output)}",
                keep="\n",
            ),
            err=True,
        )


def _document(result: SaveResult) -> dict[str, object]:
    return {
        "images": result.images,
        "platforms": [platform_names.to_string(item) for item in result.platforms],
        "fetched": [content_of(item) for item in result.fetched],
        "bytes_fetched": result.bytes_fetched,
        "bytes_resumed": result.bytes_resumed,
        "bytes_written": result.bytes_written,
    }


def _print_summary(result: SaveResult, place: str) -> None:
    """Print to stderr what was done: stdout may be the archive."""
    names = listed([platform_names.to_string(item) for item in result.platforms])
    what = ", ".join(result.images) + (f" ({names})" if names else "")  # an artifact has no platform
    fetched = amount(result.fetched, result.bytes_fetched) if result.fetched else "nothing"
    resumed = f", {size(result.bytes_resumed)} resumed" if result.bytes_resumed else ""
    click.echo(
        sanitize(
            f"saved {what} to {place}: {size(result.bytes_written)} written, {fetched} fetched{resumed}"
        ),
        err=True,
    )


def _show_plan(plan: SaveResult, output_format: str) -> None:
    if output_format == "json":
        emit_json(
            {
                "images": plan.images,
                "platforms": [platform_names.to_string(item) for item in plan.platforms],
                "fetch": [content_of(item) for item in plan.fetched],
                "fetch_bytes": plan.bytes_fetched,
                "write": plan.blobs,
                "archive_bytes": plan.bytes_written,
            }
        )
        return
    _print_plan(open_page(), plan)


def _print_plan(page: Page, plan: SaveResult) -> None:
    for name in plan.images:
        page.line(name, "strong")
    names = listed([platform_names.to_string(item) for item in plan.platforms])
    page.items(
        [
            *([Item("platforms", names)] if names else []),
            Item("would fetch", amount(plan.fetched, plan.bytes_fetched) if plan.fetched else "nothing"),
            Item("would write", f"{size(plan.bytes_written)}, with {count(len(plan.blobs), 'blob')}"),
        ]
    )
    blobs_table(page, plan.fetched)

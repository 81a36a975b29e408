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


# Endings that promise compression, and the program that does it.
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
    help="Archive to write; it appears whole or not at all.  [default: stdout, when that is no terminal]",
)
@settings.platform_option("Platform to save (default: the host's).")
@settings.all_platforms_option
@click.option(
    "--ensure",
    type=click.Choice(["target", "all", "none"]),
    default=None,
    help="What to fetch before: what the saved platforms lack, or what nerdctl 2.0.0 - 2.0.3 would fetch, "
    "or nothing.  [default: target]",
)
@click.option("--offline", is_flag=True, help="Never open a connection; the same as --ensure none.")
@click.option(
    "--index",
    type=click.Choice(["keep", "prune", "flatten"]),
    default="keep",
    show_default=True,
    help="The image's index: as it is, cut to what the archive holds, or left out for its one image.",
)
@click.option("--reproducible", is_flag=True, help="Leave out what depends on this host.")
@click.option("--dry-run", is_flag=True, help="Print what would be fetched and written, and change nothing.")
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
    """Write images to an archive that ctr, docker and podman load.

    Fetches what the images lack for the saved platforms first, and nothing else. The archive is an OCI image
    layout with Docker's manifest.json, as `ctr images export` writes it.
    """
    if offline and ensure not in (None, "none"):
        raise click.UsageError(f"--offline and --ensure {ensure} contradict each other")
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
        resumable("the layers that are complete are kept")
        result = client.images.save(
            refs,
            output,
            platforms=wanted,
            ensure=mode,
            index=index,
            reproducible=reproducible,
            progress=sink,
        )
    if output_format == "json":
        emit_json(_document(result))
    elif not quiet:
        _tell(result, "stdout" if output is None or output == "-" else output)


def _check_stdout(to_stdout: bool, output_format: str) -> None:
    """Refuse before anything is fetched what could not be printed in the end."""
    if to_stdout and output_format == "json":
        raise click.UsageError("--format json needs -o FILE: stdout is the archive")
    if to_stdout and sys.stdout.isatty():
        raise click.UsageError("cowardly refusing to save to a terminal. Use the -o flag or redirect")


def _warn_of_compression(output: str, words: Sequence[str]) -> None:
    """Say that a name with the ending of a compressed file does not make one, and how to have one."""
    program = next((name for ending, name in _COMPRESSED.items() if output.lower().endswith(ending)), "")
    if program:
        chosen = click.get_current_context().ensure_object(settings.Settings)
        piped = commandline.pyctrd(chosen, "save", *words)
        click.echo(
            sanitize(
                f"pyctrd: warning: {output} will be a plain tar: compression is not done yet\n"
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


def _tell(result: SaveResult, place: str) -> None:
    """Say on stderr what was done: stdout may be the archive."""
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

"""`pyctrd load`."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from pyctrd.amounts import listed
from pyctrd.cli import settings
from pyctrd.cli.page import Item, Page
from pyctrd.cli.progress import reporting
from pyctrd.cli.render import content_of, emit_json, kind_of, open_page, referrers_of
from pyctrd.cli.session import open_client, resumable
from pyctrd.cli.text import size
from pyctrd.oci.platforms import format_all

if TYPE_CHECKING:
    from pyctrd import LoadOnMissing, LoadResult
    from pyctrd.cli.documents import transfers


@click.command("load")
@click.option(
    "-i",
    "--input",
    "source",
    metavar="FILE",
    default="-",
    help="Archive, or folder of an OCI layout.  [default: stdin]",
)
@settings.platform_option("Platform to load (default: the host's).", local=False)
@settings.all_platforms_option
@click.option(
    "--on-missing",
    type=click.Choice(["fail", "skip"]),
    default="fail",
    show_default=True,
    help="What to do about platforms and images that are not completely in the archive.",
)
@click.option("--name", metavar="NAME", help="Name for the only image of the archive.")
@click.option(
    "--base-name",
    metavar="BASE",
    help="Load only names that begin with BASE; put BASE before names that are only a tag.",
)
@click.option("--digests", is_flag=True, help="Add a name with the digest to each image.")
@click.option("--cri", is_flag=True, help="Add the names and labels that a kubelet needs (with -n k8s.io).")
@click.option(
    "--unpack/--no-unpack",
    default=None,
    help="Unpack the layers into a snapshotter.  [default: unpack, of all platforms the host's]",
)
@click.option(
    "--discard-layers",
    is_flag=True,
    help="Let the garbage collector remove layers that are unpacked.",
)
@settings.snapshotter_option
@settings.label_option
@click.option("--dry-run", is_flag=True, help="Print what would be loaded, without doing it.")
@settings.format_option("text", "json")
@settings.progress_option
@settings.quiet_option
@settings.global_options
def command(
    source: str,
    platforms: tuple[str, ...],
    all_platforms: bool,
    on_missing: LoadOnMissing,
    name: str | None,
    base_name: str | None,
    digests: bool,
    cri: bool,
    unpack: bool | None,
    discard_layers: bool,
    snapshotter: str | None,
    labels: dict[str, str],
    dry_run: bool,
    output_format: str,
    progress: str,
    quiet: bool,
) -> None:
    """Load the images of an archive.

    Reads OCI layouts and the archives of docker, podman and build tools, also compressed with gzip, zstd, xz
    or bzip2. Stores what `ctr images import` does; an image is recorded only if all of it is there.
    """
    wanted = settings.platforms_of(platforms, all_platforms)
    if source == "-" and sys.stdin is not None and sys.stdin.isatty():
        raise click.UsageError("cowardly refusing to load from a terminal. Use the -i flag or redirect")
    with (
        open_client(snapshotter=snapshotter) as client,
        reporting("none" if dry_run else progress, quiet=quiet) as sink,
    ):
        if not dry_run:
            resumable("what was written is kept for a day")
        result = client.images.load(
            source,
            platforms=wanted,
            on_missing=on_missing,
            name=name,
            base_name=base_name,
            digests=digests,
            cri=cri,
            unpack=unpack,
            discard_layers=discard_layers,
            labels=labels,
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


def _document(result: LoadResult) -> transfers.Load:
    return {
        "images": [
            {
                "name": image.name,
                "target": content_of(image.target),
                "platforms": list(map(format_all, image.platforms)),
                "complete": image.complete,
            }
            for image in result.images
        ],
        "bytes_written": result.bytes_written,
        "bytes_present": result.bytes_present,
        "unpacked": list(map(format_all, result.unpacked)),
        "referrers": referrers_of(result.referrers),
    }


def _print(page: Page, result: LoadResult) -> None:
    for image in result.images:
        page.line(image.name, "strong")
        page.items([Item("digest", image.target.digest)])  # alone, so that it fits into 80 columns
        if image.platforms:
            names = listed(list(map(format_all, image.platforms)))
            page.items([Item("platforms", names if image.complete else f"{names} (others are incomplete)")])
    written, unpacked = ("would write", "would unpack") if result.dry_run else ("written", "unpacked")
    page.items(
        [
            Item(written, size(result.bytes_written) if result.bytes_written else "nothing"),
            *([Item("already present", size(result.bytes_present))] if result.bytes_present else []),
            *(
                [Item("referrers", listed([kind_of(item) for item in result.referrers]))]
                if result.referrers
                else []
            ),
            Item(unpacked, listed(list(map(format_all, result.unpacked))) or "no"),
        ]
    )

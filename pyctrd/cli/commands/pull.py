"""`pyctrd pull`."""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING, Literal

import click

from pyctrd.amounts import listed
from pyctrd.cli import settings
from pyctrd.cli.page import Item, Page
from pyctrd.cli.progress import reporting
from pyctrd.cli.render import amount, content_of, emit_json, open_page, resumed_of
from pyctrd.cli.session import open_client, resumable
from pyctrd.cli.text import moment
from pyctrd.oci.platforms import format_all

if TYPE_CHECKING:
    from pyctrd import PullResult
    from pyctrd.cli.documents import transfers


def _checked(_context: click.Context, _parameter: click.Parameter, ref: str) -> str:
    """Reject a malformed reference as a usage error, before anything is connected."""
    from pyctrd.oci import reference

    reference.parse(ref)
    return ref


@click.command("pull")
@click.argument("ref", callback=_checked)
@settings.platform_option("Platform to pull (default: the host's).")
@settings.all_platforms_option
@click.option(
    "--metadata",
    type=click.Choice(["all", "selected"]),
    default="all",
    show_default=True,
    help="Fetch manifests and configs of all platforms, or of the selected ones only.",
)
@click.option("--metadata-only", is_flag=True, help="Do not fetch layers.")
@click.option(
    "--unpack/--no-unpack",
    default=None,
    help="Unpack the layers into a snapshotter.  [default: unpack, except for all platforms]",
)
@settings.snapshotter_option
@click.option(
    "--max-concurrent-downloads",
    type=click.IntRange(min=1),
    metavar="N",
    help="Maximum number of concurrent downloads.  [default: 3, and more of small blobs]",
)
@settings.label_option
@settings.ttl_option(
    "Let containerd 2.0 or later remove the image after this time, e.g. 12h, 7d or 2w.  [default: never]"
)
@settings.registry_options
@settings.format_option("text", "json")
@settings.progress_option
@settings.quiet_option
@settings.global_options
def command(
    ref: str,
    platforms: tuple[str, ...],
    all_platforms: bool,
    metadata: Literal["all", "selected"],
    metadata_only: bool,
    unpack: bool | None,
    snapshotter: str | None,
    max_concurrent_downloads: int | None,
    labels: dict[str, str],
    ttl: dt.timedelta | None,
    output_format: str,
    progress: str,
    quiet: bool,
) -> None:
    """Pull an image from a registry.

    Stores the same content as `ctr images pull`, then checks that all of it is there. Existing content is
    not fetched again, and interrupted downloads are resumed. A pull without --ttl makes an image stay that
    would have expired.
    """
    wanted = settings.platforms_of(platforms, all_platforms)
    with open_client(snapshotter=snapshotter) as client, reporting(progress, quiet=quiet) as sink:
        resumable()
        result = client.images.pull(
            ref,
            platforms=wanted,
            metadata=metadata,
            metadata_only=metadata_only,
            unpack=unpack,
            concurrency=max_concurrent_downloads,
            labels=labels,
            ttl=ttl,
            progress=sink,
        )
    show_result(result, output_format, quiet=quiet)


def show_result(result: PullResult, output_format: str, *, quiet: bool) -> None:
    """Print what a pull did, in a format."""
    if output_format == "json":
        emit_json(_document(result))
    elif quiet:
        open_page().line(result.image.name)
    else:
        _print(open_page(), result)


def _document(result: PullResult) -> transfers.Pull:
    """Return what a pull did, for JSON."""
    return {
        "image": result.image.name,
        "target": content_of(result.image.target),
        "fetched": [content_of(item) for item in result.fetched],
        "bytes": result.bytes_fetched,
        "resumed": resumed_of(result.resumed),
        "bytes_resumed": result.bytes_resumed,
        "unpacked": list(map(format_all, result.unpacked)),
        "expires_at": moment(result.image.expires_at),
    }


def _print(page: Page, result: PullResult) -> None:
    """Print what a pull did."""
    page.line(result.image.name, "strong")
    fetched = amount(result.fetched, result.bytes_fetched) if result.fetched else "nothing, already complete"
    items = [Item("digest", result.image.target.digest), Item("fetched", fetched)]
    if result.resumed:
        begun = amount(result.resumed, result.bytes_resumed)
        items.append(Item("resumed", f"{begun} from an interrupted download"))
    items.append(Item("unpacked", listed(list(map(format_all, result.unpacked))) or "no"))
    if result.image.expires_at:
        items.append(Item("expires", moment(result.image.expires_at)))
    page.items(items)

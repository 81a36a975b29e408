"""`pyctrd push`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from pyctrd.cli import settings
from pyctrd.cli.progress import reporting
from pyctrd.cli.sent import show
from pyctrd.cli.session import open_client

if TYPE_CHECKING:
    from pyctrd import PushIndex


@click.command("push")
@settings.image_argument("ref")
@click.argument("target", required=False, callback=settings.checked_reference)
@settings.platform_option("Platform to push (default: all in the image).")
@settings.all_platforms_option
@settings.sending_options
@settings.registry_options
@settings.format_option("text", "json")
@settings.progress_option
@settings.quiet_option
@settings.global_options
def command(
    ref: str,
    target: str | None,
    platforms: tuple[str, ...],
    all_platforms: bool,
    index: PushIndex,
    allow_nondistributable: bool,
    max_concurrent_uploads: int,
    chunk_size: int | None,
    dry_run: bool,
    output_format: str,
    progress: str,
    quiet: bool,
) -> None:
    """Push an image to a registry.

    The image is pushed as TARGET, if given, else under its own name. Fails before uploading anything if
    content is missing. Incomplete attestations are skipped, unless --all-platforms is given; skipping or
    selecting platforms rewrites the index, which changes the digest.
    """
    wanted = settings.platforms_of(platforms, all_platforms)
    with open_client() as client, reporting("none" if dry_run else progress, quiet=quiet) as sink:
        result = client.images.push(
            ref,
            target,
            platforms=wanted,
            index=index,
            nondistributable=allow_nondistributable,
            chunk_bytes=chunk_size,
            dry_run=dry_run,
            concurrency=max_concurrent_uploads,
            progress=sink,
        )
    show(result, output_format, quiet)

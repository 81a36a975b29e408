"""`pyctrd push`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from pyctrd.cli import settings
from pyctrd.cli.progress import reporting
from pyctrd.cli.sent import show_plan, show_result
from pyctrd.cli.session import open_client

if TYPE_CHECKING:
    from pyctrd import PushIndex


@click.command("push")
@settings.image_argument("ref")
@click.argument("target", required=False, callback=settings.checked_reference)
@settings.platform_option("Platform to push (default: everything that the image lists).")
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
    """Push an image from containerd to a registry, under its own name or as TARGET.

    Nothing is sent unless all of it is here; attestations that are not are left out, unless --all-platforms
    asks for them. Where something is left out the image gets an index of its own, and so another digest.
    Content that the registry has is not sent again; the tag is set last.
    """
    with open_client() as client:
        if dry_run:
            plan = client.plan_push(
                ref,
                target,
                platforms=platforms,
                all_platforms=all_platforms,
                index=index,
                nondistributable=allow_nondistributable,
            )
            show_plan(plan, output_format, quiet)
            return
        with reporting(progress, quiet=quiet) as sink:
            result = client.push(
                ref,
                target,
                platforms=platforms,
                all_platforms=all_platforms,
                index=index,
                nondistributable=allow_nondistributable,
                max_concurrent_uploads=max_concurrent_uploads,
                chunk_bytes=chunk_size,
                progress=sink,
            )
    show_result(result, output_format, quiet)

"""`pyctrd copy`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from pyctrd.cli import settings
from pyctrd.cli.progress import reporting
from pyctrd.cli.sent import show
from pyctrd.cli.session import open_copying_registry

if TYPE_CHECKING:
    from pyctrd import PushIndex


@click.command("copy")
@click.argument("source", callback=settings.checked_reference, metavar="SRC")
@click.argument("target", callback=settings.checked_reference, metavar="DST")
@settings.platform_option("Platform to copy (default: all in the image).", local=False)
@settings.all_platforms_option
@settings.sending_options
@click.option("--src-plain-http", is_flag=True, help="Use plain HTTP for SRC's registry.")
@click.option("--src-skip-verify", is_flag=True, help="Do not verify the TLS certificate of SRC's registry.")
@click.option(
    "--src-user",
    metavar="USER[:PASS]",
    help="Credentials for SRC's registry.  [default: Docker's config.json]",
)
@settings.registry_options
@settings.format_option("text", "json")
@settings.progress_option
@settings.quiet_option
@settings.global_options
def command(
    source: str,
    target: str,
    platforms: tuple[str, ...],
    all_platforms: bool,
    index: PushIndex,
    allow_nondistributable: bool,
    max_concurrent_uploads: int,
    chunk_size: int | None,
    dry_run: bool,
    src_plain_http: bool,
    src_skip_verify: bool,
    src_user: str | None,
    output_format: str,
    progress: str,
    quiet: bool,
) -> None:
    """Copy an image between registries.

    Does not use containerd. --plain-http, -k and -u apply to DST's registry, and also to SRC's if it is the
    same one; the --src-* options apply to SRC's registry. Within one registry, blobs are mounted instead of
    copied.
    """
    wanted = settings.platforms_of(platforms, all_platforms)
    with (
        open_copying_registry(
            source, target, plain_http=src_plain_http, skip_verify=src_skip_verify, user=src_user
        ) as registry,
        reporting("none" if dry_run else progress, quiet=quiet) as sink,
    ):
        result = registry.copy(
            source,
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

"""`pyctrd rm`."""

from __future__ import annotations

import click

from pyctrd.cli import removed, settings
from pyctrd.cli.render import emit_json, open_page
from pyctrd.cli.session import open_client


@click.command("rm")
@settings.image_argument("refs", metavar="REF...", nargs=-1, required=True)
@click.option("-f", "--force", is_flag=True, help="Remove images that are in use or pinned, too.")
@click.option("--all-names", is_flag=True, help="Remove all names of each image, as `crictl rmi` does.")
@click.option(
    "--sync/--no-sync",
    default=True,
    show_default=True,
    help="Return when the content is gone, or leave that to containerd.",
)
@click.option("--dry-run", is_flag=True, help="Print what would be removed and freed, without removing it.")
@click.option("-q", "--quiet", is_flag=True, help="Print only the names of the removed images.")
@settings.format_option("table", "json")
@settings.global_options
def command(
    refs: tuple[str, ...],
    force: bool,
    all_names: bool,
    sync: bool,
    dry_run: bool,
    quiet: bool,
    output_format: str,
) -> None:
    """Remove images, and what only they keep.

    A name removes this name only: the image stays as long as it has others, and the output says what keeps
    it. An id, or a prefix of it, removes the image with all of its names; so does --all-names.

    If an image is not found, needed by a container or pinned for Kubernetes, nothing is removed; --force
    removes the last two, too. Containers keep their snapshots even then.
    """
    with open_client() as client:
        result = client.images.remove(refs, all_names=all_names, force=force, sync=sync, dry_run=dry_run)
    if output_format == "json":
        emit_json(removed.document(result))
    elif quiet:
        for name in result.images:
            open_page().line(name)
    else:
        removed.show(open_page(), result, sync=sync, dry_run=dry_run)

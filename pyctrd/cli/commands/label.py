"""`pyctrd label`."""

from __future__ import annotations

import click

from pyctrd.cli import settings
from pyctrd.cli.labels import changes_argument
from pyctrd.cli.render import content_of, emit_json, open_page
from pyctrd.cli.session import open_client


@click.command("label")
@settings.image_argument("ref")
@changes_argument
@click.option(
    "--force", is_flag=True, help="Also change labels that the garbage collector or the kubelet reads."
)
@settings.format_option("text", "json")
@settings.quiet_option
@settings.global_options
def command(ref: str, changes: dict[str, str], force: bool, output_format: str, quiet: bool) -> None:
    """Set and remove labels of an image.

    K=V sets a label; K- and K= remove it. Other labels are left as they are. Only the record of this name is
    changed, not those of other names for the same image.
    """
    with open_client() as client:
        image = client.images.label(ref, changes, force=force)
    if output_format == "json":
        document = {"image": image.name, "target": content_of(image.target), "labels": dict(image.labels)}
        emit_json(document)
        return
    page = open_page()
    page.line(image.name, "" if quiet else "strong")
    for key, value in sorted(image.labels.items()) if not quiet else ():
        page.line(f"{key}={value}", indent=2)

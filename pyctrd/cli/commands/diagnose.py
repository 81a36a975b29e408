"""`pyctrd diagnose`."""

from __future__ import annotations

import click

from pyctrd.cli import settings
from pyctrd.cli.page import MarkdownPage
from pyctrd.cli.render import emit_json, open_page
from pyctrd.cli.session import open_client
from pyctrd.oci.errors import IncompleteContent


@click.command("diagnose")
@settings.image_argument("ref")
@settings.platform_option("Platform that the answer is about (default: the host's).")
@settings.all_platforms_option
@settings.format_option("table", "json", "markdown")
@settings.global_options
@click.pass_context
def command(
    context: click.Context, ref: str, platforms: tuple[str, ...], all_platforms: bool, output_format: str
) -> None:
    """Show what of an image is here, what is not, and what each tool would do.

    Reads the local content store only: no registry is asked, nothing is changed. Exits with 4 when a target
    platform is incomplete.
    """
    from pyctrd.cli.diagnosis import document, render

    chosen = context.ensure_object(settings.Settings)
    wanted = settings.platforms_of(platforms, all_platforms)
    with open_client() as client:
        diagnosis = client.images.diagnose(ref, platforms=wanted)
    if output_format == "json":
        emit_json(document(diagnosis, chosen))
    else:
        render(diagnosis, MarkdownPage() if output_format == "markdown" else open_page(), chosen)
    if not diagnosis.complete:
        context.exit(IncompleteContent.exit_code)

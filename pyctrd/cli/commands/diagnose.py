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
@settings.platform_option("Platform to diagnose (default: the host's).")
@settings.all_platforms_option
@settings.format_option("table", "json", "markdown")
@settings.global_options
@click.pass_context
def command(
    context: click.Context, ref: str, platforms: tuple[str, ...], all_platforms: bool, output_format: str
) -> None:
    """Show what content of an image is missing, and why.

    Also predicts the result of `ctr images export`, `nerdctl save` and `pyctrd save`. Reads only the local
    content store. Exits with 4 if a selected platform is incomplete.
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

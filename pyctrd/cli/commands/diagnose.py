"""`pyctrd diagnose`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from pyctrd.cli import commandline, settings
from pyctrd.cli.installed import installed
from pyctrd.cli.page import MarkdownPage, Page, PlainPage
from pyctrd.cli.render import emit_json, emit_json_line, open_page
from pyctrd.cli.session import open_client
from pyctrd.errors import Remedy
from pyctrd.oci.errors import IncompleteContent

if TYPE_CHECKING:
    from pyctrd import Diagnosis


@click.command("diagnose")
@settings.image_argument("ref", required=False)
@settings.platform_option("Platform to diagnose (default: the host's).")
@settings.all_platforms_option
@click.option("-A", "--all-namespaces", is_flag=True, help="Without REF: check all namespaces.")
@click.option(
    "--all-tools", is_flag=True, help="With REF: also predict what tools that are not installed would do."
)
@click.option(
    *("-f", "--filter", "filters"),
    multiple=True,
    metavar="F",
    help="Without REF: diagnose only the images that match a filter of `pyctrd images`; repeatable.",
)
@settings.format_option("table", "wide", "json", "jsonl", "markdown")
@click.option("-q", "--quiet", is_flag=True, help="Print only the names of incomplete images.")
@settings.global_options
@click.pass_context
def command(
    context: click.Context,
    ref: str | None,
    platforms: tuple[str, ...],
    all_platforms: bool,
    all_namespaces: bool,
    all_tools: bool,
    filters: tuple[str, ...],
    output_format: str,
    quiet: bool,
) -> None:
    """Show what content of an image is missing, and why.

    Without REF, check every image of the namespace, and show what fetches what they lack. With REF, also
    predict the results of the installed tools: `ctr images export`, `nerdctl save` and `pyctrd save`. Reads
    only the local content store. Exits with 4 if a selected platform of an image is incomplete.
    """
    chosen = context.ensure_object(settings.Settings)
    wanted = settings.platforms_of(platforms, all_platforms)
    if ref is None:
        if all_tools:
            raise click.UsageError("--all-tools needs REF")
        from pyctrd.cli.diagnoses import Diagnoses

        with open_client() as client:
            many = client.images.diagnose_all(filters, platforms=wanted, all_namespaces=all_namespaces)
        remedy = Remedy(method="ensure", platforms=platforms, all_platforms=all_platforms)
        fix = "" if filters else commandline.for_all(remedy, chosen, all_namespaces=all_namespaces)
        output = Diagnoses(many, chosen, namespaces=all_namespaces)
        output.show(output_format, quiet=quiet, fix=fix)
        complete = all(item.complete for item in many)
    else:
        if all_namespaces or filters:
            option = "--all-namespaces" if all_namespaces else "--filter"
            raise click.UsageError(f"{option} cannot be combined with REF")
        with open_client() as client:
            one = client.images.diagnose(ref, platforms=wanted)
        _show(one, chosen, output_format, quiet=quiet, all_tools=all_tools)
        complete = one.complete
    if not complete:
        context.exit(IncompleteContent.exit_code)


def _show(
    found: Diagnosis, chosen: settings.Settings, output_format: str, *, quiet: bool, all_tools: bool
) -> None:
    from pyctrd.cli.diagnosis import document, render

    if output_format == "json":
        emit_json(document(found, chosen))
    elif output_format == "jsonl":
        emit_json_line(document(found, chosen))
    elif quiet:
        if not found.complete:
            open_page().line(found.image)
    else:
        pages: dict[str, Page] = {"markdown": MarkdownPage(), "wide": PlainPage()}
        tools = None if all_tools else installed()
        render(found, pages.get(output_format) or open_page(), chosen, tools)

"""`pyctrd tag`."""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING

import click

from pyctrd.cli import completions, settings
from pyctrd.cli.page import Item
from pyctrd.cli.render import content_of, emit_json, open_page
from pyctrd.cli.session import open_client
from pyctrd.cli.text import moment

if TYPE_CHECKING:
    from pyctrd import TagResult
    from pyctrd.cli.documents import transfers


def _checked(context: click.Context, parameter: click.Parameter, names: tuple[str, ...]) -> tuple[str, ...]:
    for name in names:
        settings.checked_reference(context, parameter, name)
    return names


@click.command("tag")
@settings.image_argument("ref")
@click.argument(
    "names",
    nargs=-1,
    required=True,
    metavar="NAME...",
    callback=_checked,
    shell_complete=completions.image_names,
)
@click.option("--force", is_flag=True, help="Move names that point at other images.")
@settings.ttl_option(
    "Let containerd 2.0 or later remove the names after this time, e.g. 12h, 7d or 2w.  [default: never]"
)
@settings.format_option("text", "json")
@settings.quiet_option
@settings.global_options
def command(
    ref: str,
    names: tuple[str, ...],
    force: bool,
    ttl: dt.timedelta | None,
    output_format: str,
    quiet: bool,
) -> None:
    """Give an image more names.

    NAME is completed as by `pyctrd pull`: app is docker.io/library/app:latest. Names that point at the image
    already are left as they are. Either all names are set or none.
    """
    with open_client() as client:
        result = client.images.tag(ref, names, force=force, ttl=ttl)
    if output_format == "json":
        emit_json(_document(result))
        return
    page = open_page()
    for record in result.tagged:
        page.line(record.name, "" if quiet else "strong")
    if not quiet:
        items = [Item("digest", result.image.target.digest)]
        if ttl is not None:
            items.append(Item("expires", moment(result.tagged[0].expires_at)))
        page.items(items)


def _document(result: TagResult) -> transfers.Tag:
    return {
        "image": result.image.name,
        "target": content_of(result.image.target),
        "tagged": [record.name for record in result.tagged],
        "expires_at": moment(result.tagged[0].expires_at),
    }

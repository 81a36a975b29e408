"""`pyctrd images`."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Final

import click

from pyctrd.cli import commandline, settings
from pyctrd.cli.page import Cell, Column
from pyctrd.cli.render import content_of, digest_cell, emit_json, open_page
from pyctrd.cli.session import open_client
from pyctrd.cli.text import age, moment, sanitize, size
from pyctrd.oci.platforms import to_string

if TYPE_CHECKING:
    from pyctrd import ImageOverview


# At most this many platforms are named.
_NAMED: Final = 3


@click.command("images")
@settings.format_option("table", "json")
@click.option("-q", "--quiet", is_flag=True, help="Print only the names.")
@settings.global_options
def command(output_format: str, quiet: bool) -> None:
    """List images and their complete platforms.

    `linux/amd64 (1 of 5)` means that one of five platforms is complete in the content store, `none (0 of 5)`
    that no platform can be saved or pushed.
    """
    with open_client() as client:
        if quiet and output_format != "json":
            for image in client.images.list():
                open_page().line(image.name)
            return
        images = client.images.overview()
        elsewhere = client.namespaces.having() if not images and output_format == "table" else ()
        namespace = client.namespace
    if elsewhere:
        _point_to(namespace, elsewhere)
    if output_format == "json":
        emit_json([_document(image) for image in images])
    else:
        _print(images, dt.datetime.now(dt.UTC))


def _print(images: Sequence[ImageOverview], now: dt.datetime) -> None:
    columns = [
        Column("NAME", whole=True),
        Column("DIGEST", brief=True),
        Column("SIZE", right=True),
        Column("PLATFORMS"),
        Column("AGE", right=True),
    ]
    open_page().table(
        columns,
        [
            (
                Cell(item.image.name, "strong"),
                digest_cell(item.image.target.digest),
                Cell(size(item.bytes_here)),
                _platforms(item),
                Cell(_age(item.image.created_at, now)),
            )
            for item in images
        ],
    )


def _platforms(item: ImageOverview) -> Cell:
    """Name the complete platforms, with their count if others are incomplete."""
    names = [to_string(platform) for platform in item.complete]
    total = len(names) + len(item.incomplete)
    if not total:
        return Cell("?", "dim")
    shown = ", ".join(names[:_NAMED]) + (", ..." if len(names) > _NAMED else "")
    if not item.incomplete:
        return Cell(shown, "good")
    return Cell(f"{shown or 'none'} ({len(names)} of {total})", "" if names else "bad")


def _age(created: dt.datetime | None, now: dt.datetime) -> str:
    return age((now - created).total_seconds()) if created else ""


def _point_to(namespace: str, elsewhere: Sequence[str]) -> None:
    """Print to stderr which namespaces have images: an empty list often means the wrong namespace."""
    chosen = click.get_current_context().ensure_object(settings.Settings)
    command = commandline.pyctrd(replace(chosen, namespace=elsewhere[0]), "images")
    click.echo(
        sanitize(f"pyctrd: no images in namespace {namespace}, but in {', '.join(elsewhere)}"), err=True
    )
    click.echo(sanitize(f"hint: {command}"), err=True)


def _document(item: ImageOverview) -> dict[str, object]:
    image = item.image
    return {
        "name": image.name,
        "target": content_of(image.target),
        "bytes_here": item.bytes_here,
        "complete": list(map(to_string, item.complete)),
        "incomplete": list(map(to_string, item.incomplete)),
        "labels": dict(image.labels),
        "created_at": moment(image.created_at),
        "updated_at": moment(image.updated_at),
    }

"""`pyctrd images`."""

from __future__ import annotations

import click

from pyctrd.cli import settings
from pyctrd.cli.page import Cell, Column
from pyctrd.cli.render import content_of, digest_cell, emit_json, open_page
from pyctrd.cli.session import open_client
from pyctrd.cli.text import moment
from pyctrd.model import ImageRecord


@click.command("images")
@settings.format_option("table", "json")
@click.option("-q", "--quiet", is_flag=True, help="Print the names alone.")
@settings.global_options
def command(output_format: str, quiet: bool) -> None:
    """List the images of a namespace."""
    with open_client() as client:
        images = client.images()
    page = open_page()
    if output_format == "json":
        emit_json([_document(image) for image in images])
    elif quiet:
        for image in images:
            page.line(image.name)
    else:
        page.table(
            [
                Column("NAME"),
                Column("DIGEST"),
                Column("CREATED", brief=True),
                Column("MEDIA TYPE", brief=True),
            ],
            [
                (
                    Cell(image.name, "strong"),
                    digest_cell(image.target.digest),
                    Cell(moment(image.created_at)),
                    Cell(image.target.media_type, "dim"),
                )
                for image in images
            ],
        )


def _document(image: ImageRecord) -> dict[str, object]:
    return {
        "name": image.name,
        "target": content_of(image.target),
        "labels": dict(image.labels),
        "created_at": moment(image.created_at),
        "updated_at": moment(image.updated_at),
    }

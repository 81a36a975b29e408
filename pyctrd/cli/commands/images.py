"""`pyctrd images`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import click

from pyctrd.cli import commandline, settings
from pyctrd.cli.page import Cell, Column
from pyctrd.cli.render import content_of, digest_cell, emit_json, open_page
from pyctrd.cli.session import open_client
from pyctrd.cli.text import moment, sanitize
from pyctrd.model import ImageRecord


@click.command("images")
@settings.format_option("table", "json")
@click.option("-q", "--quiet", is_flag=True, help="Print the names alone.")
@settings.global_options
def command(output_format: str, quiet: bool) -> None:
    """List the images of a namespace."""
    with open_client() as client:
        images = client.images()
        elsewhere = client.namespaces_with() if not images and output_format == "table" and not quiet else ()
        namespace = client.namespace
    if elsewhere:
        _point_to(namespace, elsewhere)
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


def _point_to(namespace: str, elsewhere: Sequence[str]) -> None:
    """Say on stderr where images are: an empty list is most often that of the wrong namespace."""
    chosen = click.get_current_context().ensure_object(settings.Settings)
    command = commandline.pyctrd(replace(chosen, namespace=elsewhere[0]), "images")
    click.echo(sanitize(f"pyctrd: namespace {namespace} has no images, {', '.join(elsewhere)} has"), err=True)
    click.echo(sanitize(f"hint: {command}"), err=True)


def _document(image: ImageRecord) -> dict[str, object]:
    return {
        "name": image.name,
        "target": content_of(image.target),
        "labels": dict(image.labels),
        "created_at": moment(image.created_at),
        "updated_at": moment(image.updated_at),
    }

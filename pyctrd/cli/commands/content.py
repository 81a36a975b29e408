"""`pyctrd content`."""

from __future__ import annotations

import click

from pyctrd.cli import settings
from pyctrd.cli.page import Cell, Column
from pyctrd.cli.render import digest_cell, emit_json, open_page
from pyctrd.cli.session import open_client
from pyctrd.cli.text import moment, size
from pyctrd.oci.model import ContentInfo


@click.command("content")
@settings.format_option("table", "json")
@click.option("-q", "--quiet", is_flag=True, help="Print only the digests.")
@settings.global_options
def command(output_format: str, quiet: bool) -> None:
    """List blobs in the content store."""
    with open_client() as client:
        blobs = client.content.list()
    page = open_page()
    if output_format == "json":
        emit_json([_document(blob) for blob in blobs])
    elif quiet:
        for blob in blobs:
            click.echo(blob.digest)
    else:
        page.table(
            [Column("DIGEST"), Column("SIZE", right=True), Column("CREATED"), Column("LABELS", brief=True)],
            [
                (
                    digest_cell(blob.digest),
                    Cell(size(blob.size)),
                    Cell(moment(blob.created_at)),
                    Cell(",".join(f"{key}={value}" for key, value in sorted(blob.labels.items())), "dim"),
                )
                for blob in blobs
            ],
        )


def _document(blob: ContentInfo) -> dict[str, object]:
    return {
        "digest": blob.digest,
        "size": blob.size,
        "labels": dict(blob.labels),
        "created_at": moment(blob.created_at),
        "updated_at": moment(blob.updated_at),
    }

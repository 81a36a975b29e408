"""`pyctrd content`."""

from __future__ import annotations

import click

from pyctrd.cli import settings
from pyctrd.cli.lists import Listing, list_options
from pyctrd.cli.page import Cell, Column
from pyctrd.cli.render import digest_cell
from pyctrd.cli.session import open_client
from pyctrd.cli.text import moment, size
from pyctrd.oci.model import ContentInfo


@click.command("content")
@list_options("Print only the digests.")
@settings.global_options
def command(output_format: str, quiet: bool) -> None:
    """List blobs in the content store."""
    with open_client() as client:
        blobs = client.content.list()
    BLOBS.show(blobs, output_format, quiet=quiet)


BLOBS = Listing[ContentInfo](
    columns=[Column("DIGEST"), Column("SIZE", right=True), Column("CREATED"), Column("LABELS", brief=True)],
    row=lambda blob: (
        digest_cell(blob.digest),
        Cell(size(blob.size)),
        Cell(moment(blob.created_at)),
        Cell(",".join(f"{key}={value}" for key, value in sorted(blob.labels.items())), "dim"),
    ),
    document=lambda blob: {
        "digest": blob.digest,
        "size": blob.size,
        "labels": dict(blob.labels),
        "created_at": moment(blob.created_at),
        "updated_at": moment(blob.updated_at),
    },
    name=lambda blob: str(blob.digest),
)

"""Small pieces of output that several commands share."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

import click
import msgspec

from pyctrd.cli.page import Cell, Column, Page
from pyctrd.cli.text import count, short, size
from pyctrd.mediatypes import ingest_prefix
from pyctrd.model import Descriptor, Digest


def emit_json(value: Any) -> None:
    """Print one JSON document: UTF-8 safe and free of raw control characters, since all is escaped ASCII."""
    click.echo(json.dumps(msgspec.to_builtins(value, enc_hook=_plain), indent=2))


def _plain(value: Any) -> str:
    """Give a digest as the string that it is: msgspec takes no subclass for its base."""
    if isinstance(value, Digest):
        return str(value)
    raise NotImplementedError(f"no JSON for {type(value).__name__}")


def content_of(descriptor: Descriptor) -> dict[str, object]:
    """Give the part of a descriptor that names content, as the JSON schemas have it."""
    return {"mediaType": descriptor.media_type, "digest": descriptor.digest, "size": descriptor.size}


def digest_cell(digest: str) -> Cell:
    """Make the cell of a digest: whole in a pipe, short on a terminal."""
    return Cell(digest, brief=short(digest))


def blobs_table(page: Page, blobs: Sequence[Descriptor]) -> None:
    """List blobs with what they are; prints nothing for none."""
    if blobs:
        page.table(
            [Column("DIGEST"), Column("KIND"), Column("SIZE", right=True)],
            [
                (digest_cell(item.digest), Cell(ingest_prefix(item.media_type)), Cell(size(item.size)))
                for item in blobs
            ],
        )


def amount(blobs: Iterable[object], total: int) -> str:
    """Say how many blobs and bytes: `3 blobs, 4.5 MiB`."""
    return f"{count(len(list(blobs)), 'blob')}, {size(total)}"

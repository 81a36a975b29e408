"""Small pieces of output that several commands share."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click
import msgspec

from pyctrd.cli.page import Cell, Column, Page, PlainPage
from pyctrd.cli.text import count, short, size
from pyctrd.oci.mediatypes import ingest_prefix
from pyctrd.oci.model import Descriptor, Digest

if TYPE_CHECKING:
    from pyctrd.progress import Progress


def open_page() -> Page:
    """Choose the paper for stdout: a terminal's or a pipe's."""
    if not sys.stdout.isatty():
        return PlainPage()
    from pyctrd.cli.terminal import TerminalPage

    return TerminalPage()


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


def resumed_of(resumed: Mapping[Descriptor, int]) -> list[dict[str, object]]:
    """Give the blobs that an interrupted download had begun, with the bytes that were here, for JSON."""
    return [{**content_of(item), "bytes": count} for item, count in resumed.items()]


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


def title(event: Progress) -> str:
    """Name what an event is about: `layer sha256:0123456789ab`, or its detail."""
    if event.descriptor is None:
        return event.detail
    return f"{ingest_prefix(event.descriptor.media_type)} {short(event.descriptor.digest)}"

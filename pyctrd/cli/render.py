"""Output helpers that several commands share."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import click
import msgspec

from pyctrd.cli.page import Cell, Column, Page, PlainPage
from pyctrd.cli.text import count, short, size
from pyctrd.oci.mediatypes import ingest_prefix
from pyctrd.oci.model import Descriptor, Digest

if TYPE_CHECKING:
    from pyctrd.cli.documents import content
    from pyctrd.oci.referrers import Referrer
    from pyctrd.progress import Progress

# So many pieces of JSON are printed at a time.
_PIECES: Final = 10_000


def open_page() -> Page:
    """Return the page for stdout: a terminal's or a pipe's."""
    if not sys.stdout.isatty():
        return PlainPage()
    from pyctrd.cli.terminal import TerminalPage

    return TerminalPage()


def emit_json(value: Any) -> None:
    """Print one JSON document in ASCII, so that it contains no raw control characters.

    It is never in memory as a whole: a `partial` in it is called when its place is reached.
    """
    import json

    pieces = json.JSONEncoder(indent=2, default=_builtins).iterencode(value)
    while text := "".join(itertools.islice(pieces, _PIECES)):
        click.echo(text, nl=False)
    click.echo()


def emit_json_line(value: Any) -> None:
    """Print one JSON document on one line."""
    import json

    click.echo(json.dumps(msgspec.to_builtins(value, enc_hook=plain_json)))


def _builtins(value: Any) -> Any:
    """Return what json can encode."""
    if isinstance(value, partial):
        return value()
    return msgspec.to_builtins(value, enc_hook=plain_json)


def plain_json(value: Any) -> str:
    """Return a digest as a plain string: msgspec does not convert subclasses of str."""
    if isinstance(value, Digest):
        return str(value)
    raise NotImplementedError(f"no JSON for {type(value).__name__}")


def content_of(descriptor: Descriptor) -> content.Content:
    """Return media type, digest and size of a descriptor, as in the JSON schemas."""
    return {"mediaType": descriptor.media_type, "digest": descriptor.digest, "size": descriptor.size}


def referrers_of(referrers: Sequence[Referrer]) -> list[content.Referrer]:
    """Return the referrers in an archive, each with its subject, for JSON."""
    return [
        {**content_of(item.target), "artifactType": item.target.artifact_type, "subject": item.subject}
        for item in referrers
    ]


def kind_of(referrer: Referrer) -> str:
    """Return what a referrer is: its artifact type, or if it has none, its digest."""
    return referrer.target.artifact_type or short(referrer.target.digest)


def resumed_of(resumed: Mapping[Descriptor, int]) -> list[content.ResumedContent]:
    """Return the blobs whose download was resumed, with the bytes that were already here, for JSON."""
    return [{**content_of(item), "bytes": count} for item, count in resumed.items()]


def digest_cell(digest: str) -> Cell:
    """Return the cell of a digest: full in a pipe, short on a terminal."""
    return Cell(digest, brief=short(digest))


def key_cell(key: str) -> Cell:
    """Return the cell of a snapshot's key: a chain id is short on a terminal, any other name stays whole."""
    return digest_cell(key) if key.startswith("sha256:") else Cell(key)


def blobs_table(page: Page, blobs: Sequence[Descriptor]) -> None:
    """Print a table of blobs; nothing if there are none."""
    if blobs:
        page.table(
            [Column("DIGEST"), Column("KIND"), Column("SIZE", right=True)],
            [
                (digest_cell(item.digest), Cell(ingest_prefix(item.media_type)), Cell(size(item.size)))
                for item in blobs
            ],
        )


def amount(blobs: Iterable[object], total: int) -> str:
    """Format the number of blobs and bytes: `3 blobs, 4.5 MiB`."""
    return f"{count(len(list(blobs)), 'blob')}, {size(total)}"


def title(event: Progress) -> str:
    """Return the subject of an event: `layer sha256:0123456789ab`, or its detail."""
    if event.descriptor is None:
        return event.detail
    return f"{ingest_prefix(event.descriptor.media_type)} {short(event.descriptor.digest)}"

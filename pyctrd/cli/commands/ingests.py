"""`pyctrd ingests`: a group."""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING

import click

from pyctrd.amounts import count
from pyctrd.cli import settings
from pyctrd.cli.group import Group
from pyctrd.cli.lists import Listing, list_options
from pyctrd.cli.page import Cell, Column
from pyctrd.cli.render import digest_cell, emit_json
from pyctrd.cli.session import open_client
from pyctrd.cli.text import moment, sanitize, since, size

if TYPE_CHECKING:
    from pyctrd import Ingest
    from pyctrd.cli.documents import services


@click.group("ingests", cls=Group)
def command() -> None:
    """List and abort unfinished writes.

    An ingest is a blob that a client has begun to write: a download that is running or was interrupted.
    """


@command.command("ls")
@list_options("Print only the refs.")
@settings.global_options
def ls(output_format: str, quiet: bool) -> None:
    """List unfinished writes.

    WRITER is the command whose lease keeps the ingest, or the lease. Without one, containerd removes an
    ingest a day after it was opened last.
    """
    with open_client() as client:
        found = client.content.ingests()
    listing(dt.datetime.now(dt.UTC)).show(found, output_format, quiet=quiet)


def listing(now: dt.datetime) -> Listing[Ingest]:
    """Return how unfinished writes are listed."""
    return Listing["Ingest"](
        columns=[
            Column("REF", whole=True),
            Column("WRITTEN", right=True),
            Column("OF", right=True),
            Column("AGE", right=True),
            Column("IDLE", right=True),
            Column("WRITER"),
            Column("EXPECTED", wide=True),
        ],
        row=lambda ingest: (
            Cell(ingest.ref, "strong"),
            Cell(size(ingest.offset)),
            Cell(size(ingest.total) if ingest.total else "?"),
            Cell(since(ingest.started_at, now)),
            Cell(since(ingest.touched_at, now)),
            Cell(ingest.writer),
            digest_cell(ingest.expected),
        ),
        document=document_of,
        name=lambda ingest: ingest.ref,
    )


def document_of(ingest: Ingest) -> services.Ingest:
    """Return an unfinished write for JSON."""
    return {
        "ref": ingest.ref,
        "offset": ingest.offset,
        "total": ingest.total,
        "expected": ingest.expected,
        "started_at": moment(ingest.started_at),
        "updated_at": moment(ingest.updated_at),
        "writer": ingest.writer,
        "leases": [lease.id for lease in ingest.leases],
    }


def _older_than(
    _context: click.Context, _parameter: click.Parameter, text: str | None
) -> dt.timedelta | None:
    return None if text is None else settings.duration(text)


@command.command("abort")
@click.argument("refs", metavar="[REF]...", nargs=-1)
@click.option(
    "--older-than",
    metavar="TIME",
    callback=_older_than,
    help="Abort what was not written to for this long, e.g. 90s, 30m, 12h or 7d.",
)
@click.option("--all", "everything", is_flag=True, help="Abort all unfinished writes.")
@click.option("--force", is_flag=True, help="Also abort what is being written right now; its client fails.")
@settings.format_option("text", "json")
@settings.global_options
def abort(
    refs: tuple[str, ...],
    older_than: dt.timedelta | None,
    everything: bool,
    force: bool,
    output_format: str,
) -> None:
    """Abort unfinished writes, and discard what was written.

    A write that a client has open is left alone: containerd locks it. A client that continues an aborted
    write later begins anew.
    """
    if bool(refs) + (older_than is not None) + everything != 1:
        raise click.UsageError("give refs, --older-than or --all: one of them")
    with open_client() as client:
        done = client.content.abort(refs, older_than=older_than, everything=everything, force=force)
    if output_format == "json":
        emit_json(
            {
                "aborted": [document_of(ingest) for ingest in done.aborted],
                "active": [document_of(ingest) for ingest in done.active],
            }
        )
        return
    for ingest in done.aborted:
        click.echo(sanitize(ingest.ref))
    if done.active:
        click.echo(f"pyctrd: left alone: {count(len(done.active), 'write')} in progress", err=True)

"""`pyctrd leases`: a group."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from pyctrd.amounts import count
from pyctrd.cli import settings
from pyctrd.cli.commands import ingests
from pyctrd.cli.group import Group
from pyctrd.cli.labels import labels_text
from pyctrd.cli.lists import CONTAINERD_FILTERS, Listing, list_options
from pyctrd.cli.page import Cell, Column, Item, Page
from pyctrd.cli.render import content_of, digest_cell, emit_json, key_cell, open_page
from pyctrd.cli.session import open_client
from pyctrd.cli.text import moment, sanitize, since, size, until

if TYPE_CHECKING:
    from pyctrd import Lease, LeaseDetails, LeaseOverview
    from pyctrd.cli.documents import services


@click.group("leases", cls=Group)
def command() -> None:
    """List, create and remove leases.

    A lease protects what it holds from the garbage collector, until it is removed or expires.
    """


@command.command("ls")
@list_options("Print only the ids.", CONTAINERD_FILTERS)
@settings.global_options
def ls(output_format: str, quiet: bool, filters: tuple[str, ...]) -> None:
    """List leases, and how much each of them holds."""
    with open_client() as client:
        found = client.leases.overview(filters)
    _listing(dt.datetime.now(dt.UTC)).show(found, output_format, quiet=quiet)


def _listing(now: dt.datetime) -> Listing[LeaseOverview]:
    return Listing["LeaseOverview"](
        columns=[
            Column("ID", whole=True),
            Column("AGE", right=True),
            Column("EXPIRES", right=True),
            Column("PURPOSE"),
            Column("HOLDS"),
            Column("LABELS", wide=True),
        ],
        row=lambda item: (
            Cell(item.lease.id, "strong"),
            Cell(since(item.lease.created_at, now)),
            _expiry(item.lease, now),
            Cell(item.lease.purpose),
            Cell(_holds(item), "dim"),
            Cell(labels_text(item.lease.labels), "dim"),
        ),
        document=lambda item: {
            **_document(item.lease),
            "content": item.content,
            "snapshots": item.snapshots,
            "ingests": item.ingests,
            "images": item.images,
        },
        name=lambda item: item.lease.id,
    )


def _expiry(lease: Lease, now: dt.datetime) -> Cell:
    if lease.expires_at is None:
        return Cell("never")
    if lease.is_expired(now):
        return Cell("expired", "bad")
    return Cell(until(lease.expires_at, now))


def _holds(item: LeaseOverview) -> str:
    parts = (
        (item.content, "blob"),
        (item.snapshots, "snapshot"),
        (item.ingests, "ingest"),
        (item.images, "image"),
    )
    return ", ".join(count(number, noun) for number, noun in parts if number) or "nothing"


def _document(lease: Lease) -> services.Lease:
    return {
        "id": lease.id,
        "created_at": moment(lease.created_at),
        "expires_at": moment(lease.expires_at),
        "purpose": lease.purpose,
        "labels": dict(lease.labels),
    }


@command.command("create")
@click.option(
    "--id", "lease_id", default="", metavar="ID", help="Id of the lease.  [default: containerd's choice]"
)
@settings.ttl_option("How long the lease lives, e.g. 30m, 12h or 7d.  [default: 24h]")
@click.option("--no-expiry", is_flag=True, help="Create a lease that never expires.")
@click.option(
    "--label",
    "labels",
    multiple=True,
    metavar="K=V",
    callback=settings.parse_labels,
    help="Add a label; repeatable.",
)
@settings.format_option("text", "json")
@settings.global_options
def create(
    lease_id: str, ttl: dt.timedelta | None, no_expiry: bool, labels: dict[str, str], output_format: str
) -> None:
    """Create a lease, and print its id."""
    if ttl is not None and no_expiry:
        raise click.UsageError("cannot specify both --ttl and --no-expiry")
    with open_client() as client:
        if no_expiry:
            lease = client.leases.create(lease_id, ttl=None, labels=labels)
        elif ttl is not None:
            lease = client.leases.create(lease_id, ttl=ttl, labels=labels)
        else:
            lease = client.leases.create(lease_id, labels=labels)
    if output_format == "json":
        emit_json(_document(lease))
    else:
        click.echo(sanitize(lease.id))


@command.command("rm")
@click.argument("ids", metavar="ID...", nargs=-1, required=True)
@click.option("--sync", is_flag=True, help="Wait until the garbage collector has run.")
@click.option("--force", is_flag=True, help="Also remove the lease of a client that is writing right now.")
@settings.format_option("text", "json")
@settings.global_options
def rm(ids: tuple[str, ...], sync: bool, force: bool, output_format: str) -> None:
    """Remove leases.

    The garbage collector then removes what only they protected. Removes nothing if a client is writing right
    now what one of the leases holds.
    """
    with open_client() as client:
        removed = client.leases.remove(ids, sync=sync, force=force)
    if output_format == "json":
        emit_json({"removed": [lease.id for lease in removed]})
        return
    for lease in removed:
        click.echo(sanitize(lease.id))


@command.command("inspect")
@click.argument("lease_id", metavar="ID")
@settings.format_option("text", "json")
@settings.global_options
def inspect(lease_id: str, output_format: str) -> None:
    """Show what a lease holds, with sizes.

    What it holds may protect more: the labels of content refer to other content and to snapshots.
    """
    with open_client() as client:
        found = client.leases.inspect(lease_id)
    if output_format == "json":
        emit_json(_details(found))
    else:
        _print(open_page(), found, dt.datetime.now(dt.UTC))


def _details(found: LeaseDetails) -> services.InspectedLease:
    return {
        **_document(found.lease),
        "content": [{"digest": blob.digest, "size": blob.size} for blob in found.content],
        "snapshots": [
            {"snapshotter": item.snapshotter, "key": item.key, "bytes": item.bytes, "inodes": item.inodes}
            for item in found.snapshots
        ],
        "ingests": [ingests.document_of(ingest) for ingest in found.ingests],
        "images": [{"name": image.name, "target": content_of(image.target)} for image in found.images],
        "missing": [{"type": item.type, "id": item.id} for item in found.missing],
        "bytes": found.bytes,
    }


def _print(page: Page, found: LeaseDetails, now: dt.datetime) -> None:
    lease = found.lease
    page.items(
        [
            Item("lease", lease.id),
            Item("created", moment(lease.created_at)),
            Item("expires", moment(lease.expires_at) or "never", "bad" if lease.is_expired(now) else ""),
            Item("purpose", lease.purpose or "unknown"),
            Item("labels", labels_text(lease.labels) or "none"),
            Item("holds", size(found.bytes)),
        ]
    )
    _section(page, "Images", ["NAME"], [[image.name] for image in found.images])
    if found.content:
        page.heading("Content")
        page.table(
            [Column("DIGEST"), Column("SIZE", right=True)],
            [(digest_cell(blob.digest), Cell(size(blob.size))) for blob in found.content],
        )
    if found.snapshots:
        page.heading("Snapshots")
        page.table(
            [Column("SNAPSHOTTER"), Column("KEY"), Column("SIZE", right=True), Column("INODES", right=True)],
            [
                (
                    Cell(item.snapshotter),
                    key_cell(item.key),
                    Cell(size(item.bytes)),
                    Cell(str(item.inodes)),
                )
                for item in found.snapshots
            ],
        )
    if found.ingests:
        page.heading("Unfinished writes")
        ingests.listing(now).show(found.ingests, "table")
    _section(page, "Missing", ["TYPE", "ID"], [[item.type, item.id] for item in found.missing])


def _section(page: Page, title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    if rows:
        page.heading(title)
        page.table([Column(name) for name in columns], [[Cell(text) for text in row] for row in rows])

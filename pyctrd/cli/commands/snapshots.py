"""`pyctrd snapshots`: a group."""

from __future__ import annotations

import datetime as dt
import posixpath
from typing import TYPE_CHECKING, Final

import click

from pyctrd.cli import settings
from pyctrd.cli.group import Group
from pyctrd.cli.labels import labels_text
from pyctrd.cli.lists import CONTAINERD_FILTERS, Listing, list_options
from pyctrd.cli.page import Cell, Column
from pyctrd.cli.render import emit_json, key_cell
from pyctrd.cli.session import open_client
from pyctrd.cli.text import moment, sanitize, since, size

if TYPE_CHECKING:
    from pyctrd import Mount, SnapshotInfo, SnapshotLevel, SnapshotSize
    from pyctrd.cli.documents import services

# Deeper levels are not indented more: a name has to fit in 80 columns.
_MAX_INDENT: Final = 40


@click.group("snapshots", cls=Group)
def command() -> None:
    """List, measure and remove snapshots.

    KEY is the name of a snapshot: the chain id of an unpacked layer, or what a client chose, such as a
    container's id.
    """


@command.command("ls")
@settings.snapshotter_option
@list_options("Print only the keys.", CONTAINERD_FILTERS)
@settings.global_options
def ls(snapshotter: str | None, output_format: str, quiet: bool, filters: tuple[str, ...]) -> None:
    """List snapshots, with their parents."""
    with open_client(snapshotter=snapshotter) as client:
        found = client.snapshots.list(filters=filters)
    _listing(dt.datetime.now(dt.UTC)).show(found, output_format, quiet=quiet)


def _listing(now: dt.datetime) -> Listing[SnapshotInfo]:
    return Listing["SnapshotInfo"](
        columns=[
            Column("KEY", whole=True),
            Column("PARENT"),
            Column("KIND"),
            Column("AGE", right=True),
            Column("LABELS", wide=True),
        ],
        row=lambda info: (
            key_cell(info.name),
            key_cell(info.parent),
            Cell(info.kind),
            Cell(since(info.created_at, now)),
            Cell(labels_text(info.labels), "dim"),
        ),
        document=_document,
        name=lambda info: info.name,
    )


def _document(info: SnapshotInfo) -> services.Snapshot:
    return {
        "key": info.name,
        "parent": info.parent,
        "kind": info.kind,
        "labels": dict(info.labels),
        "created_at": moment(info.created_at),
        "updated_at": moment(info.updated_at),
    }


@command.command("usage")
@click.argument("keys", metavar="[KEY]...", nargs=-1)
@settings.snapshotter_option
@list_options("Print only the keys.")
@settings.global_options
def usage(keys: tuple[str, ...], snapshotter: str | None, output_format: str, quiet: bool) -> None:
    """Show the disk space of snapshots, each without its parents.

    SIZE is that of the blocks in use, as `du` counts them.
    """
    with open_client(snapshotter=snapshotter) as client:
        found = client.snapshots.usage(keys)
    SIZES.show(found, output_format, quiet=quiet)


SIZES: Listing[SnapshotSize] = Listing(
    columns=[
        Column("KEY", whole=True),
        Column("KIND"),
        Column("SIZE", right=True),
        Column("INODES", right=True),
    ],
    row=lambda item: (
        key_cell(item.snapshot.name),
        Cell(item.snapshot.kind),
        Cell(size(item.bytes)),
        Cell(str(item.inodes)),
    ),
    document=lambda item: {
        "key": item.snapshot.name,
        "kind": item.snapshot.kind,
        "bytes": item.bytes,
        "inodes": item.inodes,
    },
    name=lambda item: item.snapshot.name,
)


@command.command("tree")
@settings.snapshotter_option
@list_options("Print only the keys.")
@settings.global_options
def tree(snapshotter: str | None, output_format: str, quiet: bool) -> None:
    """Show snapshots below their parents."""
    with open_client(snapshotter=snapshotter) as client:
        found = client.snapshots.tree()
    TREE.show(found, output_format, quiet=quiet)


def _branch(level: SnapshotLevel) -> Cell:
    """Return a line of the tree; what is not committed says so."""
    key, kind = key_cell(level.snapshot.name), level.snapshot.kind
    indent = ""
    if level.depth:
        deeper = f"({level.depth}) " if level.depth > _MAX_INDENT else ""
        indent = " " * (min(level.depth, _MAX_INDENT) - 1) + f"\\_ {deeper}"
    suffix = f" ({kind})" if kind != "committed" else ""
    return Cell(f"{indent}{key.text}{suffix}", brief=f"{indent}{key.brief or key.text}{suffix}")


TREE: Listing[SnapshotLevel] = Listing(
    columns=[Column("KEY", whole=True)],
    row=lambda level: (_branch(level),),
    document=lambda level: {**_document(level.snapshot), "depth": level.depth},
    name=lambda level: level.snapshot.name,
)


@command.command("mounts")
@click.argument("key")
@click.option(
    "--target",
    type=click.Path(),
    default="/mnt",
    show_default=True,
    metavar="DIR",
    help="Where the printed commands mount the snapshot.",
)
@settings.snapshotter_option
@settings.format_option("text", "json")
@settings.global_options
def mounts(key: str, target: str, snapshotter: str | None, output_format: str) -> None:
    """Print the commands that mount an active snapshot or a view.

    Nothing is mounted.
    """
    with open_client(snapshotter=snapshotter) as client:
        found = client.snapshots.mounts(key)
    if output_format == "json":
        emit_json(found)
        return
    for mount in found:
        click.echo(sanitize(_command(mount, target)))


def _command(mount: Mount, target: str) -> str:
    """Return the command as ctr prints it (containerd cmd/ctr/commands/snapshots printMounts)."""
    place = posixpath.normpath(posixpath.join(target, mount.target.lstrip("/")))
    return f"mount -t {mount.type} {mount.source} {place} -o {','.join(mount.options)}"


@command.command("rm")
@click.argument("keys", metavar="KEY...", nargs=-1, required=True)
@settings.snapshotter_option
@settings.format_option("text", "json")
@settings.global_options
def rm(keys: tuple[str, ...], snapshotter: str | None, output_format: str) -> None:
    """Remove snapshots, children before their parents.

    containerd refuses to remove one that is the parent of others; the hint names these.
    """
    with open_client(snapshotter=snapshotter) as client:
        removed = client.snapshots.remove(keys)
    if output_format == "json":
        emit_json({"removed": list(removed)})
        return
    for key in removed:
        click.echo(sanitize(key))

"""`pyctrd namespaces`: a group."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from pyctrd.cli import completions, settings
from pyctrd.cli.group import Group
from pyctrd.cli.labels import changes_argument, labels_text
from pyctrd.cli.lists import Listing, list_options
from pyctrd.cli.page import Cell, Column, Item
from pyctrd.cli.render import emit_json, open_page
from pyctrd.cli.session import open_client
from pyctrd.cli.text import sanitize

if TYPE_CHECKING:
    from pyctrd import Namespace, NamespaceOverview
    from pyctrd.cli.documents import services


@click.group("namespaces", cls=Group)
def command() -> None:
    """List, create, label and remove namespaces.

    Each namespace has images, content, snapshots, containers and leases of its own. It comes into being with
    the first of them.
    """


@command.command("ls")
@list_options()
@settings.global_options
def ls(output_format: str, quiet: bool) -> None:
    """List namespaces, with their images and containers."""
    with open_client() as client:
        found = client.namespaces.overview()
    NAMESPACES.show(found, output_format, quiet=quiet)


NAMESPACES: Listing[NamespaceOverview] = Listing(
    columns=[
        Column("NAME", whole=True),
        Column("IMAGES", right=True),
        Column("CONTAINERS", right=True),
        Column("LABELS"),
    ],
    row=lambda item: (
        Cell(item.namespace.name, "strong"),
        Cell(str(item.images)),
        Cell(str(item.containers)),
        Cell(labels_text(item.namespace.labels), "dim"),
    ),
    document=lambda item: {
        **_document(item.namespace),
        "images": item.images,
        "containers": item.containers,
    },
    name=lambda item: item.namespace.name,
)


def _document(namespace: Namespace) -> services.Namespace:
    return {"name": namespace.name, "labels": dict(namespace.labels)}


@command.command("create")
@click.argument("name")
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
def create(name: str, labels: dict[str, str], output_format: str) -> None:
    """Create a namespace."""
    with open_client() as client:
        made = client.namespaces.create(name, labels=labels)
    _show(made, output_format)


@command.command("label")
@click.argument("name", shell_complete=completions.namespaces)
@changes_argument
@settings.format_option("text", "json")
@settings.global_options
def label(name: str, changes: dict[str, str], output_format: str) -> None:
    """Set and remove labels of a namespace.

    K=V sets a label; K- and K= remove it. Other labels are left as they are.
    """
    with open_client() as client:
        namespace = client.namespaces.label(name, changes)
    _show(namespace, output_format)


def _show(namespace: Namespace, output_format: str) -> None:
    if output_format == "json":
        emit_json(_document(namespace))
        return
    page = open_page()
    page.line(namespace.name)
    page.items([Item(key, value) for key, value in sorted(namespace.labels.items())])


@command.command("rm")
@click.argument("names", metavar="NAME...", nargs=-1, required=True, shell_complete=completions.namespaces)
@settings.format_option("text", "json")
@settings.global_options
def rm(names: tuple[str, ...], output_format: str) -> None:
    """Remove empty namespaces.

    containerd refuses to remove one that is not empty; the hint says what is in it.
    """
    with open_client() as client:
        removed = client.namespaces.remove(names)
    if output_format == "json":
        emit_json({"removed": list(removed)})
        return
    for name in removed:
        click.echo(sanitize(name))

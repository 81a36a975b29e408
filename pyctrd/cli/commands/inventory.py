"""`pyctrd inventory`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from pyctrd.cli import settings
from pyctrd.cli.page import Item
from pyctrd.cli.render import amount, emit_json, open_page
from pyctrd.cli.session import open_client
from pyctrd.cli.text import count

if TYPE_CHECKING:
    from pyctrd import Inventory


@click.command("inventory")
@settings.format_option("text", "json")
@settings.global_options
def command(output_format: str) -> None:
    """List what a namespace has, for a smaller archive.

    `pyctrd save --have FILE` on another machine leaves out the layers that FILE lists, which is the output of
    this command with --format json.
    """
    with open_client() as client:
        found = client.images.inventory()
    if output_format == "json":
        emit_json(found.document())
    else:
        _print(found)


def _print(found: Inventory) -> None:
    page = open_page()
    page.line(found.namespace, "strong")
    page.items(
        [
            Item("images", str(len(found.images))),
            Item("content", amount(found.blobs, sum(item.size for item in found.blobs))),
            *(Item(name, count(len(chains), "unpacked layer")) for name, chains in found.snapshots.items()),
        ]
    )

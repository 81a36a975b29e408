"""`pyctrd plugins`."""

from __future__ import annotations

from typing import Final

import click

from pyctrd.cli import settings
from pyctrd.cli.lists import Listing, list_options
from pyctrd.cli.page import Cell, Column, Tone
from pyctrd.cli.session import open_client
from pyctrd.oci.platforms import to_string
from pyctrd.oci.resources import Plugin

_TONES: Final[dict[str, Tone]] = {"ok": "good", "skip": "dim", "error": "bad"}


@click.command("plugins")
@list_options(
    "Print only type and id of each plugin.",
    "Show what matches a filter of containerd, e.g. `type==io.containerd.snapshotter.v1` or `id==overlayfs`; "
    "repeatable (or).",
)
@settings.global_options
def command(output_format: str, quiet: bool, filters: tuple[str, ...]) -> None:
    """List the plugins of containerd.

    STATUS is ok, error, or skip for a plugin that this machine does not support or need; `wide` shows why.
    """
    with open_client() as client:
        found = client.plugins(filters)
    PLUGINS.show(found, output_format, quiet=quiet)


PLUGINS = Listing[Plugin](
    columns=[
        Column("TYPE", whole=True),
        Column("ID"),
        Column("PLATFORMS"),
        Column("STATUS"),
        Column("ERROR", wide=True),
    ],
    row=lambda plugin: (
        Cell(plugin.type),
        Cell(plugin.id, "strong"),
        Cell(",".join(map(to_string, plugin.platforms)) or "-"),
        Cell(plugin.status, _TONES[plugin.status]),
        Cell(plugin.error.replace("\n", " ")),
    ),
    document=lambda plugin: {
        "type": plugin.type,
        "id": plugin.id,
        "platforms": list(map(to_string, plugin.platforms)),
        "capabilities": list(plugin.capabilities),
        "exports": dict(plugin.exports),
        "status": plugin.status,
        "error": plugin.error,
    },
    name=lambda plugin: f"{plugin.type}.{plugin.id}",
)

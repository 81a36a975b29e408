"""`pyctrd version`."""

from __future__ import annotations

import click

from pyctrd import __version__
from pyctrd.cli import settings
from pyctrd.cli.page import Item
from pyctrd.cli.render import emit_json, open_page
from pyctrd.cli.session import open_client


@click.command("version")
@settings.format_option("text", "json")
@settings.global_options
def command(output_format: str) -> None:
    """Show the versions of pyctrd and of containerd."""
    with open_client() as client:
        server = client.version
    if output_format == "json":
        emit_json(
            {"pyctrd": __version__, "containerd": {"version": server.version, "revision": server.revision}}
        )
        return
    notes = [f"revision {server.revision}"] if server.revision else []
    open_page().items([Item("pyctrd", __version__), Item("containerd", server.version, notes=notes)])

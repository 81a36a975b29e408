"""`pyctrd version`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from pyctrd import __version__
from pyctrd.cli import settings
from pyctrd.cli.page import Item
from pyctrd.cli.render import emit_json, open_page
from pyctrd.cli.session import open_client
from pyctrd.errors import PyctrdError

if TYPE_CHECKING:
    from pyctrd import DaemonVersion


@click.command("version")
@settings.format_option("text", "json")
@settings.global_options
def command(output_format: str) -> None:
    """Show the versions of pyctrd and containerd.

    If containerd is unreachable, shows the version of pyctrd and exits with 6.
    """
    try:
        with open_client() as client:
            server = client.version()
    except PyctrdError:
        _show(None, output_format)
        raise
    _show(server, output_format)


def _show(server: DaemonVersion | None, output_format: str) -> None:
    if output_format == "json":
        containerd = {"version": server.version, "revision": server.revision} if server else None
        emit_json({"pyctrd": __version__, "containerd": containerd})
        return
    items = [Item("pyctrd", __version__)]
    if server:
        notes = [f"revision {server.revision}"] if server.revision else []
        items.append(Item("containerd", server.version, notes=notes))
    open_page().items(items)

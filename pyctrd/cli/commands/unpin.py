"""`pyctrd unpin`."""

from __future__ import annotations

import click

from pyctrd.cli import pins, settings
from pyctrd.cli.session import open_client


@click.command("unpin")
@settings.image_argument("refs", nargs=-1, required=True, metavar="REF...")
@settings.format_option("table", "json")
@settings.quiet_option
@settings.global_options
def command(refs: tuple[str, ...], output_format: str, quiet: bool) -> None:
    """Remove the protection of images.

    Unpins every name that points at the same target. For the kubelet, containerd pins the sandbox image of
    its configuration again.
    """
    with open_client() as client:
        result = client.images.unpin(refs)
    pins.show(result, pinned=False, output_format=output_format, quiet=quiet)

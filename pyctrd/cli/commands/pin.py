"""`pyctrd pin`."""

from __future__ import annotations

import click

from pyctrd.cli import pins, settings
from pyctrd.cli.session import open_client


@click.command("pin")
@settings.image_argument("refs", nargs=-1, required=True, metavar="REF...")
@settings.format_option("table", "json")
@settings.quiet_option
@settings.global_options
def command(refs: tuple[str, ...], output_format: str, quiet: bool) -> None:
    """Protect images from removal.

    Pins every name that points at the same target. The kubelet does not remove pinned images, nor does
    `pyctrd prune`, nor `pyctrd rm` without --force; ctr and nerdctl do. Pinned images do not expire. A pull
    still moves a pinned name if the tag has moved in the registry.
    """
    with open_client() as client:
        result = client.images.pin(refs)
    pins.show(result, pinned=True, output_format=output_format, quiet=quiet)

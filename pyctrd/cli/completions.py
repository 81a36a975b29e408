"""What the shell completes beyond words of our own."""

from __future__ import annotations

import click

from pyctrd.cli.session import open_client
from pyctrd.errors import PyctrdError


def image_names(context: click.Context, _parameter: click.Parameter, incomplete: str) -> list[str]:
    """Complete image names; where no containerd answers there are none, and no complaint in the prompt."""
    try:
        with open_client(context=context) as client:
            names = [image.name for image in client.images()]
    except PyctrdError:
        return []
    return [name for name in names if name.startswith(incomplete)]

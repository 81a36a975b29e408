"""Shell completion of images, namespaces, snapshotters and platforms."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final

import click

from pyctrd.errors import PyctrdError

if TYPE_CHECKING:
    from pyctrd.client import Client

_PLATFORMS: Final = (
    "linux/amd64",
    "linux/arm64",
    "linux/arm/v7",
    "linux/arm/v6",
    "linux/386",
    "linux/ppc64le",
    "linux/riscv64",
    "linux/s390x",
)


def image_names(context: click.Context, _parameter: click.Parameter, incomplete: str) -> list[str]:
    """Complete image names."""
    return _from_containerd(
        context, incomplete, lambda client: [image.name for image in client.images.list()]
    )


def namespaces(context: click.Context, _parameter: click.Parameter, incomplete: str) -> list[str]:
    """Complete existing namespaces."""
    return _from_containerd(
        context, incomplete, lambda client: [item.name for item in client.namespaces.list()]
    )


def snapshotters(context: click.Context, _parameter: click.Parameter, incomplete: str) -> list[str]:
    """Complete the snapshotters that containerd has loaded."""
    return _from_containerd(context, incomplete, lambda client: client.snapshots.snapshotters())


def platforms(_context: click.Context, _parameter: click.Parameter, incomplete: str) -> list[str]:
    """Complete the last of a list of platforms."""
    before, comma, last = incomplete.rpartition(",")
    words = _PLATFORMS if comma else (*_PLATFORMS, "all", "local")
    return [f"{before}{comma}{name}" for name in words if name.startswith(last)]


def _from_containerd(
    context: click.Context, incomplete: str, ask: Callable[[Client], Sequence[str]]
) -> list[str]:
    """Ask containerd; offer nothing if it is unreachable, without an error message in the prompt."""
    from pyctrd.cli.session import open_client
    from pyctrd.cli.shells import offered

    try:
        with open_client(context=context) as client:
            return offered(ask(client), incomplete)
    except PyctrdError:
        return []

"""What the shell completes beyond words of our own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from pyctrd.cli.session import open_client
from pyctrd.cli.settings import Settings
from pyctrd.errors import PyctrdError

_F = TypeVar("_F", bound=Callable[..., Any])


def image_argument(name: str, **how: Any) -> Callable[[_F], _F]:
    """Give a command an argument for images of the namespace; the shell completes their names."""
    return click.argument(name, callback=_remember_images, shell_complete=image_names, **how)


def _remember_images(
    context: click.Context, _parameter: click.Parameter, value: str | tuple[str, ...]
) -> str | tuple[str, ...]:
    context.ensure_object(Settings).images = (value,) if isinstance(value, str) else value
    return value


def image_names(context: click.Context, _parameter: click.Parameter, incomplete: str) -> list[str]:
    """Complete image names; where no containerd answers there are none, and no complaint in the prompt."""
    try:
        with open_client(context=context) as client:
            names = [image.name for image in client.images()]
    except PyctrdError:
        return []
    return [name for name in names if name.startswith(incomplete)]

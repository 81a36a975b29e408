"""A hint for an empty namespace: it is often the wrong one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import click

from pyctrd.cli import commandline, settings
from pyctrd.cli.text import sanitize


def elsewhere_hint(namespace: str, elsewhere: Sequence[str], command: str) -> None:
    """Print to stderr which other namespaces have images, and the same command for the first of them."""
    chosen = click.get_current_context().ensure_object(settings.Settings)
    hint = commandline.pyctrd(replace(chosen, namespace=elsewhere[0]), command)
    click.echo(
        sanitize(f"pyctrd: no images in namespace {namespace}, but in {', '.join(elsewhere)}"), err=True
    )
    click.echo(sanitize(f"hint: {hint}"), err=True)

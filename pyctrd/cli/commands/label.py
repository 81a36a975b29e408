"""`pyctrd label`."""

from __future__ import annotations

import click

from pyctrd.cli import settings
from pyctrd.cli.render import content_of, emit_json, open_page
from pyctrd.cli.session import open_client


def _changes(_context: click.Context, _parameter: click.Parameter, words: tuple[str, ...]) -> dict[str, str]:
    changes: dict[str, str] = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not equals and key.endswith("-"):
            key = key[:-1]
        elif not equals:
            raise click.BadParameter(f"{word!r} is neither KEY=VALUE nor KEY-, which removes the label")
        if not key:
            raise click.BadParameter(f"{word!r} has no key")
        if changes.get(key, value) != value:
            raise click.BadParameter(f"{key!r} is given twice, with different values")
        changes[key] = value
    return changes


@click.command("label")
@settings.image_argument("ref")
@click.argument("changes", nargs=-1, required=True, metavar="K=V|K-...", callback=_changes)
@click.option(
    "--force", is_flag=True, help="Also change labels that the garbage collector or the kubelet reads."
)
@settings.format_option("text", "json")
@settings.quiet_option
@settings.global_options
def command(ref: str, changes: dict[str, str], force: bool, output_format: str, quiet: bool) -> None:
    """Set and remove labels of an image.

    K=V sets a label; K- and K= remove it. Other labels are left as they are. Only the record of this name is
    changed, not those of other names for the same image.
    """
    with open_client() as client:
        image = client.images.label(ref, changes, force=force)
    if output_format == "json":
        document = {"image": image.name, "target": content_of(image.target), "labels": dict(image.labels)}
        emit_json(document)
        return
    page = open_page()
    page.line(image.name, "" if quiet else "strong")
    for key, value in sorted(image.labels.items()) if not quiet else ():
        page.line(f"{key}={value}", indent=2)

"""`pyctrd images`."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Final

import click

from pyctrd.cli import completions, settings
from pyctrd.cli.lists import Listing, list_options
from pyctrd.cli.namespaces import elsewhere_hint
from pyctrd.cli.page import Cell, Column, Tone
from pyctrd.cli.render import content_of, open_page
from pyctrd.cli.session import open_client
from pyctrd.cli.text import age, moment, size
from pyctrd.oci.image_names import aliases
from pyctrd.oci.platforms import to_string

if TYPE_CHECKING:
    from pyctrd import ImageOverview, ImageRecord
    from pyctrd.cli.documents import images

# At most this many platforms are named.
_NAMED: Final = 3
_FILTER_HELP: Final = (
    "Show what matches: reference=PATTERN, label=KEY[=VALUE], before=REF, since=REF, until=TIME, dangling=, "
    "complete=, in-use=, pinned= with true or false, or a filter of containerd like name~=alpine; repeatable."
)
_TONES: Final[Mapping[str, Tone]] = {"complete": "good", "incomplete": "bad", "unavailable": "bad"}


@click.command("images")
@click.argument("patterns", nargs=-1, metavar="[PATTERN]...", shell_complete=completions.image_names)
@list_options(filters=_FILTER_HELP)
@click.option("-A", "--all-namespaces", is_flag=True, help="List the images of every namespace.")
@click.option("--all", "all_records", is_flag=True, help="Show the records that CRI made as well.")
@settings.global_options
def command(
    patterns: tuple[str, ...],
    output_format: str,
    quiet: bool,
    filters: tuple[str, ...],
    all_namespaces: bool,
    all_records: bool,
) -> None:
    """List images, their complete platforms, size and use.

    `linux/amd64 (1 of 5)` means that one of five platforms is complete in the content store, `none (0 of 5)`
    that no platform can be saved or pushed. OWN is the part of SIZE that no other image refers to. STATUS is
    that of the host's platform: complete, incomplete, or unavailable if not even the index is here. A PATTERN
    is a name, which may contain * and ? (no slash). containerd's CRI records each image also under its digest
    and its id; the table shows only the name, unless --all is given.
    """
    chosen = (*filters, *(f"reference={pattern}" for pattern in patterns))
    table = output_format in ("table", "wide")
    with open_client() as client:
        if quiet and table and not chosen and not all_namespaces:  # which does not need the content
            _print_names(client.images.list(), all_records=all_records)
            return
        images = client.images.overview(chosen, all_namespaces=all_namespaces)
        nothing = not (images or chosen or all_namespaces) and table
        elsewhere = client.namespaces.having() if nothing else ()
        namespace = client.namespace
    if elsewhere:
        elsewhere_hint(namespace, elsewhere, "images")
    if not all_records and output_format == "table":
        names = {(item.namespace, item.image.name) for item in images}
        images = tuple(item for item in images if (item.namespace, item.alias_of) not in names)
    _listing(dt.datetime.now(dt.UTC), spaces=all_namespaces).show(images, output_format, quiet=quiet)


def _print_names(images: Sequence[ImageRecord], *, all_records: bool) -> None:
    hidden = {} if all_records else aliases(images)
    for image in images:
        if image.name not in hidden:
            open_page().line(image.name)


def _listing(now: dt.datetime, *, spaces: bool) -> Listing[ImageOverview]:
    return Listing(
        columns=[
            Column("NAMESPACE", wide=not spaces),
            Column("NAME", whole=True),
            Column("DIGEST", wide=True),
            Column("PLATFORMS"),
            Column("SIZE", right=True),
            Column("OWN", right=True, brief=True),
            Column("AGE", right=True),
            Column("STATUS"),
            Column("TYPE", wide=True),
            Column("CREATED", wide=True),
            Column("UPDATED", wide=True),
            Column("LABELS", wide=True),
        ],
        row=lambda item: (
            Cell(item.namespace),
            Cell(item.image.name, "strong"),
            Cell(item.image.target.digest),
            _platforms(item),
            Cell(size(item.bytes)),
            Cell(size(item.bytes_own)),
            Cell(_age(item.image.created_at, now)),
            _status(item),
            Cell(item.image.target.media_type),
            Cell(moment(item.image.created_at)),
            Cell(moment(item.image.updated_at)),
            Cell(",".join(f"{key}={value}" for key, value in sorted(item.image.labels.items()))),
        ),
        document=_document,
        name=lambda item: item.image.name,
    )


def _platforms(item: ImageOverview) -> Cell:
    """Name the complete platforms, with their count if others are incomplete."""
    names = [to_string(platform) for platform in item.complete]
    total = len(item.platforms)
    if not total:
        return Cell("-" if item.status == "complete" else "?", "dim")
    shown = ", ".join(names[:_NAMED]) + (", ..." if len(names) > _NAMED else "")
    if not item.incomplete:
        return Cell(shown, "good")
    return Cell(f"{shown or 'none'} ({len(names)} of {total})", "" if names else "bad")


def _status(item: ImageOverview) -> Cell:
    notes = (item.status, "in use" if item.in_use else "", "pinned" if item.pinned else "")
    return Cell(", ".join(filter(None, notes)), _TONES[item.status])


def _age(created: dt.datetime | None, now: dt.datetime) -> str:
    return age((now - created).total_seconds()) if created else ""


def _document(item: ImageOverview) -> images.Image:
    image = item.image
    return {
        "name": image.name,
        "namespace": item.namespace,
        "target": content_of(image.target),
        "platforms": [
            {"platform": to_string(one.platform), "complete": one.complete} for one in item.platforms
        ],
        "bytes": item.bytes,
        "bytes_own": item.bytes_own,
        "bytes_shared": item.bytes_shared,
        "created_at": moment(image.created_at),
        "updated_at": moment(image.updated_at),
        "labels": dict(image.labels),
        "pinned": item.pinned,
        "in_use": item.in_use,
        "containers": list(item.containers),
        "alias_of": item.alias_of,
    }

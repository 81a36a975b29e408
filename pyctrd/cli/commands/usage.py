"""`pyctrd usage`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click
import msgspec

from pyctrd.cli import settings
from pyctrd.cli.namespaces import elsewhere_hint
from pyctrd.cli.page import Cell, Column, Page, PlainPage
from pyctrd.cli.render import digest_cell, emit_json, open_page, plain_json
from pyctrd.cli.session import open_client
from pyctrd.cli.text import count, size
from pyctrd.oci.image_names import has_tag

if TYPE_CHECKING:
    from pyctrd import ImageUsage, SpaceTotal, UsageResult
    from pyctrd.cli.documents import space


@click.command("usage")
@click.option("-A", "--all-namespaces", is_flag=True, help="Show all namespaces together.")
@click.option("-v", "--verbose", is_flag=True, help="Also list the images, largest first.")
@settings.format_option("table", "wide", "json", "jsonl")
@settings.global_options
def command(all_namespaces: bool, verbose: bool, output_format: str) -> None:
    """Show the disk space of images, and what can be freed.

    RECLAIMABLE becomes free when all images are removed that no container uses and that are not pinned, as
    `pyctrd prune --unused` does; this includes what containerd removes anyway when it collects garbage. Blobs
    that another namespace has can be freed only with `--all-namespaces`.

    Of an image, SHARED is what another image has, too, and OWN the rest. All names of one image count once.
    `(+1)` after a name: the image has one more name with a tag. `wide` lists the images with more columns,
    which are not fitted to the terminal; `jsonl` prints an object for each image.
    """
    with open_client() as client:
        found = client.images.usage(all_namespaces=all_namespaces)
        nothing = not (found.images or all_namespaces) and output_format in ("table", "wide")
        elsewhere = client.namespaces.having() if nothing else ()
        namespace = client.namespace
    if elsewhere:
        elsewhere_hint(namespace, elsewhere, "usage")
    if output_format == "json":
        emit_json(_document(found))
    elif output_format == "jsonl":
        for image in found.images:
            click.echo(json.dumps(msgspec.to_builtins(_image(image), enc_hook=plain_json)))
    else:
        page = open_page()
        _print_totals(page, found)
        if output_format == "wide":
            _print_images(PlainPage(), found, all_namespaces, wide=True)
        elif verbose:
            _print_images(page, found, all_namespaces)


def _print_totals(page: Page, found: UsageResult) -> None:
    snapshots = found.snapshots.snapshotters
    rows = [("blobs", found.blobs)]
    rows += [(f"snapshots ({name})", total) for name, total in snapshots.items()]
    if not snapshots:
        rows.append(("snapshots", found.snapshots))
    rows.append(("unfinished writes", found.ingests))
    columns = [
        Column("WHAT"),
        Column("COUNT", right=True),
        Column("SIZE", right=True),
        Column("RECLAIMABLE", right=True),
    ]
    page.table(
        columns,
        [
            *(_total_row(name, total) for name, total in rows),
            (
                Cell("total", "strong"),
                Cell(count(len(found.images), "image")),
                Cell(size(found.bytes), "strong"),
                _reclaimable(found.reclaimable, found.bytes),
            ),
        ],
    )


def _total_row(name: str, total: SpaceTotal) -> Sequence[Cell]:
    return (
        Cell(name),
        Cell(str(total.count)),
        Cell(size(total.bytes)),
        _reclaimable(total.reclaimable, total.bytes),
    )


def _reclaimable(reclaimable: int, total: int) -> Cell:
    """Return the bytes, and if there are any, what part of the whole they are."""
    share = f" ({100 * reclaimable // total} %)" if reclaimable and total else ""
    return Cell(size(reclaimable) + share)


def _print_images(page: Page, found: UsageResult, all_namespaces: bool, *, wide: bool = False) -> None:
    columns = [
        Column("NAME", whole=True),
        Column("NAMESPACE", wide=not all_namespaces),
        Column("DIGEST", wide=True),
        Column("BLOBS", right=True, wide=True),
        Column("SNAPSHOTS", right=True, wide=True),
        Column("OWN", right=True),
        Column("SHARED", right=True),
        Column("RECLAIMABLE", right=True),
        Column("STATUS"),
    ]
    shown = [index for index, column in enumerate(columns) if wide or not column.wide]
    images = sorted(found.images, key=lambda image: (-image.bytes_own, -image.bytes_shared, image.name))
    click.echo()
    page.table(
        [columns[index] for index in shown],
        ([row[index] for index in shown] for row in map(_image_row, images)),
    )


def _image_row(image: ImageUsage) -> Sequence[Cell]:
    more = sum(map(has_tag, image.names)) - 1
    return (
        Cell(f"{image.name} (+{more})" if more > 0 else image.name, "strong"),
        Cell(image.namespace),
        digest_cell(image.target),
        Cell(size(image.bytes_blobs)),
        Cell(size(image.bytes_snapshots)),
        Cell(size(image.bytes_own)),
        Cell(size(image.bytes_shared)),
        Cell(size(image.bytes_reclaimable)),
        Cell(", ".join(_status(image))),
    )


def _status(image: ImageUsage) -> list[str]:
    return [word for word, holds in (("in use", image.in_use), ("pinned", image.pinned)) if holds]


def _document(found: UsageResult) -> space.Usage:
    return {
        "images": list(found.images),
        "blobs": found.blobs,
        "snapshots": found.snapshots,
        "ingests": found.ingests,
        "bytes": found.bytes,
        "reclaimable": found.reclaimable,
    }


def _image(image: ImageUsage) -> dict[str, object]:
    return msgspec.structs.asdict(image)

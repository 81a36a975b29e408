"""`pyctrd history`."""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING, Final

import click

from pyctrd.cli import completions, settings
from pyctrd.cli.lists import Listing, list_options
from pyctrd.cli.page import Cell, Column, Tone
from pyctrd.cli.render import content_of
from pyctrd.cli.session import open_client
from pyctrd.cli.text import age, moment, short, size, without_breaks

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pyctrd import HistoryStep
    from pyctrd.cli.documents import images

# As docker's.
_MOST_SHOWN: Final = 45


@click.command("history")
@settings.image_argument("ref")
@click.option(
    "--platform",
    metavar="P",
    shell_complete=completions.platforms,
    help="Platform to show (default: the host's, or else one that is complete).",
)
@list_options(quiet="Print only the digests of the layers, the latest first.")
@click.option("--no-trunc", is_flag=True, help="Print long commands and digests in full on a terminal.")
@settings.global_options
def command(ref: str, platform: str | None, output_format: str, quiet: bool, no_trunc: bool) -> None:
    """Show the steps that an image was built in, and the layers that they made.

    The latest step comes first. SIZE is that of the layer's blob, UNPACKED the disk space of its snapshot;
    `-` means that the step made no layer, or that the layer is not unpacked.
    """
    with open_client() as client:
        steps = client.images.history(ref, platform)
    if quiet and output_format in ("table", "wide"):
        steps = tuple(step for step in steps if step.layer)
    listing(dt.datetime.now(dt.UTC), whole=no_trunc).show(steps, output_format, quiet=quiet)


def listing(now: dt.datetime, *, whole: bool = False) -> Listing[HistoryStep]:
    """Return how the steps of a build are listed; `whole` shows long commands on terminals, too."""
    return Listing(
        columns=[
            Column("LAYER", wide=not whole),
            Column("CREATED", right=True),
            Column("CREATED BY"),
            Column("SIZE", right=True),
            Column("UNPACKED", right=True),
            Column("COMMENT", brief=True),
            Column("DIFF ID", wide=True),
            Column("SNAPSHOT", wide=True),
        ],
        row=lambda step: _row(step, now, whole=whole),
        document=document,
        name=lambda step: str(step.layer.digest) if step.layer else "-",
    )


def _row(step: HistoryStep, now: dt.datetime, *, whole: bool) -> Sequence[Cell]:
    by = without_breaks(step.created_by)
    brief = "" if whole or len(by) <= _MOST_SHOWN else f"{by[: _MOST_SHOWN - 1]}…"
    tone: Tone = "" if step.present else "bad"
    return (
        Cell(str(step.layer.digest) if step.layer else "-"),
        Cell(age((now - step.created_at).total_seconds()) if step.created_at else "-"),
        Cell(by or "-", brief=brief),
        Cell(size(step.bytes), tone) if step.layer else Cell("-", "dim"),
        Cell(size(step.bytes_unpacked)) if step.snapshot else Cell("-", "dim"),
        Cell(without_breaks(step.comment)),
        Cell(str(step.diff_id or "-")),
        Cell(f"{step.snapshotter} {short(step.snapshot)}" if step.snapshot else "-"),
    )


def document(step: HistoryStep) -> images.HistoryStep:
    """Return a step as JSON."""
    return {
        "created_at": moment(step.created_at),
        "created_by": step.created_by,
        "author": step.author,
        "comment": step.comment,
        "layer": content_of(step.layer) if step.layer else None,
        "present": step.present,
        "bytes": step.bytes,
        "diff_id": step.diff_id,
        "snapshotter": step.snapshotter,
        "snapshot": step.snapshot,
        "bytes_unpacked": step.bytes_unpacked,
    }

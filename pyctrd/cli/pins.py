"""Output of pin and unpin."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pyctrd.cli.page import Cell, Column
from pyctrd.cli.render import content_of, emit_json, open_page

if TYPE_CHECKING:
    from pyctrd import ImageRecord, PinResult


def show(result: PinResult, *, pinned: bool, output_format: str, quiet: bool) -> None:
    """Print the records, which are to be pinned or not."""
    page = open_page()
    if output_format == "json":
        emit_json(
            {
                "images": [
                    {
                        "name": record.name,
                        "target": content_of(record.target),
                        "pinned": record.is_pinned,
                        "changed": record.name in result.changed,
                    }
                    for record in result.images
                ]
            }
        )
    elif quiet:
        for record in result.images:
            page.line(record.name)
    else:
        page.table(
            [Column("NAME", whole=True), Column("RESULT")],
            [
                (Cell(record.name, "strong"), _result(record, record.name in result.changed, pinned))
                for record in result.images
            ],
        )


def _result(record: ImageRecord, changed: bool, pinned: bool) -> Cell:
    """Return what was done; the words are short, since names are long."""
    if record.is_pinned != pinned:
        return Cell("pinned again" if record.is_pinned else "unpinned again", "warn")
    if not changed:
        return Cell("already pinned" if pinned else "was not pinned")
    return Cell("pinned" if pinned else "unpinned", "good")

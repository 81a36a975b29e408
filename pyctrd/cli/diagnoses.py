"""Print the diagnoses of many images: a row for each, and what fixes them all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Final

from pyctrd.cli import commandline
from pyctrd.cli.lists import Listing
from pyctrd.cli.page import Cell, Column, MarkdownPage, Page
from pyctrd.cli.render import emit_json, open_page
from pyctrd.cli.settings import Settings
from pyctrd.cli.text import count, size

if TYPE_CHECKING:
    from pyctrd import DiagnosisSummary
    from pyctrd.cli.documents import images

# The causes in a few words, by code; `pyctrd diagnose REF` explains them.
_WORDS: Final = {
    "content_removed": "removed, or the pull did not finish",
    "discarded_after_unpack": "discarded after unpacking",
    "gc_label_lost": "gc label lost",
    "index_gone": "a nested index is gone",
    "lazy_snapshotter": "mounted by a lazy snapshotter",
    "never_imported": "left out of an import",
    "never_pulled": "never pulled",
    "skipped_snapshot_existed": "skipped by the pull",
    "target_gone": "target is gone",
}


_NO_PLATFORM: Final = "no_such_platform"


class Diagnoses:
    """The output of a diagnosis of many images, in every format."""

    def __init__(self, found: Sequence[DiagnosisSummary], settings: Settings, *, namespaces: bool) -> None:
        self._found = found
        self._settings = settings
        self._namespaces = namespaces
        self._aliases: dict[tuple[str, str], int] = {}
        for item in found:
            if item.alias_of:
                key = item.namespace, item.alias_of
                self._aliases[key] = self._aliases.get(key, 0) + 1

    def show(self, output_format: str, *, quiet: bool, fix: str) -> None:
        """Print all; `quiet` prints only the incomplete names.

        `fix` is the command that fixes all images; "" if it would fix others as well.
        """
        listing = self._listing()
        if output_format == "json":
            emit_json(self._document())
        elif output_format == "jsonl":
            listing.show(self._found, output_format)
        elif quiet:
            listing.show([item for item in self._found if not item.complete], output_format, quiet=True)
        elif output_format == "markdown":
            page = MarkdownPage()
            page.table(listing.columns, map(listing.row, self._rows()))
            self._close(page, fix)
        else:
            listing.show(self._rows(), output_format)
            self._close(open_page(), fix)

    def _document(self) -> dict[str, object]:
        """Return the JSON document."""
        return {"images": [partial(self._object, item) for item in self._found]}

    def _listing(self) -> Listing[DiagnosisSummary]:
        """Return the columns and rows; a table leaves out the other names of an image."""
        columns = [
            *([Column("NAMESPACE")] if self._namespaces else []),
            Column("IMAGE", whole=True),
            Column("STATUS"),
            Column("MISSING", right=True),
            Column("CAUSE"),
            Column("FIX", brief=True),
        ]
        return Listing(columns=columns, row=self._row, document=self._object, name=lambda item: item.image)

    def _rows(self) -> list[DiagnosisSummary]:
        """Return what has a row in a table: CRI's records of one image have one."""
        return [item for item in self._found if not item.alias_of]

    def _close(self, page: Page, fix_all: str) -> None:
        """Print the sums below a table, and the command that fixes all."""
        rows = self._rows()
        bad = [item for item in rows if not item.complete]
        page.line("")
        if not bad:
            nothing = "no images" if fix_all else "no images match"
            page.line(f"{count(len(rows), 'image')}, all complete" if rows else nothing, "good")
            return
        told = f"{len(bad)} of {count(len(rows), 'image')} incomplete"
        # A narrow terminal has no room for the command of each row.
        at_once = [item for item in bad if fix_all and item.remedy and item.remedy.method == "ensure"]
        fixes = [fix_all] if at_once else []
        fixes += [self._command(item) for item in bad if item.remedy and item not in at_once]
        page.line(f"{told}; this fetches what they lack:" if fixes else told, "bad")
        for command in fixes:
            page.command(command)

    def _object(self, item: DiagnosisSummary) -> images.DiagnosisSummary:
        return {
            "image": item.image,
            "namespace": item.namespace,
            "complete": item.complete,
            "missing_bytes": item.missing_bytes,
            "cause": "unreadable" if item.error else item.cause.code if item.cause else None,
            "remedy": self._command(item) or None,
        }

    def _row(self, item: DiagnosisSummary) -> tuple[Cell, ...]:
        more = self._aliases.get((item.namespace, item.image), 0)
        name = f"{item.image} (+{count(more, 'name')})" if more else item.image
        cells = (
            Cell(name, "strong"),
            _status(item),
            _missing(item),
            Cell(_words(item)),
            Cell(self._command(item)),
        )
        return (Cell(item.namespace), *cells) if self._namespaces else cells

    def _command(self, item: DiagnosisSummary) -> str:
        there = replace(self._settings, namespace=item.namespace)
        return commandline.of(item.remedy, there) if item.remedy else ""


def _status(item: DiagnosisSummary) -> Cell:
    if item.complete:
        return Cell("complete", "good")
    if item.error:
        return Cell("unreadable", "bad")
    if item.cause and item.cause.code == _NO_PLATFORM and not item.missing_blobs:
        return Cell("no platform", "warn")
    return Cell("incomplete", "bad")


def _missing(item: DiagnosisSummary) -> Cell:
    if item.complete:
        return Cell("-", "dim")
    if not item.missing_blobs:
        return Cell("?" if item.error else "-", "dim")
    return Cell(f"{'' if item.missing_known else '> '}{size(item.missing_bytes)}", "bad")


def _words(item: DiagnosisSummary) -> str:
    if item.error:
        return item.error.message
    if item.cause is None:
        return ""
    if item.cause.code == _NO_PLATFORM:
        return f"no {item.cause.platform} in it"
    return _WORDS.get(item.cause.code, item.cause.code)

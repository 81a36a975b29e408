"""Commands that list things: `--format table|wide|json|jsonl`, `-q` and `--filter`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, Generic, NamedTuple, TypeVar

import click

from pyctrd.cli import settings
from pyctrd.cli.page import Cell, Column, PlainPage
from pyctrd.cli.render import emit_json, emit_json_line, open_page

_F = TypeVar("_F", bound=Callable[..., Any])
_T = TypeVar("_T")


class Listing(NamedTuple, Generic[_T]):
    """How things of one kind are listed.

    `row` returns a cell for each column, `document` the JSON object, `name` what `-q` prints.
    """

    columns: Sequence[Column]
    row: Callable[[_T], Sequence[Cell]]
    document: Callable[[_T], Mapping[str, object]]
    name: Callable[[_T], str]

    def show(self, things: Iterable[_T], output_format: str, *, quiet: bool = False) -> None:
        """Print things in a format; `quiet` prints a name on each line."""
        if output_format == "json":
            emit_json([partial(self.document, thing) for thing in things])
        elif output_format == "jsonl":
            for thing in things:
                emit_json_line(self.document(thing))
        elif quiet:
            for thing in things:
                open_page().line(self.name(thing))
        else:
            self._print(things, wide=output_format == "wide")

    def _print(self, things: Iterable[_T], *, wide: bool) -> None:
        kept = [index for index, column in enumerate(self.columns) if wide or not column.wide]
        columns = [self.columns[index] for index in kept]
        rows = ([row[index] for index in kept] for row in map(self.row, things))
        page = PlainPage() if wide else open_page()
        page.table(columns, rows)


def list_options(quiet: str = "Print only the names.", filters: str = "") -> Callable[[_F], _F]:
    """Add `--format`, `-q` and, with a help text for it, `--filter` to a command that lists things."""

    def add(command: _F) -> _F:
        command = click.option("-q", "--quiet", is_flag=True, help=quiet)(command)
        if filters:
            command = click.option("-f", "--filter", "filters", multiple=True, metavar="F", help=filters)(
                command
            )
        return settings.format_option("table", "wide", "json", "jsonl")(command)

    return add


CONTAINERD_FILTERS = "Show what matches a filter of containerd, e.g. `labels.key==value`; repeatable (or)."
"""The help of `--filter` where containerd applies the filters."""

"""Output for terminals, with rich, which honours NO_COLOR, TERM=dumb and COLUMNS."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Final, Literal

from rich.cells import cell_len
from rich.console import Console
from rich.measure import Measurement
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from pyctrd.cli.page import Cell, Column, Item, Tone
from pyctrd.cli.text import sanitize

STYLES: Final[Mapping[Tone, str]] = {
    "": "",
    "good": "green",
    "bad": "red",
    "warn": "yellow",
    "dim": "dim",
    "strong": "bold",
}
# Narrower terminals omit the `brief` columns.
_WIDE_COLUMNS: Final = 100


class TerminalPage:
    """A page of the terminal's width. Texts are `Text`, not rich markup: names may contain brackets."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(highlight=False, emoji=False, markup=False)

    def heading(self, text: str) -> None:
        """Begin a section after an empty line."""
        self._console.print()
        self._console.print(Text(sanitize(text), style="bold"))

    def line(self, text: str, tone: Tone = "", *, indent: int = 0, whole: bool = False) -> None:
        """Print a paragraph; a word, such as a name, is never broken, nor is a `whole` text."""
        words = _text(text, tone)
        if not whole and max(map(cell_len, words.plain.split()), default=0) + indent <= self._console.width:
            self._console.print(Padding(words, (0, 0, 0, indent)))
        else:
            self._console.print(Text(" " * indent) + words, soft_wrap=True)

    def table(self, columns: Sequence[Column], rows: Iterable[Sequence[Cell]]) -> None:
        """Print a table without borders; long cells are wrapped, not truncated."""
        kept = list(rows)
        roomy = self._console.width >= _WIDE_COLUMNS
        shown = [index for index, column in enumerate(columns) if roomy or not column.brief]
        if any(column.whole for column in columns):
            while not self._fits(columns, kept, shown):
                brief = [index for index in shown if columns[index].brief]
                if not brief:
                    self._stack(columns, kept, shown)
                    return
                shown.remove(brief[-1])
        self._console.print(_grid(columns, kept, shown))

    def _fits(self, columns: Sequence[Column], rows: Sequence[Sequence[Cell]], shown: Sequence[int]) -> bool:
        grid = _grid(columns, rows, shown)
        return Measurement.get(self._console, self._console.options, grid).maximum < self._console.width

    def _stack(self, columns: Sequence[Column], rows: Sequence[Sequence[Cell]], shown: Sequence[int]) -> None:
        """Print `whole` cells on lines that the terminal may wrap: the first above the rest, others below.

        The titles come first, in the same way.
        """
        first, *others = (index for index in shown if columns[index].whole)
        rest = [index for index in shown if not columns[index].whole]
        titles = [Cell(column.title, "dim") for column in columns]
        widths = [max(cell_len(_shown(row[index])) for row in (titles, *rows)) for index in rest]
        if (excess := 4 + sum(widths) + 2 * len(widths) - self._console.width) > 0:
            # The widest one takes more lines, at its spaces; without that, rich cuts the last one off.
            widest = widths.index(max(widths))
            words = " ".join(_shown(row[rest[widest]]) for row in (titles, *rows)).split()
            widths[widest] = max(widths[widest] - excess, *map(cell_len, words))
        for row in (titles, *rows) if rows else ():
            self._console.print(_text(row[first].text, row[first].tone), soft_wrap=True)
            line = Table.grid(padding=(0, 2, 0, 0))
            for index, width in zip(rest, widths, strict=True):
                line.add_column(
                    justify="right" if columns[index].right else "left", overflow="fold", width=width
                )
            line.add_row(*(_text(_shown(row[index]), row[index].tone) for index in rest))
            self._console.print(Padding(line, (0, 0, 0, 4)))
            for index in others:
                if row[index].text:
                    text = _text(f"    {row[index].text}", row[index].tone)
                    self._console.print(text, soft_wrap=True)

    def items(self, items: Sequence[Item]) -> None:
        """Print terms and texts in two columns."""
        grid = Table.grid(padding=(0, 1, 0, 0))
        grid.add_column(overflow="fold", no_wrap=True)
        grid.add_column(overflow="fold")
        for item in items:
            grid.add_row(_text(item.term), _text(item.text, item.tone))
            for note in item.notes:
                grid.add_row("", _text(note, "dim"))
        self._console.print(grid)

    def command(self, command: str) -> None:
        """Print a command without wrapping, so that it can be copied in one piece."""
        self._console.print(Text(f"   $ {sanitize(command)}", style="cyan"), soft_wrap=True)

    def step(self, number: int, text: str, *, notes: Sequence[str] = (), command: str = "") -> None:
        """Print a numbered paragraph."""
        self._console.print()
        grid = Table.grid(padding=(0, 1, 0, 0))
        grid.add_column(width=2)
        grid.add_column(overflow="fold")
        grid.add_row(_text(f"{number}."), _text(text))
        for note in notes:
            grid.add_row("", _text(note, "dim"))
        self._console.print(grid)
        if command:
            self.command(command)


def _grid(columns: Sequence[Column], rows: Sequence[Sequence[Cell]], shown: Sequence[int]) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim", pad_edge=False)
    for index in shown:
        column = columns[index]
        justify: Literal["left", "right"] = "right" if column.right else "left"
        table.add_column(column.title, justify=justify, overflow="fold")
    for row in rows:
        table.add_row(*(_text(_shown(row[index]), row[index].tone) for index in shown))
    return table


def _shown(cell: Cell) -> str:
    return cell.brief or cell.text


def _text(text: str, tone: Tone = "") -> Text:
    return Text(sanitize(text), style=STYLES[tone], overflow="fold")

"""Human-readable output: headings, lines, tables and commands, in three formats.

A terminal gets rich's tables, fitted to its width; a pipe gets plain columns that are never truncated, so
that scripts find full digests; Markdown is for issues. All of them escape control characters.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal, NamedTuple, Protocol, TypeAlias

import click

from pyctrd.cli.text import sanitize

Tone: TypeAlias = Literal["", "good", "bad", "warn", "dim", "strong"]


class Column(NamedTuple):
    """A column's title; `right` aligns numbers, `brief` columns may be omitted on narrow terminals.

    The text of a `whole` column is never wrapped: it gets a line of its own if a row does not fit. Lists show
    a `wide` column only with `--format wide`.
    """

    title: str
    right: bool = False
    brief: bool = False
    whole: bool = False
    wide: bool = False


class Cell(NamedTuple):
    """A table's cell; `brief` is shown instead on a terminal (a short digest)."""

    text: str
    tone: Tone = ""
    brief: str = ""


class Item(NamedTuple):
    """A term, its text, and notes below."""

    term: str
    text: str
    tone: Tone = ""
    notes: Sequence[str] = ()


class Page(Protocol):
    """An output format."""

    def heading(self, text: str) -> None:
        """Begin a section."""

    def line(self, text: str, tone: Tone = "", *, indent: int = 0, whole: bool = False) -> None:
        """Print a paragraph, wrapped on terminals; if it is `whole`, so that names in it can be copied."""

    def table(self, columns: Sequence[Column], rows: Iterable[Sequence[Cell]]) -> None:
        """Print a table."""

    def items(self, items: Sequence[Item]) -> None:
        """Print a list of terms and texts."""

    def command(self, command: str) -> None:
        """Print a command to copy, never wrapped or truncated."""

    def step(self, number: int, text: str, *, notes: Sequence[str] = (), command: str = "") -> None:
        """Print a numbered paragraph with notes, and a command to copy."""


class PlainPage:
    """Plain text for pipes and files, without escape sequences or wrapping."""

    def heading(self, text: str) -> None:
        """Begin a section after an empty line."""
        click.echo(f"\n{sanitize(text)}")

    def line(self, text: str, tone: Tone = "", *, indent: int = 0, whole: bool = False) -> None:  # noqa: ARG002
        """Print a line."""
        click.echo(" " * indent + sanitize(text))

    def table(self, columns: Sequence[Column], rows: Iterable[Sequence[Cell]]) -> None:
        """Print columns, two spaces apart."""
        lines = [
            [column.title for column in columns],
            *([sanitize(cell.text) for cell in row] for row in rows),
        ]
        widths = [max(map(len, texts)) for texts in zip(*lines, strict=True)]
        for texts in lines:
            cells = (
                text.rjust(width) if column.right else text.ljust(width)
                for text, width, column in zip(texts, widths, columns, strict=True)
            )
            click.echo("  ".join(cells).rstrip())

    def items(self, items: Sequence[Item]) -> None:
        """Print each term with its text on a line, the notes below."""
        for item in items:
            click.echo(f"{sanitize(item.term)}: {sanitize(item.text)}")
            for note in item.notes:
                click.echo(f"  {sanitize(note)}")

    def command(self, command: str) -> None:
        """Print a command on a line of its own."""
        click.echo(f"   $ {sanitize(command)}")

    def step(self, number: int, text: str, *, notes: Sequence[str] = (), command: str = "") -> None:
        """Print a numbered line, then notes and the command."""
        click.echo(f"{number}. {sanitize(text)}")
        for note in notes:
            click.echo(f"   - {sanitize(note)}")
        if command:
            self.command(command)


class MarkdownPage:
    """GitHub Flavored Markdown."""

    def heading(self, text: str) -> None:
        """Begin a section."""
        click.echo(f"\n### {_markdown(text)}\n")

    def line(self, text: str, tone: Tone = "", *, indent: int = 0, whole: bool = False) -> None:  # noqa: ARG002
        """Print a paragraph; an indented one continues a list item."""
        strong = "**" if tone == "strong" else ""
        click.echo(f"{' ' * indent}{strong}{_markdown(text)}{strong}\n")

    def table(self, columns: Sequence[Column], rows: Iterable[Sequence[Cell]]) -> None:
        """Print a table, with digests as code so that they are not rendered otherwise."""
        click.echo("| " + " | ".join(column.title.capitalize() for column in columns) + " |")
        click.echo("|" + "|".join("---:" if column.right else "---" for column in columns) + "|")
        for row in rows:
            click.echo("| " + " | ".join(_markdown_cell(cell) for cell in row) + " |")

    def items(self, items: Sequence[Item]) -> None:
        """Print list items, with notes as nested lists."""
        for item in items:
            click.echo(f"- **{_markdown(item.term)}**: {_markdown(item.text)}")
            for note in item.notes:
                click.echo(f"  - {_markdown(note)}")

    def command(self, command: str) -> None:
        """Print a code block, indented so that it belongs to a list item."""
        click.echo(f"\n   ```sh\n   {sanitize(command)}\n   ```\n")

    def step(self, number: int, text: str, *, notes: Sequence[str] = (), command: str = "") -> None:
        """Print an item of a numbered list, with the command as a code block."""
        click.echo(f"{number}. {_markdown(text)}")
        for note in notes:
            click.echo(f"   - {_markdown(note)}")
        if command:
            self.command(command)


def _markdown(text: str) -> str:
    """Escape the syntax of Markdown and HTML."""
    quoted = "".join(f"\\{char}" if char in "\\`*_[]|~#" else char for char in sanitize(text))
    return quoted.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _markdown_cell(cell: Cell) -> str:
    return f"`{sanitize(cell.text)}`" if cell.brief else _markdown(cell.text)

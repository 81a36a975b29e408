"""The tables of docs/commands.md, for the tests that compare them with pyctrd and with the other tools."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

PAGE: Final = Path(__file__).parent.parent.parent / "docs" / "commands.md"

_CODE = re.compile(r"`([^`]+)`")


class Row(NamedTuple):
    """A row: commands of another tool and flags that each of them has, what pyctrd has, and a test."""

    tool: str
    commands: tuple[str, ...]
    flags: tuple[str, ...]
    ours: str
    shown_by: str

    @property
    def our_commands(self) -> tuple[str, ...]:
        """The command lines of pyctrd in the row."""
        return tuple(_CODE.findall(self.ours))

    @property
    def is_declined(self) -> bool:
        """Whether pyctrd has no such command, for the reason in the row."""
        return self.ours.startswith("no: ")


def rows(page: str) -> Iterator[Row]:
    """Read the rows of the tables; the tool is the first word of the heading above."""
    tool = ""
    for line in page.splitlines():
        if line.startswith("## "):
            tool = line.split()[1]
        elif line.startswith("| `"):
            theirs, ours, shown_by = (cell.strip() for cell in line.strip().strip("|").split("|"))
            words = _CODE.findall(theirs)
            assert " ".join(f"`{word}`" for word in words) == theirs, line
            flags = tuple(word for word in words if word.startswith("-"))
            yield Row(tool, tuple(word for word in words if word not in flags), flags, ours, shown_by)

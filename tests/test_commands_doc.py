"""docs/commands.md: our commands, flags and tests exist, and what is missing has a reason."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import pairwise
from typing import Final

import click
import pytest

from pyctrd.cli.app import app
from tests.support.commands_page import PAGE, Row, rows
from tests.test_distribution_doc import ROOT, defined_in

ROWS: Final = tuple(rows(PAGE.read_text(encoding="utf-8")))
_TEST = re.compile(r"`((?:tests|integration)/[a-z0-9_/]+\.py)::(test_[a-z0-9_]+)`")


def faults(row: Row) -> Iterator[str]:
    """Yield what is wrong with a row."""
    ours = row.commands if row.tool == "pyctrd" else row.our_commands
    for line in ours:
        yield from _faults_of_command(line)
    if not ours and not row.is_declined and not row.ours.startswith(("always", "as ", "groups")):
        yield f"neither a command nor a reason: {row.ours}"
    if row.shown_by:
        match = _TEST.fullmatch(row.shown_by)
        if match is None or match[2] not in defined_in(ROOT / match[1]):
            yield f"there is no test {row.shown_by}"
    elif ours and not row.is_declined:
        yield "no test shows it"


def _faults_of_command(line: str) -> Iterator[str]:
    command: click.Command = app
    # A word after an option is its value.
    for before, word in pairwise(["", *line.split()]):
        if before.startswith("-") and not word.startswith("-"):
            continue
        if word.startswith("-"):
            if word not in _flags(command):
                yield f"{line}: no option {word}"
        else:
            found = (
                command.get_command(click.Context(command), word)
                if isinstance(command, click.Group)
                else None
            )
            if found is None:
                yield f"{line}: no command {word}"
                return
            command = found


def _flags(command: click.Command) -> set[str]:
    return {flag for option in command.params for flag in (*option.opts, *option.secondary_opts)}


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row.tool} {row.commands[0]} {' '.join(row.flags)}")
def test_a_row_is_right(row: Row) -> None:
    assert list(faults(row)) == []


def test_every_tool_has_rows() -> None:
    assert {row.tool for row in ROWS} == {"ctr", "nerdctl", "crictl", "docker", "pyctrd"}


def test_every_command_of_pyctrd_is_there() -> None:
    named = {line.split()[0] for row in ROWS for line in (*row.commands, *row.our_commands)}
    assert set(app.list_commands(click.Context(app))) - named == set()


GOOD: Final = (
    "| `rmi` `--force` | `rm --force`, as here | `tests/test_commands_doc.py::test_a_wrong_row_is_detected` |"
)


@pytest.mark.parametrize(
    ("row", "fault"),
    [
        (GOOD, ""),
        (GOOD.replace("rm --force", "rm --forced"), "no option --forced"),
        (GOOD.replace("rm --force", "remove --force"), "no command remove"),
        (GOOD.replace("rm --force", "content remove"), "no command remove"),
        (GOOD.replace("detected", "found"), "there is no test"),
        ("| `rmi` | `rm` | |", "no test shows it"),
        ("| `rmi` | not yet | |", "neither a command nor a reason"),
        ("| `rmi` | no: it is not about images | |", ""),
    ],
)
def test_a_wrong_row_is_detected(row: str, fault: str) -> None:
    (read,) = rows(f"## docker 29\n| docker | pyctrd | shown by |\n|---|---|---|\n{row}\n")
    found = "; ".join(faults(read))
    assert bool(found) == bool(fault)
    assert fault in found

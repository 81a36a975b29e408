"""docs/commands.md lists every command and flag about images in the help of the real tools."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final, NamedTuple

import pytest

from integration.conftest import peer_required
from integration.rig import peers
from tests.support.commands_page import PAGE, Row, rows

ROWS: Final = tuple(rows(PAGE.read_text(encoding="utf-8")))
_PROGRAMS: Final[Mapping[str, Callable[[], Path]]] = {
    "ctr": lambda: peers.containerd("2.4").ctr,
    "nerdctl": lambda: peers.nerdctl("2.3.5"),
    "crictl": peers.crictl,
    "docker": lambda: peers.tool("docker"),
}


class Help(NamedTuple):
    """The commands and flags in the help of a command."""

    commands: tuple[str, ...]
    flags: frozenset[str]


def help_of(program: Path, *words: str) -> Help:
    done = subprocess.run([program, *words, "--help"], capture_output=True, text=True, check=True)
    # What a title in column 0 is followed by; ctr's options for all commands do not count.
    parts = re.split(r"^([A-Z]\w*(?: \w+)*):(?=\s)", f"\n{done.stdout}", flags=re.MULTILINE)
    titled = [(title.lower(), text) for title, text in zip(parts[1::2], parts[2::2], strict=True)]
    commands = "".join(text for title, text in titled if title.endswith("commands"))
    flags = "".join(text for title, text in titled if title in ("options", "flags"))
    return Help(
        tuple(re.findall(r"^ {2,3}([a-z][\w-]*)(?:,| {2})", commands, re.MULTILINE)),
        frozenset(re.findall(r"^ +(?:-\w, )?(--[\w-]+)", flags, re.MULTILINE)) - {"--help"},
    )


def missing(tool: str, program: Path, groups: tuple[str, ...], *, all_commands: bool) -> list[str]:
    """Return what is in the tool's help and not in its table, or the other way round."""
    table: dict[str, set[str]] = {}
    declined: set[str] = set()
    for row in (row for row in ROWS if row.tool == tool):
        for command in row.commands:
            table.setdefault(command, set()).update(row.flags)
            declined |= {command} if _has_reason(row) else set()
    top = help_of(program).commands
    names = [*(name for name in top if all_commands and name not in groups)]
    with ThreadPoolExecutor(2) as threads:
        for group, found in zip(groups, threads.map(lambda one: help_of(program, one), groups), strict=True):
            names += [f"{group} {name}" for name in found.commands]
        told: Mapping[str, Help] = dict(
            zip(names, threads.map(lambda name: help_of(program, *name.split()), names), strict=True)
        )
    faults = [f"no row for {tool} {name}" for name in names if name not in table]
    faults += [f"{tool} has no command {name}" for name in table if name not in told and name not in groups]
    for name, found in told.items():
        flags = table.get(name, set())
        faults += [f"{tool} {name} has no {flag}" for flag in sorted(flags - found.flags)]
        if name not in declined:
            faults += [f"no row for {tool} {name} {flag}" for flag in sorted(found.flags - flags)]
    return faults


def _has_reason(row: Row) -> bool:
    return not row.flags and (row.is_declined or row.ours.startswith("as "))


@pytest.mark.parametrize(
    ("tool", "groups"),
    [
        ("ctr", ("images", "content", "leases", "snapshots", "namespaces", "plugins")),
        ("nerdctl", ("image", "builder", "manifest", "namespace", "system")),
        ("crictl", ()),
        ("docker", ("image", "builder", "manifest", "system")),
    ],
)
def test_every_command_and_flag_has_a_row(tool: str, groups: tuple[str, ...]) -> None:
    with peer_required():
        program = _PROGRAMS[tool]()
    # docker's other commands are those of nerdctl, or about containers.
    assert missing(tool, program, groups, all_commands=tool != "docker") == []

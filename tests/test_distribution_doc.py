"""The tests named in docs/distribution.md exist, and only flows that are not implemented name none."""

from __future__ import annotations

import ast
import functools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

import pytest

ROOT: Final = Path(__file__).parent.parent
PAGE: Final = ROOT / "docs" / "distribution.md"
NONE: Final = "–"

_TEST = re.compile(r"`((?:tests|integration)/[a-z0-9_/]+\.py)::(test_[a-z0-9_]+)`")


class Row(NamedTuple):
    """A row of a table of flows."""

    section: str
    flow: str
    done: str
    tests: str


def rows(page: str) -> Iterator[Row]:
    """Read the tables whose last column is called `tests`."""
    section, wanted = "", False
    for line in page.splitlines():
        if line.startswith("## "):
            section = line.removeprefix("## ")
        if not line.startswith("| "):
            wanted = wanted and line.startswith("|--")
            continue
        cells = [cell.strip() for cell in line.strip("|").split(" | ")]
        if cells[-1] == "tests":
            wanted = True
        elif wanted:
            assert len(cells) == 4, line
            yield Row(section, cells[0], cells[2], cells[3])


@functools.cache
def defined_in(path: Path) -> frozenset[str]:
    """List the names of the tests that a file defines."""
    if not path.is_file():
        return frozenset()
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return frozenset(
        node.name
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
    )


def faults(page: str) -> list[str]:
    """Return a line for each row whose tests cannot be found, or that names none."""
    found = []
    for row in rows(page):
        if row.tests == NONE:
            continue
        names = [_TEST.fullmatch(text) for text in row.tests.split(", ")]
        found += [f"{row.flow}: {row.tests}: not a list of tests" for match in names if match is None]
        found += [
            f"{row.flow}: there is no {match[1]}::{match[2]}"
            for match in names
            if match is not None and match[2] not in defined_in(ROOT / match[1])
        ]
    return found


def test_every_test_named_on_the_page_exists() -> None:
    assert faults(PAGE.read_text(encoding="utf-8")) == []


def test_the_page_has_all_sections_and_their_flows() -> None:
    sections: dict[str, int] = {}
    for row in rows(PAGE.read_text(encoding="utf-8")):
        sections[row.section] = sections.get(row.section, 0) + 1
    assert list(sections) == ["Pull", "Push", "Referrers", "Content discovery", "Content management"]
    assert all(count >= 4 for count in sections.values()), sections


def test_flows_without_a_test_are_not_implemented() -> None:
    for row in rows(PAGE.read_text(encoding="utf-8")):
        if row.tests == NONE:
            assert row.done.startswith(("not done", "neither shown")), row


HEAD: Final = "| flow | the spec | pyctrd | tests |\n|---|---|---|---|\n"
GOOD: Final = "`tests/registry/test_tags.py::test_one_page`"


@pytest.mark.parametrize(
    ("cell", "fault"),
    [
        (GOOD, ""),
        (f"{GOOD}, {GOOD}", ""),
        (NONE, ""),
        (GOOD.replace("one_page", "one_pagee"), "there is no tests/registry/test_tags.py::test_one_pagee"),
        (GOOD.replace("one_page", "one"), "there is no tests/registry/test_tags.py::test_one"),
        (GOOD.replace("test_tags", "test_tag"), "there is no tests/registry/test_tag.py::test_one_page"),
        (f"{GOOD}, {GOOD.replace('one_page', 'two')}", "there is no tests/registry/test_tags.py::test_two"),
        (f"{GOOD}, `::test_all_pages`", "not a list of tests"),
        ("`tests/registry/test_tags.py`", "not a list of tests"),
        ("", "not a list of tests"),
        (f"see {GOOD}", "not a list of tests"),
        ("`tests/registry/test_tags.py::query_of`", "not a list of tests"),
    ],
)
def test_a_misspelt_test_is_detected(cell: str, fault: str) -> None:
    found = faults(f"{HEAD}| a | MUST | so | {cell} |\n")
    assert len(found) == bool(fault)
    assert not fault or fault in found[0]

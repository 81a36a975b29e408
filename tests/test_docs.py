"""Every fenced block of README.md, CONTRIBUTING.md and docs/ is run by a test, or says why it is not."""

from __future__ import annotations

import ast
import functools
import re
from collections.abc import Iterable
from typing import Final

import pytest

from tests.support.pages import DOCS, FOLLOW, ROOT, RUN_BY, Block, blocks, read, run_by

# Written from the code by scripts; scripts/check compares them with it.
GENERATED: Final = frozenset({"api.md", "cli.md"})
PAGES: Final = sorted(
    {"../README.md", "../CONTRIBUTING.md", *(str(path.relative_to(DOCS)) for path in DOCS.rglob("*.md"))}
    - GENERATED
)
_PATH = re.compile(r"\b(?:tests|integration)/[\w/]+\.py\b")
_TEST = re.compile(r"\btest_\w+(?!\.py)\b")


@functools.cache
def defined_in(path: str) -> frozenset[str]:
    """List the tests that a file defines."""
    tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
    return frozenset(
        node.name
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
    )


@functools.cache
def all_tests() -> frozenset[str]:
    files = [path for folder in ("tests", "integration") for path in (ROOT / folder).rglob("test_*.py")]
    return frozenset().union(*(defined_in(str(path.relative_to(ROOT))) for path in files))


def faults(block: Block, above: Block | None) -> list[str]:
    """Say what is wrong with a block that follows another one."""
    where = f"docs/{block.page}:{block.line}"
    if block.reason:
        gone = [path for path in _PATH.findall(block.reason) if not (ROOT / path).is_file()]
        gone += [name for name in _TEST.findall(_PATH.sub("", block.reason)) if name not in all_tests()]
        return [f"{where}: there is no {name}" for name in gone]
    if not (test := run_by(block)):
        return [f"{where}: not in RUN_BY of tests/support/pages.py, and not marked `<!-- not run: why -->`"]
    # Text is compared only if it is the output of the program above it.
    is_output = block.language == "text" and above is not None and above.language == "python"
    if test == FOLLOW and block.language not in ("console", "python") and not is_output:
        return [f"{where}: {FOLLOW} does not run {block.language!r}"]
    return []


def all_faults(found: Iterable[Block]) -> list[str]:
    in_order = list(found)
    return [
        fault
        for block, above in zip(in_order, [None, *in_order], strict=False)
        for fault in faults(block, above)
    ]


@pytest.mark.parametrize("page", PAGES)
def test_every_block_is_run_or_says_why_not(page: str) -> None:
    assert all_faults(blocks(page)) == []


@pytest.mark.parametrize("page", PAGES)
def test_every_fence_is_read(page: str) -> None:
    text = (DOCS / page).read_text(encoding="utf-8")
    directives = len(re.findall(r"^```\{", text, re.MULTILINE))
    assert text.count("```") == 2 * (directives + len(list(blocks(page))))


def test_the_tests_exist_and_name_the_page() -> None:
    for page, tests in RUN_BY.items():
        sections = {block.section for block in blocks(page)}
        for section, test in ({"": tests} if isinstance(tests, str) else tests).items():
            path, _, name = test.partition("::")
            assert name in defined_in(path), test
            assert isinstance(tests, str) or section in sections, f"docs/{page} has no blocks in {section!r}"
            named = page.rpartition("/")[2] in (ROOT / path).read_text(encoding="utf-8")
            assert test == FOLLOW or named, f"{path} does not name {page}"


BLOCK: Final = "```console\n$ true\n```\n"


@pytest.mark.parametrize(
    ("page", "text", "fault"),
    [
        ("airgap.md", f"## Load\n\n{BLOCK}", ""),
        ("airgap.md", f"## Lead\n\n{BLOCK}", "not in RUN_BY"),
        ("new.md", BLOCK, "not in RUN_BY"),
        ("new.md", f"<!-- not run: needs a cluster -->\n\n{BLOCK}", ""),
        ("new.md", f"<!-- not run: needs a cluster -->\n\nText.\n\n{BLOCK}", "not in RUN_BY"),
        ("new.md", f"<!-- not run: {FOLLOW} runs it -->\n{BLOCK}", ""),
        ("new.md", f"<!-- not run: {FOLLOW}_ runs it -->\n{BLOCK}", "there is no test_a_page_shows"),
        ("new.md", f"<!-- not run: tests/test_doc.py runs it -->\n{BLOCK}", "no tests/test_doc.py"),
        ("start.md", "```toml\na = 1\n```\n", "does not run 'toml'"),
        ("start.md", f"{BLOCK}```text\nshown\n```\n", "does not run 'text'"),
        ("start.md", "```python\nprint(1)\n```\n\n```text\n1\n```\n", ""),
        ("start.md", "```{toctree}\npage\n```\n", ""),
    ],
)
def test_a_block_that_is_not_run_is_found(page: str, text: str, fault: str) -> None:
    found = all_faults(read(page, text))
    assert len(found) == bool(fault), found
    assert not fault or fault in found[0]

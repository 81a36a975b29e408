"""The fenced blocks of README.md, CONTRIBUTING.md and docs/, and the tests that run them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final, NamedTuple

ROOT: Final = Path(__file__).parent.parent.parent
DOCS: Final = ROOT / "docs"
# Runs what a page shows, in order, and compares the output: see integration/guides.py.
FOLLOW: Final = "integration/test_guides.py::test_a_page_shows_what_happens"
# The test that runs the blocks of a page, or of its sections, which are named by their headings.
RUN_BY: Final[Mapping[str, str | Mapping[str, str]]] = {
    "../README.md": {
        "": FOLLOW,
        "From Python": FOLLOW,
        "Try it": "integration/test_demo.py::test_the_demo_shows_both_rules_and_stops_what_it_started",
    },
    "airgap.md": {
        "Save on one machine, load on another": (
            "integration/test_airgap_doc.py::test_save_on_one_machine_and_load_on_another"
        ),
        "Load": "integration/test_airgap_doc.py::test_save_on_one_machine_and_load_on_another",
        "Less to carry": "integration/test_since.py::test_the_commands_of_the_page",
        "Signatures and SBOMs": "integration/test_referrers.py::test_the_commands_of_the_page",
        "Check an archive": "integration/test_archives.py::test_the_commands_of_the_documentation",
        "Straight into another containerd": "integration/test_sync.py::test_the_commands_of_the_page",
    },
    "explanation/gc.md": FOLLOW,
    "explanation/platforms.md": FOLLOW,
    "explanation/pull.md": FOLLOW,
    "howto/ci.md": FOLLOW,
    "howto/cron.md": FOLLOW,
    "howto/debug.md": "integration/test_debug_doc.py::test_the_page",
    "howto/from-subprocess.md": "integration/test_from_subprocess.py::test_both_do_the_same",
    "howto/migrate.md": FOLLOW,
    "howto/mirrors.md": FOLLOW,
    "howto/nodes.md": FOLLOW,
    "howto/trace.md": "tests/test_tracing.py::test_the_program_of_the_page",
    "library.md": "integration/test_library_doc.py::test_the_page_has_ten_short_programs_and_each_has_a_test",
    "prune.md": FOLLOW,
    "push.md": FOLLOW,
    "reference/logging.md": "tests/test_logging_doc.py::test_the_program_logs_json_lines",
    "reference/schemas.md": "tests/test_schemas.py::test_the_code_in_the_page_works",
    "start.md": FOLLOW,
}
_FENCE = re.compile(
    r"(?:^<!-- not run: (?P<reason>.+?) -->\n+)?^```(?P<language>[^\n`]*)\n(?P<text>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)
_HEADING = re.compile(r"^## (.+)$", re.MULTILINE)


class Block(NamedTuple):
    """A fenced block of a page. `reason` says why no test runs it."""

    page: str
    section: str
    line: int
    language: str
    text: str
    reason: str


def blocks(page: str) -> Iterator[Block]:
    """Read the fenced blocks of a page, whose name is relative to docs/; directives of the site are none."""
    return read(page, (DOCS / page).read_text(encoding="utf-8"))


def read(page: str, text: str) -> Iterator[Block]:
    """Read the fenced blocks of a text."""
    for found in _FENCE.finditer(text):
        if found["language"].startswith("{"):
            continue
        headings = _HEADING.findall(text, 0, found.start())
        yield Block(
            page,
            headings[-1] if headings else "",
            text.count("\n", 0, found.start()) + 1,
            found["language"],
            found["text"],
            found["reason"] or "",
        )


def run_by(block: Block) -> str:
    """Return the test that runs a block, or an empty string."""
    tests = RUN_BY.get(block.page, "")
    return tests if isinstance(tests, str) else tests.get(block.section, "")

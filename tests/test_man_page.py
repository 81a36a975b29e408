"""docs/man/pyctrd.1, which the wheel has: every command and option is in it."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parent.parent


def test_it_has_what_the_reference_has() -> None:
    """After a change of docs/cli.md: scripts/docs --man."""
    page = (
        (ROOT / "docs" / "man" / "pyctrd.1")
        .read_text(encoding="utf-8")
        .replace("\\-", "-")
        .replace("\\%", "")
    )
    reference = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
    words = set(re.findall(r"--[a-z][a-z-]+", reference))
    assert len(words) > 60
    assert words <= set(re.findall(r"--[a-z][a-z-]+", page))
    commands = re.findall(r"^## (pyctrd .*)$", reference, re.MULTILINE)
    assert len(commands) > 40
    shown = re.sub(r"\s+", " ", page).upper()
    assert [name for name in commands if name.upper() not in shown] == []

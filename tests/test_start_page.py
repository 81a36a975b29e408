"""What a reader who knows only docker looks for is at most two links away from the start page."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
_LINK = re.compile(r"\]\((?!https?:)([^)#\s]+\.md)(?:#[^)]*)?\)")
_BLOCK = re.compile(r"^```(?:console|python)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def within(clicks: int) -> Iterator[Path]:
    """Yield the start page and the pages that so many links lead to."""
    pages = {ROOT / "README.md"}
    for _ in range(clicks):
        links = {(page, link) for page in pages for link in _LINK.findall(page.read_text(encoding="utf-8"))}
        pages |= {(page.parent / link).resolve() for page, link in links}
    yield from sorted(pages)


@pytest.mark.parametrize(
    ("job", "command"),
    [
        ("list broken images", r"\$ pyctrd [^\n]*diagnose -q"),
        ("fix them", r"\$ pyctrd [^\n]*ensure --all"),
        ("write an archive", r"\$ pyctrd [^\n]*save -o"),
        ("load it on an offline host", r"\$ pyctrd [^\n]*load [^\n]*-i"),
        ("call it from Python", r"from pyctrd import Client.*client\.images\."),
    ],
)
def test_two_links_lead_to(job: str, command: str) -> None:
    found = {
        page.name
        for page in within(2)
        for block in _BLOCK.findall(page.read_text(encoding="utf-8"))
        if re.search(command, block, re.DOTALL)
    }
    assert "migrate.md" in found, f"{job}: {found}"

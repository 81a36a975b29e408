"""docs/reference: the exit codes and the environment variables are those of the code."""

from __future__ import annotations

import re
from pathlib import Path

import pyctrd
from pyctrd.cli import boundary
from pyctrd.errors import PyctrdError

FOLDER = Path(pyctrd.__file__).parent
PAGES = FOLDER.parent / "docs" / "reference"

# Read by rich, and by registry/config/proxy.py, which makes the names from the scheme of a URL.
ELSEWHERE = {"NO_COLOR", "COLUMNS", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY"}


def rows(page: str) -> list[str]:
    """Return the first column of the tables of a page."""
    text = (PAGES / page).read_text(encoding="utf-8")
    return re.findall(r"^\| ([^|]*) \|", text, re.MULTILINE)


def test_every_exit_code_is_documented() -> None:
    errors = [getattr(pyctrd, name) for name in pyctrd.__all__ if isinstance(getattr(pyctrd, name), type)]
    codes = {kind.exit_code for kind in errors if issubclass(kind, PyctrdError)}
    signals = {129, boundary.INTERRUPTED, 143}
    assert {int(cell) for cell in rows("exit-codes.md") if cell.isdigit()} == {0, *codes, *signals}


def test_every_environment_variable_is_documented() -> None:
    read: set[str] = set()
    for path in FOLDER.rglob("*.py"):
        text = path.read_text(encoding="utf-8") if "protos" not in path.parts else ""
        read |= set(re.findall(r'environ(?:\.get|\.setdefault)?[(\[]"(\w+)"', text))
        read |= set(re.findall(r'"(\w+)" in (?:os\.)?environ', text))
        read |= set(re.findall(r'(?:envvar=|_VARIABLE: Final = )"(\w+)"', text))
    documented = {name for cell in rows("environment.md") for name in re.findall(r"`(\w+)`", cell)}
    assert read > {"CONTAINERD_ADDRESS", "DOCKER_AUTH_CONFIG", "_PYCTRD_COMPLETE", "SUDO_USER"}
    assert documented == read | ELSEWHERE

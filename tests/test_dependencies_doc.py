"""docs/reference/dependencies.md has the libraries of pyproject.toml, their oldest versions and licenses."""

from __future__ import annotations

import re
import tomllib
from importlib.metadata import PackageNotFoundError, metadata
from pathlib import Path
from typing import Final

import pytest

ROOT: Final = Path(__file__).parent.parent
PAGE: Final = ROOT / "docs" / "reference" / "dependencies.md"
ROWS: Final = {
    row[0]: row[1:]
    for row in (
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in PAGE.read_text(encoding="utf-8").splitlines()
        if line.startswith("| ") and not line.startswith("| library")
    )
}


def test_the_libraries_and_their_oldest_versions() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted = dict(re.findall(r"^([a-z0-9-]+)>=([0-9.]+)", "\n".join(project["dependencies"]), re.MULTILINE))
    assert {name: row[0] for name, row in ROWS.items()} == wanted


@pytest.mark.parametrize("name", sorted(ROWS))
def test_the_license(name: str) -> None:
    try:
        found = metadata(name)
    except PackageNotFoundError:
        assert name == "backports-zstd"  # part of the standard library of newer Pythons
        return
    told = " ".join(
        text for key in ("License-Expression", "License", "Classifier") for text in found.get_all(key, [])
    )
    # Older releases have the name of the license in words.
    words = {"BSD-3-Clause": "BSD", "Apache-2.0": "Apache", "PSF-2.0": "PSF|Python Software"}
    license_name = ROWS[name][3]
    assert re.search(words.get(license_name, license_name), told), told

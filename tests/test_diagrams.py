"""The diagrams of docs/ are those that scripts/diagrams.py draws."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

ROOT = Path(__file__).parent.parent
PICTURES = ROOT / "docs" / "pictures"


def test_they_are_up_to_date(tmp_path: Path) -> None:
    subprocess.run([sys.executable, ROOT / "scripts" / "diagrams.py", tmp_path], check=True)
    drawn = {path.name: path.read_text(encoding="utf-8") for path in tmp_path.iterdir()}
    assert drawn == {name: (PICTURES / name).read_text(encoding="utf-8") for name in drawn}
    for text in drawn.values():
        assert ElementTree.fromstring(text).find("{http://www.w3.org/2000/svg}title") is not None

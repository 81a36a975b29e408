"""The demo of README.md, as `scripts/demo` runs it on a machine that has everything."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent


def test_the_demo_shows_both_rules_and_stops_what_it_started(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "scripts/demo.py"],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    asked = re.findall(r"the registry's log: (\d+) requests", done.stdout)
    assert asked[-2:] == [
        "8",
        "0",
    ]  # what nerdctl save 2.0.3 fetches of this image, and what pyctrd save does
    assert "complete in the empty containerd: linux/amd64" in done.stdout
    assert done.stdout.rstrip().endswith("Everything that was started has been stopped.")
    assert list(tmp_path.iterdir()) == []

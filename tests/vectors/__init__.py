"""Test vectors: the results of the Go packages that containerd is built from, for the same inputs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def rows(name: str) -> list[dict[str, Any]]:
    """Read one table; `what` in the file says where the results come from."""
    table = json.loads(Path(__file__).with_name(f"{name}.json").read_text(encoding="utf-8"))
    found: list[dict[str, Any]] = table["rows"]
    assert len(found) > 1
    return found

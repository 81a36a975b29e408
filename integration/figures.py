"""Figures of the long tests: how many runs each makes, and a file of what came of them.

Tests of reliability make few runs in CI and many for docs/reliability.md; PYCTRD_RUNS says how
many. scripts/reliability reads the file.
"""

from __future__ import annotations

import json
import os
from pathlib import Path


def runs(usual: int) -> int:
    """Give the number of runs: PYCTRD_RUNS, else `usual`."""
    return int(os.environ.get("PYCTRD_RUNS") or usual)


def seed() -> int:
    """Give the seed of all that is random in a test: PYCTRD_SEED, else one that is always the same."""
    return int(os.environ.get("PYCTRD_SEED") or 20240)


def record(group: str, generation: str, **figures: int) -> None:
    """Append the figures of a test that has passed to the file that PYCTRD_FIGURES names, if it names one."""
    place = os.environ.get("PYCTRD_FIGURES")
    if place:
        line = json.dumps({"group": group, "generation": generation, "figures": figures})
        with Path(place).open("a") as file:
            file.write(f"{line}\n")

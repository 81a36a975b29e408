"""The number of runs of long tests, and the file that records their results.

Reliability tests make few runs in CI and many for docs/reliability.md: PYCTRD_RUNS is the number.
scripts/reliability reads the file.
"""

from __future__ import annotations

import json
import os
from pathlib import Path


def runs(usual: int) -> int:
    """Return the number of runs: PYCTRD_RUNS, else `usual`."""
    return int(os.environ.get("PYCTRD_RUNS") or usual)


def seed() -> int:
    """Return the random seed: PYCTRD_SEED, else a fixed one."""
    return int(os.environ.get("PYCTRD_SEED") or 20240)


def record(group: str, generation: str, **figures: int) -> None:
    """Append the figures of a passed test to the file in PYCTRD_FIGURES, if that is set."""
    place = os.environ.get("PYCTRD_FIGURES")
    if place:
        line = json.dumps({"group": group, "generation": generation, "figures": figures})
        with Path(place).open("a") as file:
            file.write(f"{line}\n")

"""The number of runs of long tests, and the file that records their results.

Reliability tests make few runs in CI and many for docs/reliability.md: PYCTRD_RUNS is the number.
scripts/reliability reads the file.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

from integration.rig.peers import NEWEST


def runs(usual: int, generation: str = NEWEST) -> int:
    """Return the number of runs: PYCTRD_RUNS, else `usual`; a quarter of it on an older containerd.

    What these tests kill is pyctrd, which is the same program on all of them.
    """
    return int(os.environ.get("PYCTRD_RUNS") or (usual if generation == NEWEST else max(usual // 4, 1)))


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

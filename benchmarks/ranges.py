"""Measure one large layer with and without parallel ranges, over networks of several kinds.

    python -m benchmarks.ranges [--size MiB] [--rounds N]

Whole `pyctrd pull --no-unpack` commands, run alternately, the best of the rounds each. The networks are
simulated by a proxy on 127.0.0.1 that limits each connection, or all of them together, and delays data from
the client.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from benchmarks.__main__ import ISOLATED, MIB, Bench, Run
from integration.rig import publish
from integration.rig.containerd import Containerd
from integration.rig.peers import NEWEST
from integration.rig.registry import Registry
from integration.rig.throttle import Throttle
from tests.support import shapes


@dataclass(frozen=True)
class Line:
    """A kind of network; rates in MiB per second, None for unlimited; `at_most` is the expected ratio."""

    name: str
    at_most: float
    per_connection: float | None = None
    in_all: float | None = None
    delay: float = 0.0
    direct: bool = False


LINES: Sequence[Line] = (
    Line("loopback, unlimited", 1.1, direct=True),
    Line("4 MiB/s a connection", 0.45, per_connection=4),
    Line("4 MiB/s a connection, 50 ms", 0.5, per_connection=4, delay=0.05),
    Line("12 MiB/s in all", 1.1, in_all=12),
)


def bytes_a_second(mib: float | None) -> float | None:
    """Return a rate in MiB per second as bytes per second."""
    return None if mib is None else mib * MIB


def measure(line: Line, port: int, daemon: Containerd, folder: Path, rounds: int) -> dict[str, Run]:
    """Pull over one network with `off` and `auto` alternately; return the best run of each."""
    best: dict[str, Run] = {}
    with Throttle(
        port,
        per_connection=bytes_a_second(line.per_connection),
        in_all=bytes_a_second(line.in_all),
        delay=line.delay,
    ) as throttle:
        host = f"127.0.0.1:{port}" if line.direct else throttle.host
        bench = Bench(daemon, f"{host}/bench/ranges:latest", folder)
        for _ in range(rounds):
            for setting in ("off", "auto"):
                run = bench.pull_by_pyctrd("--no-unpack", "--parallel-ranges", setting)
                if setting not in best or run.seconds < best[setting].seconds:
                    best[setting] = run
    return best


def main() -> int:
    """Print the table; exit 1 if a ratio or the memory exceeds its limit."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.ranges", description=__doc__)
    parser.add_argument("--size", type=int, default=128, help="MiB of the layer (default 128)")
    parser.add_argument("--rounds", type=int, default=1)
    arguments = parser.parse_args()
    failed = False
    print("| line | off s | auto s | ratio | at most | peak MiB |")
    print("|---|---|---|---|---|---|")
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="pyctrd-bench-")))
        registry = stack.enter_context(Registry(folder / "registry"))
        daemon = stack.enter_context(Containerd(NEWEST, folder / "containerd", ISOLATED))
        publish.push(shapes.big(arguments.size * MIB, layers=1), registry, "bench/ranges")
        port = int(registry.direct_host.rpartition(":")[2])
        for line in LINES:
            best = measure(line, port, daemon, folder, arguments.rounds)
            off, auto = best["off"], best["auto"]
            ratio, peak = auto.seconds / off.seconds, max(off.peak_mib, auto.peak_mib)
            failed = failed or ratio > line.at_most or peak >= 100
            print(
                f"| {line.name} | {off.seconds:.2f} | {auto.seconds:.2f} | {ratio:.2f} | {line.at_most:.2f} "
                f"| {peak:.0f} |",
                flush=True,
            )
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())

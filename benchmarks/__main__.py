"""Measure pull, save and load compared with ctr, on the same daemon and registry, in the same run.

    python -m benchmarks [--size MiB] [--rounds N] [--generation 1.7] [--json FILE]

Every figure is a ratio to ctr: wall-clock time of whole commands, run alternately, the best of the rounds
each. Peak memory is that of the command's own process, as reported by the kernel.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

from benchmarks import image
from integration.rig import publish
from integration.rig.containerd import Containerd
from integration.rig.peers import GENERATIONS, NEWEST, tool_environment
from integration.rig.registry import Registry
from integration.rig.store import collect_garbage
from tests.support import shapes

ISOLATED = '[plugins."io.containerd.metadata.v1.bolt"]\n  content_sharing_policy = "isolated"\n'
MIB = 1 << 20
_rounds = itertools.count()


@dataclass(frozen=True)
class Run:
    """One finished command."""

    seconds: float
    peak_mib: float


@dataclass(frozen=True)
class Figure:
    """A row of the table: the best runs of ctr and of pyctrd, and their ratio."""

    what: str
    ctr_seconds: float
    pyctrd_seconds: float
    ratio: float
    limit: float | None
    pyctrd_peak_mib: float


# The command is started by a small process, since a child inherits the peak memory of its parent.
_LAUNCHER = """
import os, sys, time
start = time.perf_counter()
quiet = [(os.POSIX_SPAWN_OPEN, 1, "/dev/null", os.O_WRONLY, 0)]
pid = os.posix_spawn(sys.argv[1], sys.argv[1:], os.environ, file_actions=quiet)
_, status, usage = os.wait4(pid, 0)
print(time.perf_counter() - start, usage.ru_maxrss / 1024, status)
"""


def timed(command: Sequence[str | Path], env: dict[str, str]) -> Run:
    """Run a command to its end. Raises RuntimeError if it fails.

    The disk is synced first: pyctrd syncs its archive, and would wait for writes of earlier commands.
    """
    os.sync()
    launcher = [sys.executable, "-I", "-S", "-c", _LAUNCHER, *map(str, command)]
    done = subprocess.run(launcher, env=env, capture_output=True, text=True, check=True)
    seconds, peak, status = done.stdout.split()
    if status != "0":
        raise RuntimeError(f"{' '.join(map(str, command))}: status {status}: {done.stderr}")
    return Run(float(seconds), float(peak))


class Bench:
    """A daemon and a registry with one large image."""

    def __init__(self, daemon: Containerd, reference: str, folder: Path) -> None:
        self._daemon = daemon
        self._reference = reference
        self._folder = folder
        self._env = {**tool_environment(daemon.peer.bin_dir), "PYTHONPATH": str(Path(__file__).parent.parent)}

    def ctr(self, namespace: str, *arguments: str | Path) -> Run:
        """Time a ctr command."""
        head: list[str | Path] = [self._daemon.peer.ctr, "-a", self._daemon.address, "-n", namespace]
        return timed([*head, *arguments], self._env)

    def pyctrd(self, namespace: str, *arguments: str | Path) -> Run:
        """Time a pyctrd command."""
        head = [sys.executable, "-m", "pyctrd", "-a", str(self._daemon.address), "-n", namespace]
        return timed([*head, *arguments], self._env)

    def pull_by_ctr(self, *flags: str) -> Run:
        """Time ctr's pull into an empty namespace."""
        return self._in_empty(
            lambda name: self.ctr(name, "images", "pull", "--plain-http", *flags, self._reference)
        )

    def pull_by_pyctrd(self, *flags: str) -> Run:
        """Time our pull into an empty namespace."""
        return self._in_empty(
            lambda name: self.pyctrd(
                name, "pull", "--progress", "none", "--plain-http", *flags, self._reference
            )
        )

    def _in_empty(self, pull: Callable[[str], Run]) -> Run:
        namespace = f"pull{next(_rounds)}"
        run = pull(namespace)
        self._daemon.ctr("images", "rm", "--sync", self._reference, namespace=namespace)
        collect_garbage(self._daemon, namespace)
        return run

    def export(self) -> Run:
        """Time ctr's default export."""
        return self._to_file(lambda file: self.ctr("default", "images", "export", file, self._reference))

    def save(self) -> Run:
        """Time our save."""
        return self._to_file(
            lambda file: self.pyctrd("default", "save", "--progress", "none", "-o", file, self._reference)
        )

    def import_by_ctr(self, file: Path) -> Run:
        """Time ctr's import into an empty namespace."""
        return self._in_empty(lambda name: self.ctr(name, "images", "import", file))

    def load(self, file: Path) -> Run:
        """Time our load into an empty namespace."""
        return self._in_empty(lambda name: self.load_into(name, file))

    def load_into(self, namespace: str, file: Path) -> Run:
        """Time our load into a namespace."""
        return self.pyctrd(namespace, "load", "--progress", "none", "-i", file)

    def _to_file(self, write: Callable[[Path], Run]) -> Run:
        file = self._folder / "archive.tar"
        run = write(file)
        file.unlink()
        return run


def compared(
    what: str, limit: float | None, rounds: int, ctr: Callable[[], Run], ours: Callable[[], Run]
) -> Figure:
    """Run both alternately, and compare the best time of each."""
    pairs = [(ctr(), ours()) for _ in range(rounds)]
    best_ctr = min(run.seconds for run, _ in pairs)
    best_ours = min(run.seconds for _, run in pairs)
    peak = max(run.peak_mib for _, run in pairs)
    return Figure(what, best_ctr, best_ours, best_ours / best_ctr, limit, peak)


def measure(generation: str, size: int, rounds: int) -> list[Figure]:
    """Start everything, measure, stop everything; `size` in bytes."""
    mib = size // MIB
    figures = []
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="pyctrd-bench-")))
        registry = stack.enter_context(Registry(folder / "registry"))
        daemon = stack.enter_context(Containerd(generation, folder / "containerd", ISOLATED))
        for name, make, limit in (("programs", image.programs, 1.2), ("random", shapes.big, None)):
            publish.push(make(size), registry, f"bench/{name}")
            # Directly from the registry: the proxy in front of it would take more time than what is measured.
            reference = f"{registry.direct_host}/bench/{name}:latest"
            bench = Bench(daemon, reference, folder)
            bench.ctr("default", "images", "pull", "--plain-http", reference)
            file = folder / f"{name}.tar"
            bench.pyctrd("default", "save", "--progress", "none", "-o", file, reference)
            what = f"{mib} MiB of {name}"
            figures += [
                compared(f"save {what} / ctr images export", 1 / 3, rounds, bench.export, bench.save),
                compared(
                    f"pull {what} / ctr images pull", limit, rounds, bench.pull_by_ctr, bench.pull_by_pyctrd
                ),
                compared(
                    f"load {what} / ctr images import",
                    None,
                    rounds,
                    partial(bench.import_by_ctr, file),
                    partial(bench.load, file),
                ),
                compared(
                    f"load {what}, all present / ctr images import",
                    1 / 20,
                    rounds,
                    partial(bench.ctr, "default", "images", "import", file),
                    partial(bench.load_into, "default", file),
                ),
            ]
            file.unlink()
    return figures


def main() -> int:
    """Print the table; exit 1 if a ratio or the memory exceeds its limit."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--size", type=int, default=512, help="MiB of layers (default 512)")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--generation", default=NEWEST, choices=GENERATIONS)
    parser.add_argument("--json", type=Path, help="write the figures to this file too")
    arguments = parser.parse_args()
    figures = measure(arguments.generation, arguments.size * MIB, arguments.rounds)
    print("| what | ctr s | pyctrd s | ratio | at most | peak MiB |")
    print("|---|---|---|---|---|---|")
    for one in figures:
        print(
            f"| {one.what} | {one.ctr_seconds:.2f} | {one.pyctrd_seconds:.2f} "
            f"| {one.ratio:.2f} | {f'{one.limit:.2f}' if one.limit else '-'} | {one.pyctrd_peak_mib:.0f} |"
        )
    if arguments.json:
        arguments.json.write_text(json.dumps([asdict(one) for one in figures], indent=2) + "\n")
    return (
        0
        if all(one.ratio <= (one.limit or one.ratio) and one.pyctrd_peak_mib < 100 for one in figures)
        else 1
    )


if __name__ == "__main__":
    sys.exit(main())

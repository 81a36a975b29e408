"""`python -m integration.matrix [FILE]`: run all and write the page; exit with 1 for a wrong prediction.

`python -m integration.matrix --random N [--seed S] [--on 2.4,1.7]` runs random images instead, until there
are N forecasts, and prints those that were wrong; the page stays as it is.

An unavailable peer is listed on the page; with `CI` set it is an error.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from integration.matrix.cells import ROWS, Row
from integration.matrix.random_run import Result as RandomResult
from integration.matrix.random_run import run, told
from integration.matrix.report import page, total
from integration.matrix.runner import Result, Workshop
from integration.matrix.tools import TOOLS
from integration.rig import peers
from integration.rig.cache import PeerUnavailable

_DEFAULT = Path(__file__).parents[2] / "docs" / "mismatch.md"


def main(arguments: Sequence[str]) -> int:
    """Run it, and return the exit code."""
    options = _options(arguments)
    if options.random:
        return _random(options.random, options.seed, options.on.split(","))
    output = options.file
    missing = _missing_tools()
    with tempfile.TemporaryDirectory(prefix="pyctrd-matrix-") as folder:
        results = _run(Path(folder), missing)
    output.write_text(page(results, _versions(), missing))
    wrong = [result for row in results.values() for result in row if result.wrong]
    for result in wrong:
        print(f"not predicted: {result.cell}: {'; '.join(result.wrong)}", file=sys.stderr)
    print(f"{output}: {sum(map(len, results.values()))} of {total()} cells, {len(wrong)} not predicted")
    return 1 if wrong or (missing and os.environ.get("CI")) else 0


def _options(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="mismatch-report")
    parser.add_argument("file", nargs="?", type=Path, default=_DEFAULT, help="the page to write")
    parser.add_argument("--random", type=int, metavar="N", help="N forecasts about random images instead")
    parser.add_argument("--seed", default="0", help="the seed of the random images")
    parser.add_argument("--on", default=",".join(peers.GENERATIONS), help="the containerds to do them on")
    return parser.parse_args(arguments)


def _random(count: int, seed: str, generations: Sequence[str]) -> int:
    """Run random images; results that vary or that diagnose calls uncertain are counted separately."""
    with tempfile.TemporaryDirectory(prefix="pyctrd-random-") as folder:
        results = run(count, seed, generations, Path(folder))
    print(told(results), file=sys.stderr)
    wrong = sum(bool(result.wrong) for result in results)
    apart = Counter(_kind(result) for result in results if not result.forecast.certain)
    for note, times in sorted(apart.items()):
        print(f"{times:4} uncertain  {note}")
    print(f"seed {seed}: {len(results)} forecasts, {wrong} wrong, {apart.total()} uncertain")
    return 1 if wrong else 0


def _kind(result: RandomResult) -> str:
    """Why a forecast is uncertain, without the names of the case."""
    note = result.forecast.note.replace(result.case.name, "…")
    return f"{result.tool.name}: {re.sub(r'127[.]0[.]0[.]1/[^ ,]+', '…', note)}"


def _missing_tools() -> dict[str, str]:
    """List the tools that are unavailable on this machine, with the reason."""
    missing = {}
    for tool in TOOLS:
        try:
            if tool.program == "ctr":
                peers.containerd(tool.version)
            elif tool.program == "nerdctl":
                peers.nerdctl(tool.version)
        except PeerUnavailable as error:
            missing[tool.name] = str(error)
    return missing


def _run(folder: Path, missing: dict[str, str]) -> dict[Row, list[Result]]:
    """Run all rows; a row whose daemon or tools are unavailable is added to `missing`."""
    results = {}
    left_out = frozenset(missing)
    with Workshop(folder) as workshop:
        for number, row in enumerate(ROWS, 1):
            print(f"{number:3}/{len(ROWS)}  {row}", file=sys.stderr, flush=True)
            try:
                results[row] = workshop.results(row, left_out)
            except PeerUnavailable as error:
                missing[str(row)] = str(error)
    return results


def _versions() -> list[tuple[str, str]]:
    """The versions of the available peers."""
    versions = []
    for generation in peers.GENERATIONS:
        try:
            versions.append((f"containerd and ctr {generation}", peers.containerd(generation).version))
        except PeerUnavailable:
            continue
    versions.append(("nerdctl", ", ".join(tool.version for tool in TOOLS if tool.program == "nerdctl")))
    return versions


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""Measure pyctrd beside the programs that people would use instead, on the same containerd and registry.

    scripts/bench [--quick] [--cases PATTERN] [--generation 2.4] [--json FILE] [--write-docs]

It prints tables of times, CPU time and memory, and exits with 1 if a command fails or a limit of
benchmarks/limits.py is exceeded.
"""

from __future__ import annotations

import argparse
import compileall
import datetime as dt
import os
import platform
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from fnmatch import fnmatchcase
from pathlib import Path

import msgspec

from benchmarks import limits, results, tables
from benchmarks.cases import CASES, OURS, Case, Contender
from benchmarks.image import SHAPES, scaled
from benchmarks.measuring import Run, run
from benchmarks.results import Report, Result
from benchmarks.site import ROOT, Site, Source, described_machine
from integration.rig import peers
from integration.rig.peers import CURRENT, NEWEST, PeerUnavailable

DOCS = ROOT / "docs"
PAGE, DATA, PICTURE = DOCS / "benchmarks.md", DOCS / "benchmarks.json", DOCS / "benchmarks.svg"
QUICK_SCALE = 1 / 32


def measure(
    cases: Sequence[Case],
    generations: Sequence[str],
    *,
    scale: float,
    rounds: int,
    settles: bool,
    named: bool,
) -> Iterator[Result]:
    """Measure the cases. A case that fails has no runs.

    With `rounds` 0 each case says how many, and unless the generations were `named` on which of them.
    `settles` is for Source.
    """
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="pyctrd-bench-")))
        source = stack.enter_context(Source(folder, scale, settles=settles))
        for generation in generations:
            with Site(generation, source) as site:
                for case in cases:
                    if generation in (generations if named else case.generations):
                        yield Result(case.name, _title(case, scale), generation, _runs(site, case, rounds))


def _is_complete(archive: Path) -> bool:
    """Whether an archive is read to its end, and has an index: ctr's transfer service may cut it off."""
    try:
        with tarfile.open(archive) as tar:
            return "index.json" in tar.getnames()
    except tarfile.TarError:
        return False


def _title(case: Case, scale: float) -> str:
    sizes = {name: shape.described(scale) for name, shape in SHAPES.items()}
    numbers = {f"n{number}": f"{scaled(number, scale):,}" for number in (150, 500, 10000)}
    return case.title.format_map({**sizes, **numbers})


def _runs(site: Site, case: Case, rounds: int) -> dict[str, list[Run]]:
    began = time.monotonic()
    try:
        runs = _in_turn(site, case.make(site), rounds or case.rounds)
    except (RuntimeError, AssertionError, PeerUnavailable, subprocess.TimeoutExpired) as error:
        _say(f"{site.generation} {case.name}: failed: {error}")
        return {}
    _say(f"{site.generation} {case.name}: {time.monotonic() - began:.1f} s")
    return runs


def _in_turn(site: Site, contenders: Sequence[Contender], rounds: int) -> dict[str, list[Run]]:
    """Run the contenders alternately. Each round begins with another, since the order may matter."""
    runs: dict[str, list[Run]] = {one.name: [] for one in contenders}
    for number in range(rounds):
        first = number % len(contenders)
        for one in (*contenders[first:], *contenders[:first]):
            if one.once and number:
                continue
            one.before()
            if site.source.settles:
                os.sync()  # no command waits for what an earlier one has written
            done = run(
                one.command,
                env=site.env,
                folder=site.folder,
                daemon=one.daemon or site.daemon,
                piped=one.piped,
            )
            if one.requests:
                done = msgspec.structs.replace(done, requests=one.requests())
            if one.archive:
                done = msgspec.structs.replace(done, complete=_is_complete(one.archive))
                if one.name == OURS and not done.complete:
                    raise RuntimeError("the archive of pyctrd is incomplete")
            one.after()
            runs[one.name].append(done)
    return runs


def _chosen(pattern: str) -> list[Case]:
    if not pattern:
        return [case for case in CASES if case.by_default]
    return [case for case in CASES if any(fnmatchcase(case.name, one) for one in pattern.split(","))]


def measured(arguments: argparse.Namespace) -> Report:
    """Measure what the arguments say, and write it to the file for JSON after each case."""
    scale = arguments.size * (QUICK_SCALE if arguments.quick else 1)
    # The newest one first, with most of the cases: what was measured is kept if the run is ended early.
    generations = arguments.generation or ([NEWEST] if arguments.quick else [*reversed(CURRENT)])
    report = Report(
        date=f"{dt.date.today()}",
        machine=described_machine(),
        python=platform.python_version(),
        scale=scale,
        versions={one: peers.containerd(one).version for one in generations},
        minutes=0,
        results=[],
    )
    compileall.compile_dir(ROOT / "pyctrd", quiet=2)
    began = time.monotonic()
    for result in measure(
        _chosen(arguments.cases),
        generations,
        scale=scale,
        rounds=arguments.rounds or int(arguments.quick),
        settles=not arguments.quick,
        named=bool(arguments.generation),
    ):
        minutes = round((time.monotonic() - began) / 60, 1)
        report = msgspec.structs.replace(report, minutes=minutes, results=[*report.results, result])
        if arguments.json:
            results.write(report, arguments.json)
    return report


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    made = argparse.ArgumentParser(
        prog="scripts/bench", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("--cases", default="", metavar="PATTERN", help="for example 'pull/*,save/large'")
    made.add_argument("--list", action="store_true", help="print the names of the cases and exit")
    made.add_argument(
        "--generation",
        action="append",
        choices=CURRENT,
        help="containerd to measure with; repeatable (default: all)",
    )
    made.add_argument(
        "--rounds", type=int, default=0, metavar="N", help="rounds (default: depends on the case)"
    )
    made.add_argument(
        "--size", type=float, default=1.0, metavar="FACTOR", help="factor for all sizes and counts"
    )
    made.add_argument(
        "--quick",
        action="store_true",
        help="small images, one round, the newest containerd; limits do not count",
    )
    made.add_argument("--json", type=Path, metavar="FILE", help="also write all figures to FILE")
    made.add_argument(
        "--from", type=Path, dest="source", metavar="FILE", help="measure nothing: take figures of FILE"
    )
    made.add_argument(
        "--write-docs",
        action="store_true",
        help="write docs/benchmarks.md, .json and .svg (needs matplotlib)",
    )
    return made


def main(given: Sequence[str] | None = None) -> int:
    """Run the command line; return 1 if a limit is exceeded."""
    arguments = parser().parse_args(given)
    signal.signal(signal.SIGTERM, lambda number, _frame: sys.exit(128 + number))  # stop what was started
    if not _chosen(arguments.cases):
        parser().error(f"no case matches {arguments.cases!r}; --list prints them")
    if arguments.list:
        for case in CASES:
            print(f"{case.name:20} {_title(case, 1)}")
        return 0
    report = results.read(arguments.source) if arguments.source else measured(arguments)
    print("\n".join([tables.about(report), *tables.sections(report)]))
    if arguments.write_docs:
        from benchmarks import plot

        results.write(report, DATA)
        plot.draw(report, [one for one in CURRENT if one in report.versions][-1], PICTURE)
        PAGE.write_text(tables.page(report))
    holds = arguments.quick or all(check.holds for check in limits.checks(report))
    return 0 if holds and all(result.runs for result in report.results) else 1


if __name__ == "__main__":
    sys.exit(main())

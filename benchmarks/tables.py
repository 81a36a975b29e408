"""A report as text: Markdown, which is also what the terminal shows."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from benchmarks.cases import OURS
from benchmarks.limits import MEMORY_MIB, Check, Quantity, checks, typical
from benchmarks.measuring import Run
from benchmarks.results import Report, Result

Limits = Mapping[tuple[str, Quantity], Check]


def page(report: Report) -> str:
    """Return docs/benchmarks.md."""
    return "\n".join([_INTRODUCTION.format(about=about(report)), *sections(report)]) + "\n"


def about(report: Report) -> str:
    """Say what was measured where."""
    versions = list(report.versions.values())
    return (
        f"{report.date}, {report.machine}, Python {report.python}, containerd {', '.join(versions)}; "
        f"{report.minutes:.0f} minutes in all."
    )


def sections(report: Report) -> Iterator[str]:
    """Yield the lines of the sections: a table of times and one of resources for each generation."""
    found = list(checks(report))
    missed = [check for check in found if not check.holds]
    yield f"{len(found) - len(missed)} of {len(found)} limits hold."
    minimal = sum(check.minimal is not None for check in missed)
    if minimal:
        yield f"{minimal} of the others are exceeded by a minimal program, too."
    for generation, version in report.versions.items():
        results = [one for one in report.results if one.generation == generation]
        if not results:
            continue
        yield f"\n## containerd {version}\n"
        yield from _times(results, found)
        yield ""
        yield from _resources(results, found)


def _limits(result: Result, found: Iterable[Check]) -> Limits:
    return {(one.limit.peer, one.limit.of): one for one in found if one.result is result}


def _times(results: Sequence[Result], found: Sequence[Check]) -> Iterator[str]:
    yield "| case | pyctrd s | compared with | s | ratio | at most | holds |"
    yield "|---|---|---|---|---|---|---|"
    for result in results:
        limits = _limits(result, found)
        if not result.runs:
            yield _row(f"`{result.case}`: {result.title}", "failed", *[""] * 5)
            continue
        ours = result.runs[OURS]
        first = [f"`{result.case}`: {result.title}", spread(ours)]
        for (peer, of), check in limits.items():
            if not peer and of != "peak":
                yield _row(*first, f"({WORDS[of]})", "", f"{check.value:.2g}", *_verdict(check))
                first = ["", ""]
        for peer, runs in result.runs.items():
            if peer != OURS:
                ratio = typical(ours) / typical(runs)
                cut = sum(not run.complete for run in runs)
                words = f"{peer} (archive incomplete: {cut} of {len(runs)})" if cut else peer
                yield _row(
                    *first, words, spread(runs), f"{ratio:.2f}", *_verdict(limits.get((peer, "seconds")))
                )
                first = ["", ""]


def _resources(results: Sequence[Result], found: Sequence[Check]) -> Iterator[str]:
    yield "| case | command | CPU s | peak MiB | at most | holds | containerd: CPU s | peak MiB |"
    yield "|---|---|---|---|---|---|---|---|"
    for result in results:
        limits = _limits(result, found)
        for name, runs in result.runs.items():
            check = limits.get(("", "peak")) if name == OURS else None
            growth = limits.get((name, "peak")) if name != OURS else None
            shown = _verdict(check)
            if growth:
                shown = (f"pyctrd {growth.limit.at_most:g} ×", _holds(growth))
            yield _row(
                f"`{result.case}`" if name == OURS else "",
                name,
                f"{typical(runs, 'cpu'):.2f}",
                f"{typical(runs, 'peak'):.0f}",
                *shown,
                f"{typical(runs, 'daemon_cpu'):.2f}",
                f"{typical(runs, 'daemon_peak'):.0f}",
            )


def spread(runs: Sequence[Run]) -> str:
    """Return the median, the shortest and the longest time."""
    times = [run.seconds for run in runs]
    short = f"{typical(runs):.3g}"
    return short if len(times) == 1 else f"{short} ({min(times):.3g} – {max(times):.3g})"


def _verdict(check: Check | None) -> tuple[str, str]:
    return (f"{check.limit.at_most:g}", _holds(check)) if check else ("", "")


def _holds(check: Check) -> str:
    if check.holds:
        return "yes"
    if check.minimal is None:
        return "**no**"
    name, value = check.minimal
    return f"**no** ({name}: {value:.2f})"


def _row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


WORDS: Mapping[Quantity, str] = {"cpu": "CPU seconds", "requests": "requests to the registry"}

_INTRODUCTION = f"""\
# Benchmarks

Written by `scripts/bench --write-docs` from [benchmarks.json](benchmarks.json). `scripts/bench` starts
containerd and a registry of its own, and runs pyctrd and the programs that people would use instead in turn,
on the same data. `scripts/bench --quick` shows within a minute that it works. It is not part of the tests.

![Time of pyctrd compared with other programs](benchmarks.svg)

{{about}}

- Times are those of whole commands, with the start of the interpreter: the median, and the shortest and the
  longest. Before each command the disk is synced. What pulls or loads begins with an empty containerd, unless
  everything is there. The registry's data is in the page cache.
- "at most" is the limit of the ratio, or in the second table of the memory in MiB. All of them are in
  `benchmarks/limits.py`; pyctrd may use {MEMORY_MIB:g} MiB in every case. `scripts/bench` fails if one is
  exceeded.
- CPU time is user and system time, the median. Memory is the largest of all rounds. containerd's figures are
  those of its process while the command ran, so they include what it does in the background.
- `cp, openssl, sync` copies the image's blobs out of containerd's folder, hashes the copies and syncs them:
  what a save has to do at least. `import grpc` starts the same Python with the module that every client of
  containerd in Python needs.
- Incompressible data is the worst case for a client that sends each byte through containerd's socket.
  Programs are parts of real executables, which compress like most layers.
- `ctr images export` of 2.x may end, with exit code 0, before all of the archive has been written. Archives
  are read after each command, and the table says how many of them have no index.
- `grpc, calls only` (`benchmarks/floor.py`) makes the calls that a command cannot do without, and nothing
  else: it downloads, stores and unpacks without logins, labels, checks and a record of the image; it reads
  all blobs, and writes no archive; it reads the documents of a list. Where it or `import grpc` exceeds a
  limit, too, the table says so: a client in Python can hardly be faster.
- A line with round trips of 50 ms is a proxy that delays both directions; its rate is not limited.
- Only the newest containerd is compared with the programs that have no limit.
"""

"""Run the tests of reliability with their full counts, and write what came of them to docs/reliability.md."""

from __future__ import annotations

import argparse
import datetime as dt
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import pytest

from integration.rig import cache, peers

RUNS = 200
PAGE = Path("docs/reliability.md")


class Group(NamedTuple):
    """A file of tests, and how often each generation runs it in full.

    `apart` is for groups that take long: each generation runs by itself, and after an interrupt one that is
    done is not run again.
    """

    file: str
    runs: int
    apart: bool = False


GROUPS = {
    "Garbage collection": Group("integration/test_collector.py", RUNS),
    "Our own death": Group("integration/test_death.py", RUNS // 2),
    "Neighbours": Group("integration/test_neighbours.py", RUNS // 10),
    "Signals": Group("integration/test_signals.py", 1000 // len(peers.GENERATIONS), apart=True),
    "The end of clients": Group("integration/test_lifecycle.py", 100, apart=True),
}
HEAD = """\
# Reliability

Written by `scripts/reliability`; do not edit it. Real containerd {versions},
each in a folder of its own; the seed of all that is random is {seed}. "lost" are blobs that were promised or
held and then were not there, byte for byte. "left over" is what nothing refers to after every image was
deleted: blobs, snapshots, ingests, leases. One of either fails the test, and no page is written. A row is a
test, and the command above its table repeats it.
"""
ABOUT = {
    "Garbage collection": """\
Pulls, ensures, saves and loads (`ctr images import` of our archive) run in two threads, beside a collector
that never rests: leases and images of others that are deleted with `--sync`, a daemon that collects after
every change, and "with prune" also `ctr content prune references`. Each blob is read back and hashed at the
last moment of the lease; without prune each image is hashed again after it. The other rows play one fault
each in the middle of a pull, an ensure and a save.""",
    "Our own death": """\
SIGKILL, SIGTERM, SIGINT and SIGHUP at points drawn from the progress or the running time of pull, pull
--all-platforms, ensure, save to a file and to a pipe, diagnose, images and content. After each: every blob
hashed, images as before or whole, no partial file (after SIGKILL one that the next run removes), the
documented exit code, no lease without an expiry (none at all, but after SIGKILL and for a pull or an ensure
that is interrupted, which goes on where it was), and the next run succeeds.""",
    "Neighbours": """\
Another client that pulls the same image, or one that shares layers, in the middle of our pull, and we in the
middle of theirs: no blob is downloaded twice, and content, labels and snapshots are those of an undisturbed
pull.""",
    "Signals": """\
SIGTERM, SIGINT and SIGHUP at moments drawn from the whole running time of a pull with unpacking, a save to a
file, an ensure and a push. Each time the command ends within 5 s, by the documented exit code; no crash
(SIGSEGV, SIGABRT), no traceback, no hang; what has a name, in the store, in the registry or in the folder, is
whole. A process that has not ended then shows its stacks, and fails the test.""",
    "The end of clients": """\
The library in a process of its own: `close()` in another thread, a time-out of asyncio and a layer that the
registry does not have, at random moments of a pull, a save, a verify and of lists. Each call ends within 5 s
by the error that says why, every later call is refused, and the process does not crash. The other tests of
the file play one moment each.""",
}


TAIL = """\
## Images made to be expensive

A few kilobytes of documents can describe millions of ways through an image: nested indexes that list each
other's children, or one manifest that is listed for thousands of platforms. Every command asks about each
document a fixed number of times, however often it is listed: pull fetches and labels it once.
`tests/test_linear.py` counts documents read, bytes parsed, labels set, questions to the store and to the
registry, and platforms compared, for pull, ensure, save, push, copy, verify and diagnose;
`integration/test_expensive.py` runs them on a real containerd.

## Folders that others may write to

`save -o` opens each folder on the way, and creates and renames in the folder that it has open. In one that
everybody may write to it follows no link, writes no pipe and replaces no file of another user (exit 1); an
archive that it replaces keeps mode, owner and group (`tests/archive/test_output.py`;
[differences](differences.md), S9, S10).

## A socket that lies

A list of images that does not fit into containerd's message of 16 MiB (labels are everybody's) is asked for
in parts; `ensure` and `save` ask for the names that they need. Lists of content, snapshots and images end
after 256 MiB, a document at its limit, however much is sent. Times that Python does not know are not set;
an invalid digest or a negative size is an error of the daemon, exit 1 (`tests/containerd/test_limits.py`,
`integration/test_expensive.py`). What errors print has an end: of many platforms a few are named and the
others counted, and no message or hint is longer than 4,000 characters (`tests/test_errors.py`).
"""


def main() -> int:
    """Run everything; the exit code is pytest's when a test fails, and nothing is written then."""
    parser = argparse.ArgumentParser(prog="scripts/reliability", description=__doc__)
    parser.add_argument("--runs", type=int, default=RUNS, help="runs of each group (default: %(default)s)")
    parser.add_argument(
        "--signals", type=int, metavar="N", help="run the signals only, N of them over all generations"
    )
    parser.add_argument(
        "--only", choices=GROUPS, action="append", help="run this group only; the others stay on the page"
    )
    parser.add_argument(
        "--seed", type=int, default=20240, help="of all that is random (default: %(default)s)"
    )
    arguments = parser.parse_args()
    counts = _counts(arguments)
    with ThreadPoolExecutor(2) as pool:  # each has containerds of its own, and company makes it harder
        tasks = {
            title: pool.submit(_run, GROUPS[title], count, arguments.seed) for title, count in counts.items()
        }
    sections = {}
    for title, count in counts.items():
        found = tasks[title].result()
        if isinstance(found, int):
            return found
        sections[title] = _section(title, GROUPS[title].file, count, found)
    if any(count < GROUPS[title].runs for title, count in counts.items()):
        print("\n".join(sections.values()))
        return 0
    kept = _sections_of(PAGE.read_text()) if PAGE.exists() else {}
    chosen = {**kept, **sections}
    parts = [_head(arguments.seed), *(chosen[title] for title in GROUPS if title in chosen)]
    PAGE.write_text("\n".join([*parts, TAIL]))
    print(f"wrote {PAGE}")
    for title, count in counts.items():
        for place in _done(GROUPS[title], count, arguments.seed).values():
            place.unlink(missing_ok=True)
    return 0


def _counts(arguments: argparse.Namespace) -> dict[str, int]:
    """Say which groups are run, and how often on each generation."""
    if arguments.signals is not None:
        return {"Signals": max(arguments.signals // len(peers.GENERATIONS), 1)}
    chosen = arguments.only or list(GROUPS)
    return {title: max(GROUPS[title].runs * arguments.runs // RUNS, 2) for title in chosen}


def _sections_of(page: str) -> dict[str, str]:
    """Split a page that was written before into its sections, by title."""
    _, *parts = re.split(r"^## ", page, flags=re.MULTILINE)
    return {part.partition("\n")[0]: f"## {part.rstrip()}\n" for part in parts}


def _head(seed: int) -> str:
    versions = [peers.containerd(generation).version for generation in peers.GENERATIONS]
    listed = f"{', '.join(versions[:-1])} and {versions[-1]}"
    return HEAD.format(versions=listed, seed=seed)


def _done(group: Group, runs: int, seed: int) -> dict[str, Path]:
    """Say where the figures of each generation are kept until the page is written: of this commit."""
    commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout
    folder = cache.cache_dir() / "reliability"
    folder.mkdir(parents=True, exist_ok=True)
    name = f"{Path(group.file).stem}-{runs}-{seed}-{commit[:12]}"
    return {one: folder / f"{name}-{one}.jsonl" for one in peers.GENERATIONS} if group.apart else {}


def _run(group: Group, runs: int, seed: int) -> list[Mapping[str, object]] | int:
    """Run one group; gives the figures that its tests have recorded, or the exit code of a failure."""
    with tempfile.TemporaryDirectory(prefix="pyctrd-reliability-") as folder:
        places = _done(group, runs, seed) or {",".join(peers.GENERATIONS): Path(folder) / "all"}
        lines: list[str] = []
        for generations, place in places.items():
            if not place.exists():
                part = Path(folder) / "part"
                code = _run_tests(group.file, generations, runs, seed, part)
                if code:
                    return code
                shutil.move(part, place)
            lines += place.read_text().splitlines()
        return [json.loads(line) for line in lines]


def _run_tests(file: str, generations: str, runs: int, seed: int, place: Path) -> int:
    env = {
        **os.environ,
        "PYCTRD_FIGURES": str(place),
        "PYCTRD_GENERATIONS": generations,
        "PYCTRD_RUNS": str(runs),
        "PYCTRD_SEED": str(seed),
        "CI": "true",
    }
    place.touch()
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", file]
    code = subprocess.run(command, env=env, check=False, stdout=sys.stderr).returncode
    return 0 if code == pytest.ExitCode.NO_TESTS_COLLECTED else code


def _section(title: str, file: str, runs: int, found: list[Mapping[str, object]]) -> str:
    command = f"PYCTRD_RUNS={runs} ./scripts/test integration -k {Path(file).stem}"
    rows = "\n".join(_rows(found))
    return (
        f"## {title}\n\n{ABOUT[title]}\n\nOn {dt.datetime.now(dt.UTC).date()}:\n\n    {command}\n\n"
        f"| test | containerd | what was done | lost | left over |\n|---|---|---|---:|---:|\n{rows}\n"
    )


def _rows(found: list[Mapping[str, object]]) -> Iterator[str]:
    sums: dict[tuple[str, str], dict[str, int]] = defaultdict(lambda: defaultdict(int))
    for entry in found:
        figures = entry["figures"]
        assert isinstance(figures, dict)
        for name, count in figures.items():
            sums[str(entry["group"]), str(entry["generation"])][name] += int(count)
    for (group, generation), figures in sums.items():
        lost, left = figures.pop("lost"), figures.pop("left_over")
        done = ", ".join(f"{count} {name.replace('_', ' ')}" for name, count in figures.items())
        yield f"| {group} | {generation} | {done} | {lost} | {left} |"


if __name__ == "__main__":
    sys.exit(main())

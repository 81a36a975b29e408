"""Run the tests of reliability with their full counts, and write the results to docs/reliability.md."""

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

    `apart` is for long-running groups: each generation runs separately, and finished ones are not run again
    after an interrupt.
    """

    file: str
    runs: int
    apart: bool = False


GROUPS = {
    "Garbage collection": Group("integration/test_collector.py", RUNS),
    "Decisions of the garbage collector": Group("integration/test_gc_graph.py", 500, apart=True),
    "Prune": Group("integration/test_prune.py", 500, apart=True),
    "Killed processes": Group("integration/test_death.py", RUNS // 2),
    "Killed loads": Group("integration/test_load_killed.py", 30, apart=True),
    "Concurrent clients": Group("integration/test_neighbours.py", RUNS // 10),
    "Signals": Group("integration/test_signals.py", 1000 // len(peers.GENERATIONS), apart=True),
    "Closing clients": Group("integration/test_lifecycle.py", 100, apart=True),
}
HEAD = """\
# Reliability

Written by `scripts/reliability`; do not edit it. The tests ran on containerd {versions},
each in its own directory, with random seed {seed}. "lost" counts blobs that should have been stored, because
the operation succeeded or a lease held them, but were missing or different. "left over" counts blobs,
snapshots, ingests and leases that nothing refers to after every image was deleted. If either is not 0, the
test fails and no page is written. Each row is a test; the command above the table repeats it.
"""
ABOUT = {
    "Garbage collection": """\
Two threads pull, ensure, save and load images (`ctr images import` of our archive) during constant garbage
collection: other leases and images are deleted with `--sync`, the daemon collects after every change, and
"with prune" `ctr content prune references` runs as well. Each blob is read back and hashed just before the
lease ends; without prune each image is hashed again afterwards. The other rows inject one fault each during
a pull, an ensure and a save.""",
    "Decisions of the garbage collector": """\
What `rm`, `prune` and `why` predict, compared with the collector of each containerd: random references in
namespaces of their own, with valid and invalid labels of every kind (references, back references, conditions
and roots), leases, also flat and expired ones, expired images, unfinished writes, containers, snapshots and
references that lead nowhere. Images, leases and writes are deleted; the collector removes exactly the
objects that were predicted, and each object that stays has a chain of references. "lost" counts objects that
were predicted to stay, "left over" those that were predicted to go.""",
    "Prune": """\
Random images of common layers in namespaces that share blobs, with names by digest, pins, expiries,
containers, leases and unfinished writes; each namespace is pruned by random policies. What the dry run lists
is what is gone from containerd's own files, and du of the folders shrinks by as many bytes as it says, within
a block per blob. "lost" counts objects that were predicted to stay, "left over" those that were predicted to
go.""",
    "Killed processes": """\
SIGKILL, SIGTERM, SIGINT and SIGHUP at random points of pull, pull --all-platforms, ensure, save to a file
and to a pipe, diagnose, images and content. After each, every blob is hashed, images are unchanged or
complete, there is no partial file (after SIGKILL one that the next run removes), the exit code is the
documented one, there is no lease without an expiry (and none at all, except after SIGKILL and for an
interrupted pull or ensure, which the next run resumes), and the next run succeeds.""",
    "Killed loads": """\
SIGKILL at random points of `load`: for a file, after a random line of its progress; for a pipe, after a
random number of bytes. The archive has two images, one of which replaces an older release with a common
layer. After each kill, every blob is hashed, recorded images are complete, and what was there before still
is. Then either the lease is deleted, and nothing else than before is left, or the next load comes first;
both end as a load that was not killed.""",
    "Concurrent clients": """\
Another client pulls the same image, or one that shares layers, during our pull, and the other way round: no
blob is downloaded twice, and content, labels and snapshots are those of a pull without other clients.""",
    "Signals": """\
SIGTERM, SIGINT and SIGHUP at random points of a pull with unpacking, a save to a file, an ensure and a
push. Each time the command ends within 5 s with the documented exit code, without a crash (SIGSEGV,
SIGABRT) or a traceback, and images in the store, tags in the registry and archives are complete. A process
that has not ended by then prints its stacks and fails the test.""",
    "Closing clients": """\
The library in a process of its own: `close()` in another thread, an asyncio timeout, and a layer that is
missing from the registry, at random points of a pull, a save, a verify and of lists. Each call ends within
5 s with the right error, every later call is rejected, and the process does not crash. The other tests of
the file test one point each.""",
}


TAIL = """\
## Images that are expensive to process

A few kilobytes of documents can describe millions of paths through an image: nested indexes that list each
other's children, or one manifest listed for thousands of platforms. Every command reads each document a
fixed number of times, however often it is listed; pull fetches and labels it once. `tests/test_linear.py`
counts documents read, bytes parsed, labels set, requests to the store and to the registry, and platforms
compared, for pull, ensure, save, push, copy, verify and diagnose; `integration/test_expensive.py` runs them
on a real containerd.

## World-writable directories

`save -o` opens each directory of the path, and creates and renames files relative to the open directory. In
a world-writable directory it does not follow links, write to pipes or replace files of other users (exit
1). An archive that it replaces keeps mode, owner and group (`tests/archive/test_output.py`;
[differences](differences.md), S9, S10).

## Invalid responses of containerd

A list of images that does not fit in containerd's message limit of 16 MiB (any client can add labels) is
requested in parts; `ensure` and `save` request only the names that they need. Lists of content, snapshots
and images are limited to 256 MiB, and documents to their maximum size. Times that Python cannot represent
are left unset; an invalid digest or a negative size is an error of the daemon, exit 1
(`tests/containerd/test_limits.py`, `integration/test_expensive.py`). Error messages are limited: of many
platforms a few are named and the others counted, and no message or hint is longer than 4,000 characters
(`tests/test_errors.py`).
"""


def main() -> int:
    """Run everything; if a test fails, return pytest's exit code and write nothing."""
    parser = argparse.ArgumentParser(prog="scripts/reliability", description=__doc__)
    parser.add_argument("--runs", type=int, default=RUNS, help="runs of each group (default: %(default)s)")
    parser.add_argument(
        "--signals", type=int, metavar="N", help="run the signals only, N of them over all generations"
    )
    parser.add_argument(
        "--only", choices=GROUPS, action="append", help="run this group only; the others stay on the page"
    )
    parser.add_argument("--seed", type=int, default=20240, help="random seed (default: %(default)s)")
    arguments = parser.parse_args()
    counts = _counts(arguments)
    with ThreadPoolExecutor(2) as pool:  # each test has its own containerds; parallel runs add load
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
    """Return the groups to run, and how often on each generation."""
    if arguments.signals is not None:
        return {"Signals": max(arguments.signals // len(peers.GENERATIONS), 1)}
    chosen = arguments.only or list(GROUPS)
    return {title: max(GROUPS[title].runs * arguments.runs // RUNS, 2) for title in chosen}


def _sections_of(page: str) -> dict[str, str]:
    """Split an existing page into its sections, by title."""
    _, *parts = re.split(r"^## ", page, flags=re.MULTILINE)
    return {part.partition("\n")[0]: f"## {part.rstrip()}\n" for part in parts}


def _head(seed: int) -> str:
    versions = [peers.containerd(generation).version for generation in peers.GENERATIONS]
    listed = f"{', '.join(versions[:-1])} and {versions[-1]}"
    return HEAD.format(versions=listed, seed=seed)


def _done(group: Group, runs: int, seed: int) -> dict[str, Path]:
    """Return the files that store each generation's figures for this commit until the page is written."""
    commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout
    folder = cache.cache_dir() / "reliability"
    folder.mkdir(parents=True, exist_ok=True)
    name = f"{Path(group.file).stem}-{runs}-{seed}-{commit[:12]}"
    return {one: folder / f"{name}-{one}.jsonl" for one in peers.GENERATIONS} if group.apart else {}


def _run(group: Group, runs: int, seed: int) -> list[Mapping[str, object]] | int:
    """Run one group; return the figures that its tests have recorded, or the exit code of a failure."""
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
        f"| test | containerd | operations | lost | left over |\n|---|---|---|---:|---:|\n{rows}\n"
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

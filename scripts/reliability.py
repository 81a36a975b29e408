"""Run the tests of reliability with their full counts, and write what came of them to docs/reliability.md."""

from __future__ import annotations

import argparse
import datetime as dt
import json
import os
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from integration.rig import peers

RUNS = 200
PAGE = Path("docs/reliability.md")
# A file of tests, and what part of the number of runs it makes.
GROUPS = {
    "Garbage collection": ("integration/test_collector.py", 1),
    "Our own death": ("integration/test_death.py", 2),
    "Neighbours": ("integration/test_neighbours.py", 10),
}
HEAD = """\
# Reliability

Written by `scripts/reliability` on {date}; do not edit it. Real containerd {versions},
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
an invalid digest or a negative size is an error of the daemon, exit 1 (`tests/daemon/test_limits.py`,
`integration/test_expensive.py`). What errors print has an end: of many platforms a few are named and the
others counted, and no message or hint is longer than 4,000 characters (`tests/test_errors.py`).
"""


def main() -> int:
    """Run everything; the exit code is pytest's when a test fails, and nothing is written then."""
    parser = argparse.ArgumentParser(prog="scripts/reliability", description=__doc__)
    parser.add_argument("--runs", type=int, default=RUNS, help="runs of each group (default: %(default)s)")
    parser.add_argument(
        "--seed", type=int, default=20240, help="of all that is random (default: %(default)s)"
    )
    arguments = parser.parse_args()
    parts = [_head(arguments.seed)]
    with ThreadPoolExecutor(2) as pool:  # each has containerds of its own, and company makes it harder
        counts = {title: max(arguments.runs // divisor, 2) for title, (_, divisor) in GROUPS.items()}
        tasks = {
            title: pool.submit(_run, file, counts[title], arguments.seed)
            for title, (file, _) in GROUPS.items()
        }
    for title, (file, _) in GROUPS.items():
        found = tasks[title].result()
        if isinstance(found, int):
            return found
        parts.append(_section(title, file, counts[title], found))
    page = "\n".join([*parts, TAIL])
    if arguments.runs == RUNS:
        PAGE.write_text(page)
        print(f"wrote {PAGE}")
    else:
        print(page)
    return 0


def _head(seed: int) -> str:
    versions = [peers.containerd(generation).version for generation in peers.GENERATIONS]
    listed = f"{', '.join(versions[:-1])} and {versions[-1]}"
    return HEAD.format(date=dt.datetime.now(dt.UTC).date(), versions=listed, seed=seed)


def _run(file: str, runs: int, seed: int) -> list[Mapping[str, object]] | int:
    """Run one file of tests; gives the figures that they have recorded, or the exit code of a failure."""
    with tempfile.TemporaryDirectory(prefix="pyctrd-reliability-") as folder:
        place = Path(folder) / "figures"
        env = {
            **os.environ,
            "PYCTRD_FIGURES": str(place),
            "PYCTRD_RUNS": str(runs),
            "PYCTRD_SEED": str(seed),
            "CI": "true",
        }
        command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", file]
        done = subprocess.run(command, env=env, check=False, stdout=sys.stderr)
        if done.returncode:
            return done.returncode
        return [json.loads(line) for line in place.read_text().splitlines()]


def _section(title: str, file: str, runs: int, found: list[Mapping[str, object]]) -> str:
    command = f"PYCTRD_RUNS={runs} ./scripts/test integration -k {Path(file).stem}"
    rows = "\n".join(_rows(found))
    return (
        f"## {title}\n\n{ABOUT[title]}\n\n    {command}\n\n"
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

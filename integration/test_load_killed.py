"""`pyctrd load` is killed at random points of what it reads and of what it reports.

What was there is still there, what is left belongs to a lease that expires, and the next load leaves what an
undisturbed one leaves.
"""

from __future__ import annotations

import array
import fcntl
import random
import signal
import subprocess
import sys
import termios
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import pytest

from integration import figures
from integration.dying import EXPIRE, PROGRESS, Victim
from integration.killing import comes_true
from integration.pulls import assert_equal
from integration.rig.collector import bad_blobs, empty, unfinished
from integration.rig.daemons import Containerd
from integration.rig.store import State, collect_garbage, snapshot_of
from integration.shell import Shell
from integration.test_collector import SHORT_LIVED
from pyctrd import Client
from tests.support import images
from tests.support.images import Graph
from tests.support.loading import archive_of, entry, layout
from tests.support.tars import tar_of

NAME, OTHER = "registry.example/team/app:latest", "registry.example/team/other:latest"
LOAD = ("load", *PROGRESS)
SIZE = 2 << 20


def release(seed: int) -> Graph:
    """A release of NAME: all have the same first layer."""
    layers = [images.random_layer(SIZE, seed=one) for one in (1, 10 * seed, 10 * seed + 1)]
    return images.manifest(images.config(layers), layers)


OLD, NEW = release(1), release(2)
SECOND = images.manifest(images.config(made := [images.random_layer(SIZE, seed=99)]), made)
ARCHIVE = tar_of(layout(entry(NEW, NAME), entry(SECOND, OTHER), blobs={**NEW.blobs, **SECOND.blobs}))


class Place:
    """A namespace that has the old release, and an archive with the new one and a second image."""

    def __init__(self, daemon: Containerd, namespace: str, folder: Path) -> None:
        folder.mkdir()
        self.daemon = daemon
        self.shell = Shell(daemon, namespace, folder)
        self.path = folder / "new.tar"
        self.path.write_bytes(ARCHIVE)
        old = folder / "old.tar"
        old.write_bytes(archive_of(OLD, NAME))
        with Client(str(daemon.address), namespace) as client:
            client.images.load(old)
        self.before = self.state()

    def load(self) -> int:
        """Load the archive; return the number of lines of its progress."""
        return len(self.shell(*LOAD, "-i", str(self.path)).stderr.splitlines())

    def state(self) -> State:
        return snapshot_of(self.daemon, self.shell.namespace)

    def settled(self) -> State:
        """Delete the leases, as a collection does after they have expired, and collect."""
        for lease in self.state()["leases"]:
            self.daemon.ctr("leases", "delete", lease, namespace=self.shell.namespace)
        for _ in range(2):  # snapshots are removed by a later collection than the content that refers to them
            collect_garbage(self.daemon, self.shell.namespace)
        return self.state()


@dataclass
class Expected:
    """What an undisturbed load leaves, and how many lines of progress it prints."""

    state: State
    lines: int


@pytest.fixture
def expected(isolated_containerd: Containerd, namespace: str, tmp_path: Path) -> Iterator[Expected]:
    place = Place(isolated_containerd, f"{namespace}-calm", tmp_path / "calm")
    yield Expected(lines=place.load(), state=place.settled())
    assert empty(isolated_containerd, place.shell.namespace) == []


def killed_while_reading_a_file(place: Place, chance: random.Random, lines: int) -> tuple[int, str]:
    """Kill a load of a file at a point of its progress, or shortly after; return the exit code and words."""
    line, seconds = chance.randrange(1, lines + 1), chance.uniform(0, 0.02)
    victim = Victim(place.shell, [*LOAD, "-i", str(place.path)])
    victim.live_until(line, seconds)
    code, words = victim.end(signal.SIGKILL)
    return code, f"a file, after line {line} of {lines} and {seconds:.3f} s\n{words}"


def killed_while_reading_a_pipe(place: Place, chance: random.Random, lines: int) -> tuple[int, str]:
    """Kill a load that has read so much of a pipe, or all of it and is at a point of what follows."""
    size = min(int(chance.uniform(0, 1.3) * len(ARCHIVE)), len(ARCHIVE))
    line, seconds = chance.randrange(1, lines + 1), chance.uniform(0, 0.02)
    victim = Victim(place.shell, LOAD, stdin=subprocess.PIPE)
    pipe = victim.process.stdin
    assert pipe is not None
    with pipe:
        pipe.write(ARCHIVE[:size])
        pipe.flush()
        if size < len(ARCHIVE):
            assert comes_true(lambda: unread(pipe) == 0)
            victim.live_until(0, seconds)
            return story_of_pipe(victim, size)
    victim.live_until(line, seconds)
    return story_of_pipe(victim, size)


def story_of_pipe(victim: Victim, size: int) -> tuple[int, str]:
    code, words = victim.end(signal.SIGKILL)
    return code, f"a pipe, of which {size} of {len(ARCHIVE)} bytes were written\n{words}"


def unread(pipe: IO[bytes]) -> int:
    """How many bytes of a pipe have not been read."""
    count = array.array("i", [0])
    fcntl.ioctl(pipe, termios.FIONREAD, count)
    return count[0]


def check_nothing_is_lost(place: Place) -> State:
    """Recorded images are complete, and everything else belongs to a lease that expires."""
    state = place.state()
    assert set(state["images"]) <= {NAME, OTHER}
    recorded = {name: image["target"]["digest"] for name, image in state["images"].items()}
    assert recorded[NAME] in (OLD.digest, NEW.digest)
    for graph in (OLD, NEW, SECOND):
        if graph.digest in recorded.values():
            assert set(graph.blobs) <= set(state["content"])
            assert bad_blobs(place.daemon, list(graph.blobs)) == []
    if recorded[NAME] == OLD.digest:
        assert place.before["content"].items() <= state["content"].items()
        for name, keys in place.before["snapshots"].items():
            assert keys.items() <= state["snapshots"][name].items()
    assert all(EXPIRE in lease["labels"] for lease in state["leases"].values())
    # After a complete load, a collection may remove the old release meanwhile.
    assert bad_blobs(place.daemon) == []
    return state


@pytest.mark.every_generation
@pytest.mark.timeout(1800)
def test_killed_at_random_points(
    isolated_containerd: Containerd, generation: str, namespace: str, tmp_path: Path, expected: Expected
) -> None:
    """Of four loads, two read a file, and two a pipe.

    After one of each, the next load comes first; after the other, the lease goes first, so that nothing but
    what was there before is left.
    """
    chance = random.Random(f"{figures.seed()}-{generation}")
    count, ended = figures.runs(4), 0
    for turn in range(count):
        place = Place(isolated_containerd, f"{namespace}-{turn}", tmp_path / str(turn))
        kill = killed_while_reading_a_pipe if turn % 2 else killed_while_reading_a_file
        code, story = kill(place, chance, expected.lines)
        ended += code == 0
        try:
            assert code in (0, 128 + signal.SIGKILL)
            state = check_nothing_is_lost(place)
            if turn // 2 % 2:
                left = place.settled()
                assert unfinished(left) == []
                if state["images"] == place.before["images"]:
                    assert_equal(left, place.before)
            place.load()
            assert_equal(place.settled(), expected.state)
            assert empty(place.daemon, place.shell.namespace) == []
        except AssertionError as error:
            raise AssertionError(f"turn {turn}: exit {code}: {story}\n{error}") from error
    figures.record(
        "load killed by SIGKILL",
        generation,
        runs=count,
        kills=count - ended,
        ended_before_the_signal=ended,
        lost=0,
        left_over=0,
    )


def test_a_collection_removes_what_is_left_when_the_lease_expires(
    isolated_containerd: Containerd, namespace: str, tmp_path: Path
) -> None:
    """The command line with leases that expire after a second."""
    place = Place(isolated_containerd, namespace, tmp_path / "place")
    process = subprocess.Popen(
        [sys.executable, "-c", SHORT_LIVED, "load", "--progress", "none"],
        env=place.shell.env,
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    with process:
        stdin = process.stdin
        assert stdin is not None
        stdin.write(ARCHIVE[: len(ARCHIVE) // 2])
        stdin.flush()
        assert comes_true(lambda: unread(stdin) == 0)
        assert place.state()["leases"]
        process.kill()

    def expired() -> bool:
        collect_garbage(place.daemon, namespace)
        return not place.state()["leases"]

    assert comes_true(expired)
    assert_equal(place.state(), place.before)
    place.load()

"""Signals at random moments: the documented exit code within five seconds, no crash, no partial files.

docs/reliability.md has the figures of the full run (`scripts/reliability --signals 1000`).
"""

from __future__ import annotations

import random
import signal
import subprocess
import time
import uuid
import zlib
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from integration import figures
from integration.dying import EXPIRE, died_before_us
from integration.killing import client
from integration.rig.collector import bad_blobs, empty
from integration.rig.daemons import Containerd, Registry
from integration.rig.process import limited
from integration.rig.publish import push
from integration.rig.store import collect_garbage, snapshot_of
from integration.shell import Shell, archived, layers_of
from integration.uploads import stored
from tests.support import images
from tests.support.images import Graph

HERE, FOREIGN = "linux/amd64", "linux/s390x"
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
SECONDS = 5.0
"""The time limit for the end of a command after its signal."""
LAYER_BYTES = 1 << 20


@dataclass(frozen=True)
class Command:
    """Arguments before the image's name, and the command's result."""

    arguments: tuple[str, ...]
    pulls: bool = False
    pushes: bool = False
    resumable: bool = False
    """Its lease stays until it expires, so that the next run can resume."""
    saves_to: str = ""


COMMANDS: Mapping[str, Command] = {
    "pull": Command(("pull",), pulls=True, resumable=True),
    "save": Command(("save", "--platform", FOREIGN, "-o", "image.tar"), saves_to="image.tar"),
    "ensure": Command(("ensure", "--platform", FOREIGN), resumable=True),
    "push": Command(("push", "--platform", HERE), pushes=True),
}


def image() -> Graph:
    """Two platforms, whose layers take some time to be fetched, unpacked, saved and pushed."""
    children = []
    for on in (HERE, FOREIGN):
        layers = [
            images.random_layer(LAYER_BYTES, zlib.crc32(f"{on}{number}".encode())) for number in range(3)
        ]
        children.append(images.manifest(images.config(layers, on), layers, on=on))
    return images.index(children)


class Place:
    """A containerd whose namespaces share nothing, and an image in a registry."""

    def __init__(self, daemon: Containerd, registry: Registry) -> None:
        self.daemon = daemon
        self.registry = registry
        self.graph = image()
        self.name = push(self.graph, registry, f"signals/{uuid.uuid4().hex[:12]}")
        self.local = set(self.graph.blobs) - layers_of(self.graph, FOREIGN)

    def begin(self, command: Command, folder: Path) -> Run:
        folder.mkdir()
        shell = Shell(self.daemon, f"signals-{uuid.uuid4().hex[:12]}", folder)
        if not command.pulls:
            with client(shell) as opened:
                opened.images.pull(self.name, unpack=False)
        return Run(self, command, shell)


class Run:
    """A running command line."""

    def __init__(self, place: Place, command: Command, shell: Shell) -> None:
        self.place = place
        self.command = command
        self.shell = shell
        self.repository = f"signals/{uuid.uuid4().hex[:12]}"
        target = [f"{place.registry.host}/{self.repository}:new"] * command.pushes
        self.process = shell.start(
            *command.arguments, place.name, *target, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
        )

    def hit(self, number: signal.Signals, after: float) -> tuple[int, float, str]:
        """Send a signal after the given seconds; return the exit code, the time it took, and the output.

        The exit code is that of a shell: 128 + N if signal N has ended the process, 139 for a crash.
        """
        try:
            self.process.wait(after)
        except subprocess.TimeoutExpired:
            self.process.send_signal(number)
        sent = time.monotonic()
        limited(self.process, 4 * SECONDS)
        _, words = self.process.communicate()
        code = self.process.returncode
        return 128 - code if code < 0 else code, time.monotonic() - sent, words.decode(errors="replace")

    def check(self, code: int) -> None:
        """There is no partial content in the store, the registry or the directory."""
        state = snapshot_of(self.place.daemon, self.shell.namespace)
        present = set(state["content"])
        if self.place.name in state["images"]:
            assert self.place.local <= present, "a record without all of its content"
        else:
            assert self.command.pulls
            assert code
        leases = state["leases"].values()
        assert all(EXPIRE in lease["labels"] for lease in leases)
        assert self.command.resumable or not leases, "a lease was left behind"
        names = [path.name for path in self.shell.folder.iterdir()]
        assert names in ([], [self.command.saves_to])
        if names:
            assert archived(self.shell.folder / names[0]) >= layers_of(self.place.graph, FOREIGN)
        else:
            assert code or not self.command.saves_to
        if self.command.pushes and stored(self.place.registry, self.repository).tags:
            assert layers_of(self.place.graph, HERE) <= stored(self.place.registry, self.repository).blobs
        assert bad_blobs(self.place.daemon, sorted(present)) == []

    def clean(self) -> None:
        """Delete leases that have not expired yet, and collect what they protected."""
        for lease in snapshot_of(self.place.daemon, self.shell.namespace)["leases"]:
            self.place.daemon.ctr("leases", "delete", lease, namespace=self.shell.namespace)
        collect_garbage(self.place.daemon, self.shell.namespace)
        assert empty(self.place.daemon, self.shell.namespace) == []
        for path in self.shell.folder.iterdir():
            path.unlink()


@pytest.fixture(scope="module")
def place(isolated_containerd: Containerd, session_registry: Registry) -> Place:
    session_registry.clear_faults()
    return Place(isolated_containerd, session_registry)


@pytest.mark.every_generation
@pytest.mark.timeout(7200)
def test_signals_at_random_moments(place: Place, generation: str, tmp_path: Path) -> None:
    seed = f"{figures.seed()}-{generation}"
    chance = random.Random(seed)
    count = figures.runs(4)
    lengths: dict[str, float] = {}
    codes = Counter[str]()
    slowest = 0.0
    for turn in range(count):
        name = list(COMMANDS)[turn % len(COMMANDS)]
        number = SIGNALS[turn % len(SIGNALS)]
        command = COMMANDS[name]
        if name not in lengths:
            lengths[name] = undisturbed(place, command, tmp_path / name)
        after = chance.uniform(0, 1.1 * lengths[name])
        run = place.begin(command, tmp_path / str(turn))
        code, seconds, words = run.hit(number, after)
        story = f"seed {seed}, turn {turn}: {name}, {number.name} after {after:.3f} s: exit {code}, {words}"
        assert seconds < SECONDS, f"{story}: it took {seconds:.1f} s"
        if not died_before_us(number, code, words):
            assert code in (0, 128 + number), story
            assert "Traceback" not in words, story
        try:
            run.check(code)
        except AssertionError as error:
            raise AssertionError(f"{story}\n{error}") from error
        run.clean()
        codes["ended_before_the_signal" if code == 0 else number.name] += 1
        slowest = max(slowest, seconds if code else 0.0)
    figures.record(
        "signals",
        generation,
        runs=count,
        **dict(sorted(codes.items())),
        ms_for_the_slowest_end=round(slowest * 1000),
        crashes=0,
        lost=0,
        left_over=0,
    )


def undisturbed(place: Place, command: Command, folder: Path) -> float:
    """How long a command takes without a signal."""
    run = place.begin(command, folder)
    started = time.monotonic()
    words = run.process.communicate()[1]
    assert run.process.returncode == 0, words
    taken = time.monotonic() - started
    run.clean()
    return taken

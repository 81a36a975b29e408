"""Commands that are killed: the point in time, and checks of what is left and of the next run."""

from __future__ import annotations

import signal
import subprocess
import threading
import uuid
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from integration.rig.collector import bad_blobs, empty
from integration.rig.daemons import Containerd, Registry
from integration.rig.process import limited
from integration.rig.publish import push
from integration.rig.store import snapshot_of
from integration.shell import Shell, archived, layers_of
from tests.support import shapes

FOREIGN = "linux/s390x"
HERE = "linux/amd64"
EXPIRE = "containerd.io/gc.expire"
PROGRESS = ("--progress", "json")
SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


@dataclass(frozen=True)
class Command:
    """A command line, to which the image's name or a target is added, and its results."""

    arguments: Sequence[str]
    on_image: bool = True
    pulls: bool = False
    sends: bool = False
    resumable: bool = False
    """After an interrupt its lease stays until it expires, so that the next run can resume."""
    saves_to: str = ""
    fetches: Sequence[str] = ()
    """Platforms whose layers are stored afterwards."""


PULL = Command(("pull", *PROGRESS), pulls=True, resumable=True, fetches=(HERE,))


class Scene:
    """A namespace and a directory in which one command is killed."""

    def __init__(self, daemon: Containerd, registry: Registry, folder: Path) -> None:
        self.daemon = daemon
        self.graph = shapes.five_platform(3, salt=uuid.uuid4().hex)
        self.name = push(self.graph, registry, f"death/{uuid.uuid4().hex[:12]}")
        self.target_repository = f"death/{uuid.uuid4().hex[:12]}"
        self.target = f"{registry.host}/{self.target_repository}:new"
        folder.mkdir()
        self.shell = Shell(daemon, f"death-{uuid.uuid4().hex[:12]}", folder)

    def words(self, command: Command) -> list[str]:
        names = [self.name] * command.on_image + [self.target] * command.sends
        return [*command.arguments, *names]

    def prepare(self, command: Command) -> None:
        if not command.pulls:
            self.shell("pull", self.name)

    def wanted(self, command: Command) -> set[str]:
        """The blobs present after the command: every manifest and config, and the selected layers."""
        layers = {on: layers_of(self.graph, on) for on in shapes.PAUSE_PLATFORMS}
        unwanted = set().union(*(found for on, found in layers.items() if on not in command.fetches))
        return set(self.graph.blobs) - unwanted

    def check_after(self, command: Command, number: int, code: int) -> None:
        """Check the store and the directory right after the process was killed."""
        state = snapshot_of(self.daemon, self.shell.namespace)
        assert set(state["images"]) <= {self.name}
        if not command.pulls or code == 0:
            assert self.name in state["images"]
        if self.name in state["images"]:
            assert state["images"][self.name]["target"]["digest"] == self.graph.digest
            here = command if command.pulls else PULL
            assert self.wanted(here) <= set(state["content"]), "a record, but not all of its content"
        if number == signal.SIGKILL or (command.resumable and code):
            assert all(EXPIRE in lease["labels"] for lease in state["leases"].values())
        else:
            assert state["leases"] == {}
        if number != signal.SIGKILL:
            assert [place.name for place in self.shell.folder.iterdir()] in ([], [command.saves_to])
        assert bad_blobs(self.daemon, list(state["content"])) == []
        self._check_archive(command, must_exist=code == 0)

    def _check_archive(self, command: Command, *, must_exist: bool) -> None:
        """The archive is complete or does not exist."""
        place = self.shell.folder / (command.saves_to or "none")
        if place.exists():
            assert layers_of(self.graph, FOREIGN) <= archived(place)
        else:
            assert not (must_exist and command.saves_to)

    def check_next_run(self, command: Command) -> None:
        """Run the same again: it succeeds, and nothing of the killed run blocks it or is left behind."""
        self.shell(*self.words(command))
        state = snapshot_of(self.daemon, self.shell.namespace)
        assert set(state["content"]) >= self.wanted(command)
        self._check_archive(command, must_exist=True)
        assert [place.name for place in self.shell.folder.iterdir()] in ([], [command.saves_to])
        for lease in state["leases"]:  # leases of interrupted runs, which would expire within a day
            self.daemon.ctr("leases", "delete", lease, namespace=self.shell.namespace)
        assert empty(self.daemon, self.shell.namespace) == []


class Victim:
    """A running pyctrd with observable progress; its archive on stdout is read and discarded."""

    def __init__(self, shell: Shell, words: Sequence[str], stdin: int = subprocess.DEVNULL) -> None:
        self.process = shell.start(*words, stdin=stdin, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        self._lines: list[bytes] = []
        self._more = threading.Condition()
        self._silent = False
        assert self.process.stdout is not None
        assert self.process.stderr is not None
        self._readers = [
            threading.Thread(target=_read_all, args=(self.process.stdout,), daemon=True),
            threading.Thread(target=self._read_lines, args=(self.process.stderr,), daemon=True),
        ]
        for reader in self._readers:
            reader.start()

    def _read_lines(self, stream: IO[bytes]) -> None:
        with stream:
            for line in stream:
                with self._more:
                    self._lines.append(line)
                    self._more.notify_all()
        with self._more:
            self._silent = True
            self._more.notify_all()

    def live_until(self, line: int, seconds: float) -> None:
        """Return after the given lines of progress and then seconds, or when the process ends."""
        with self._more:
            self._more.wait_for(lambda: self._silent or len(self._lines) >= line, 60)
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(seconds)

    def end(self, number: signal.Signals) -> tuple[int, str]:
        """Send the signal; return the exit code as a shell reports it, and stderr.

        A process that still runs after a minute fails the test and prints its stacks.
        """
        self.process.send_signal(number)
        limited(self.process, 60)
        code = self.process.wait()
        for reader in self._readers:
            reader.join(10)
        return (128 - code if code < 0 else code), b"".join(self._lines).decode()


def _read_all(stream: IO[bytes]) -> None:
    with stream:
        while stream.read(1 << 16):
            pass


def died_before_us(number: signal.Signals, code: int, words: str) -> bool:
    """Whether Ctrl-C came before Python ran the first line of pyctrd: Python itself then handles it."""
    at_start = number == signal.SIGINT and words.rstrip().endswith("KeyboardInterrupt")
    return at_start and code in (1, 130) and "cli/boundary.py" not in words

"""A stopped daemon (SIGSTOP): its socket accepts connections, and never responds.

One signal ends any command within five seconds; without a signal, the stall timeout ends it. Long calls of a
live daemon are tested in tests/containerd/test_calls.py.
"""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from integration.conftest import chosen, run_required
from integration.killing import ARM64, UNREACHABLE, big_for_two, client, comes_true
from integration.rig.daemons import ISOLATED_CONTENT, Containerd, Registry
from integration.rig.process import limited
from integration.rig.publish import push
from integration.rig.store import snapshot_of
from integration.shell import Shell
from integration.test_signals import SECONDS
from tests.support.loading import archive_of

PROGRESS = ("--progress", "json")
# A command, the step of its progress at which the daemon is stopped, and whether it needs an image.
COMMANDS = {
    "pull": (("pull", *PROGRESS), "downloading"),
    "pull, unpacking": (("pull", *PROGRESS), "unpacking"),
    "save": (("save", "-o", "image.tar", *PROGRESS), "writing"),
    "ensure": (("ensure", "--platform", ARM64, *PROGRESS), "downloading"),
    "push": (("push", *PROGRESS), "uploading"),
}


class Scene:
    """An image in a registry, and perhaps in a namespace; a daemon that can be stopped."""

    def __init__(self, daemon: Containerd, registry: Registry, namespace: str, repository: str, folder: Path):
        self.daemon = daemon
        self.shell = Shell(daemon, namespace, folder)
        self.name = push(big_for_two(repository), registry, repository)
        self.target = f"{registry.host}/{repository}/target:new"

    def start(self, name: str, *options: str) -> subprocess.Popen[bytes]:
        arguments, step = COMMANDS[name]
        if not name.startswith("pull"):
            with client(self.shell) as opened:
                opened.images.pull(self.name, unpack=False, platforms="all" if name == "push" else None)
        target = [self.target] * (name == "push")
        process = self.shell.start(*arguments, *options, self.name, *target, stderr=subprocess.PIPE)
        assert process.stderr is not None
        for line in process.stderr:
            if json.loads(line)["action"] == step:
                return process
        raise AssertionError(f"{name} never came to {step}")

    @contextmanager
    def frozen(self) -> Iterator[None]:
        os.kill(self.daemon.pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(self.daemon.pid, signal.SIGCONT)

    def check_afterwards(self) -> None:
        """There is no partial content, and the daemon serves the next command."""
        assert list(self.shell.folder.iterdir()) == []
        self.shell("pull", self.name)
        leases = snapshot_of(self.daemon, self.shell.namespace)["leases"].values()
        assert all("containerd.io/gc.expire" in lease["labels"] for lease in leases)


@pytest.fixture(scope="module")
def newest(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Containerd]:
    """One generation: a stopped process is the same in all."""
    with run_required(
        lambda: Containerd(chosen()[-1], tmp_path_factory.mktemp("newest"), config=ISOLATED_CONTENT)
    ) as daemon:
        yield daemon


@pytest.fixture
def scene(newest: Containerd, registry: Registry, namespace: str, repository: str, tmp_path: Path) -> Scene:
    return Scene(newest, registry, namespace, repository, tmp_path)


@pytest.mark.parametrize(
    ("name", "number"), list(zip(COMMANDS, itertools.cycle([signal.SIGTERM, signal.SIGINT]), strict=False))
)
def test_one_signal_ends_a_command(scene: Scene, name: str, number: signal.Signals) -> None:
    with scene.start(name) as process, scene.frozen():
        process.send_signal(number)
        sent = time.monotonic()
        code = limited(process, 4 * SECONDS).wait()
        took = time.monotonic() - sent
        words = process.communicate()[1].decode()
    assert code == 128 + number, words
    assert took < SECONDS, words
    assert "Traceback" not in words
    scene.check_afterwards()


@pytest.mark.parametrize("name", COMMANDS)
def test_a_silent_daemon_is_an_error(scene: Scene, name: str) -> None:
    """After the stall timeout, and some seconds for cleaning up."""
    with scene.start(name, "--stall-timeout", "2") as process, scene.frozen():
        words = process.communicate()[1].decode()
    assert process.returncode == UNREACHABLE, words
    said = [line for line in words.splitlines() if not line.startswith("{")]
    assert "accepts connections, but has not answered" in said[0]
    assert said[1].startswith("hint: it may be stopped (SIGSTOP)")
    scene.check_afterwards()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda one: one.name)
def test_one_signal_ends_a_load_in_the_middle_of_a_layer(scene: Scene, number: signal.Signals) -> None:
    data = archive_of(big_for_two(scene.shell.namespace), "app:v1")
    with scene.shell.start("load", stdin=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdin
        process.stdin.write(data[: 3 << 20])
        process.stdin.flush()
        assert comes_true(lambda: bool(snapshot_of(scene.daemon, scene.shell.namespace)["ingests"]))
        with scene.frozen():
            process.send_signal(number)
            sent = time.monotonic()
            assert limited(process, 4 * SECONDS).wait() == 128 + number
            assert time.monotonic() - sent < SECONDS
    scene.check_afterwards()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda one: one.name)
@pytest.mark.parametrize(
    "arguments",
    [("images",), ("content", "ls"), ("events",), ("inventory",), ("diagnose", "alpine"), ("verify",)],
    ids=lambda arguments: arguments[0],
)
def test_a_signal_ends_a_command_on_a_daemon_that_was_already_stopped(
    scene: Scene, arguments: tuple[str, ...], number: signal.Signals
) -> None:
    with scene.frozen():
        process = scene.shell.start(*arguments, stderr=subprocess.PIPE)
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(1)
        process.send_signal(number)
        sent = time.monotonic()
        assert limited(process, 4 * SECONDS).wait() == 128 + number
        assert time.monotonic() - sent < SECONDS
        process.communicate()
    scene.shell("images")


def test_a_command_on_a_stopped_daemon_times_out(scene: Scene) -> None:
    with scene.frozen():
        done = scene.shell("images", code=UNREACHABLE)
    assert "no answer within 15 seconds" in done.stderr.decode()
    scene.shell("images")

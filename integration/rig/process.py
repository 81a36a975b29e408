"""Start processes of the rig, wait for them, and end them."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from integration.rig.cache import PeerUnavailable

STOP_SECONDS = 10.0
# Less than pytest's timeout, which cannot interrupt a test that waits for a process.
LIMIT_SECONDS = 110.0
SHOWING_STACKS = {"PYTHONFAULTHANDLER": "1"}
"""Environment in which Python prints the stacks of all threads on SIGABRT or a crash."""


class Process:
    """One daemon in a process group of its own, its output in a log file."""

    def __init__(self, command: Sequence[str | Path], log: Path, env: dict[str, str] | None = None) -> None:
        self.log = log
        self._name = Path(command[0]).name
        with log.open("ab") as sink:
            self._child = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=sink, stderr=sink, env=env, start_new_session=True
            )

    @property
    def pid(self) -> int:
        """The process id, also that of its group."""
        return self._child.pid

    @property
    def running(self) -> bool:
        """Whether it is still running."""
        return self._child.poll() is None

    def wait_until(self, ready: Callable[[], bool], seconds: float) -> None:
        """Return when `ready()`; raises PeerUnavailable with the log when it ended or took longer."""
        wait_until(ready, seconds, lambda: self.running, lambda: f"{self._name}: {self.log_tail()}")

    def log_tail(self, size: int = 4000) -> str:
        """The last `size` characters of its output."""
        return self.log.read_text(errors="replace")[-size:]

    def stop(self) -> None:
        """Send SIGTERM, and then SIGKILL to the rest of the group."""
        if self.running:
            self._child.terminate()
            with suppress(subprocess.TimeoutExpired):
                self._child.wait(STOP_SECONDS)
        self.kill()

    def kill(self) -> None:
        """Send SIGKILL to the whole group, like a crash or the OOM killer."""
        with suppress(ProcessLookupError):
            os.killpg(self._child.pid, signal.SIGKILL)
        self._child.wait()


def limited(process: subprocess.Popen[bytes], seconds: float = LIMIT_SECONDS) -> subprocess.Popen[bytes]:
    """End a process that takes longer, so that no test waits for it forever.

    It is ended by SIGABRT: with SHOWING_STACKS it prints its stacks on stderr, and its exit code is -6.
    """

    def watch() -> None:
        for number, patience in ((signal.SIGABRT, seconds), (signal.SIGKILL, STOP_SECONDS)):
            with suppress(subprocess.TimeoutExpired):
                process.wait(patience)
                return
            process.send_signal(number)
            process.send_signal(signal.SIGCONT)

    threading.Thread(target=watch, name="limit", daemon=True).start()
    return process


def wait_until(
    ready: Callable[[], bool], seconds: float, alive: Callable[[], bool], story: Callable[[], str]
) -> None:
    """Return when `ready()`; raises PeerUnavailable with the `story` if not `alive()` or after `seconds`."""
    deadline = time.monotonic() + seconds
    while not ready():
        if not alive():
            raise PeerUnavailable(f"ended at its start: {story()}")
        if time.monotonic() > deadline:
            raise PeerUnavailable(f"not ready after {seconds:g} s: {story()}")
        time.sleep(0.01)


def remove_folder(folder: Path) -> None:
    """Remove a folder, after unmounting everything below it and ending shims that still use it."""
    for place in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            if f"{folder}/".encode() in place.read_bytes() and int(place.parent.name) != os.getpid():
                os.kill(int(place.parent.name), signal.SIGKILL)
    unmount_below(folder)
    shutil.rmtree(folder, ignore_errors=True)


def unmount_below(folder: Path) -> None:
    """Unmount everything below the directory, deepest first, so that it can be removed."""
    mounts = [line.split()[1] for line in Path("/proc/mounts").read_text().splitlines()]
    for place in sorted((one for one in mounts if one.startswith(f"{folder}/")), reverse=True):
        subprocess.run(["umount", "-l", place], capture_output=True, check=False)


@contextmanager
def ending(process: Process) -> Iterator[Process]:
    """End the process if the block raises, for example if it does not become ready."""
    try:
        yield process
    except BaseException:
        process.kill()
        raise


def unix_answers(path: Path) -> bool:
    """Whether the unix socket accepts connections."""
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(str(path))
        except OSError:
            return False
    return True


def tcp_answers(port: int) -> bool:
    """Whether 127.0.0.1:port accepts connections."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def free_port() -> int:
    """Return an unused TCP port of 127.0.0.1."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])

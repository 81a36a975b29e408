"""The ssh process behind a tunnel: how it is started, and that it ends with the call, whatever happens.

A script in place of ssh; integration/test_sync.py uses OpenSSH.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pyctrd.containerd import ssh
from pyctrd.containerd.endpoint import Endpoint
from pyctrd.containerd.ssh import forwarded
from pyctrd.errors import Cancelled, DaemonUnreachable

ENDPOINT = Endpoint(host="edge1", user="root", port="2222", path="/run/c.sock", namespace="default")
SECONDS = 20.0
# Notes its arguments and its process id, and becomes ready as ssh does: its control socket appears.
READY = """\
echo $$ > "{folder}/pid"
printf '%s\\n' "$@" > "{folder}/arguments"
for word; do case $word in ControlPath=*) : > "${{word#*=}}" ;; esac; done
exec sleep 60
"""


class Rig:
    """A folder with a script called ssh, first in PATH, and the folder for temporary files."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.temporary = folder / "t"
        self.temporary.mkdir()
        (folder / "bin").mkdir()

    def script(self, body: str) -> None:
        place = self.folder / "bin" / "ssh"
        place.write_text(f"#!/bin/sh\n{body.format(folder=self.folder)}")
        place.chmod(0o755)

    @property
    def arguments(self) -> list[str]:
        return (self.folder / "arguments").read_text().splitlines()

    @property
    def pid(self) -> int:
        return int((self.folder / "pid").read_text())

    def check_nothing_is_left(self) -> None:
        assert comes_true(lambda: not list(self.temporary.iterdir()))
        if (self.folder / "pid").exists():
            assert comes_true(lambda: not is_running(self.pid))


def comes_true(condition: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + SECONDS
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


def is_running(pid: int) -> bool:
    """Whether a process exists and is not a zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.fixture
def rig(monkeypatch: pytest.MonkeyPatch) -> Iterator[Rig]:
    with tempfile.TemporaryDirectory(prefix="pt-", dir="/tmp") as folder:
        made = Rig(Path(folder))
        monkeypatch.setenv("PATH", f"{folder}/bin:{os.environ['PATH']}")
        monkeypatch.setattr(tempfile, "tempdir", str(made.temporary))
        yield made
        made.check_nothing_is_left()


def go_on() -> None:
    """Do not stop the connection attempt."""


def test_how_ssh_is_started(rig: Rig) -> None:
    rig.script(READY)
    with forwarded(ENDPOINT, go_on) as tunnel:
        words = rig.arguments
        options = [words[at + 1] for at, word in enumerate(words) if word == "-o"]
        folder = Path(tunnel.path).parent
        assert folder.parent == rig.temporary
        assert folder.stat().st_mode & 0o777 == 0o700
        assert words[:2] == ["-N", "-T"]
        assert {"ExitOnForwardFailure=yes", "BatchMode=yes", "ControlPersist=no"} <= set(options)
        assert f"ControlPath={folder}/c" in options
        assert words[-8:] == ["-l", "root", "-p", "2222", "-L", f"{tunnel.path}:/run/c.sock", "--", "edge1"]
        assert is_running(rig.pid)
        assert tunnel.name == "ssh://root@edge1:2222/run/c.sock"


def test_with_a_terminal_ssh_may_ask(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    rig.script(READY)
    monkeypatch.setattr(ssh, "_has_terminal", lambda: True)
    with forwarded(ENDPOINT, go_on):
        assert "BatchMode=no" in rig.arguments


def test_a_long_folder_for_temporary_files_is_not_used(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    rig.script(READY)
    long = rig.temporary / ("x" * 80)
    long.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(long))
    with forwarded(ENDPOINT, go_on) as tunnel:
        assert Path(tunnel.path).parent.parent == Path("/tmp")
    assert not Path(tunnel.path).parent.exists()
    long.rmdir()


@pytest.mark.parametrize(
    ("stderr", "message", "hint"),
    [
        (
            "ssh: connect to host edge1 port 22: Connection refused",
            "ssh: connect to host edge1 port 22: Connection refused",
            "no ssh server listens there",
        ),
        (
            "Warning: Permanently added 'edge1'\nroot@edge1: Permission denied (publickey).",
            "root@edge1: Permission denied (publickey).",
            "check that `ssh -p 2222 root@edge1` logs in",
        ),
        (
            "@@@@@@\nHost key verification failed.",
            "Host key verification failed.",
            "connect once with `ssh -p",
        ),
        (
            "bind [127.0.0.1]:80: Address already in use\nCould not request local forwarding.",
            "bind [127.0.0.1]:80: Address already in use: Could not request local forwarding.",
            "a LocalForward in ssh's configuration",
        ),
        (
            "kex_exchange_identification: read: reset",
            "kex_exchange_identification: read: reset",
            "check that `ssh",
        ),
        ("", "ssh ended with exit code 255", "check that `ssh"),
    ],
)
def test_the_error_of_ssh_is_quoted_with_advice(rig: Rig, stderr: str, message: str, hint: str) -> None:
    rig.script("cat >&2 <<'E'\n" + stderr + "\nE\nexit 255\n")
    with pytest.raises(DaemonUnreachable) as caught, forwarded(ENDPOINT, go_on):
        raise AssertionError("never connected")
    assert caught.value.message == f"cannot reach containerd at ssh://root@edge1:2222/run/c.sock: {message}"
    assert hint in (caught.value.hint or "")
    assert caught.value.exit_code == 6


def test_without_ssh(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(rig.folder))
    with pytest.raises(DaemonUnreachable, match="ssh: command not found"), forwarded(ENDPOINT, go_on):
        raise AssertionError("never connected")


def test_an_attempt_can_be_stopped(rig: Rig) -> None:
    """ssh may wait for a password, or for a host that does not answer."""
    rig.script('echo $$ > "{folder}/pid"\nexec sleep 60\n')

    def stop() -> None:
        if (rig.folder / "pid").exists():
            raise Cancelled("the operation was cancelled")

    with pytest.raises(Cancelled), forwarded(ENDPOINT, stop):
        raise AssertionError("never connected")
    assert not is_running(rig.pid)


def test_ssh_that_ignores_the_end_is_killed(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ssh, "_END_SECONDS", 0.2)
    rig.script("trap '' TERM\n" + READY.replace("exec sleep 60", "while :; do sleep 0.1; done"))
    with forwarded(ENDPOINT, go_on):
        pass
    assert not is_running(rig.pid)


def test_an_error_in_the_call_ends_ssh(rig: Rig) -> None:
    rig.script(READY)
    with pytest.raises(ZeroDivisionError), forwarded(ENDPOINT, go_on):
        _ = 1 / 0
    assert not is_running(rig.pid)


def test_many_messages_of_ssh_do_not_block_it(rig: Rig) -> None:
    rig.script(
        "i=0; while [ $i -lt 3000 ]; do echo 'a message of some length, again' >&2; i=$((i+1)); done\n"
        + READY
    )
    with forwarded(ENDPOINT, go_on):
        pass


PROGRAM = """\
import sys, time
from pyctrd.containerd.endpoint import parse
from pyctrd.containerd.ssh import forwarded
with forwarded(parse("ssh://edge1", "default"), lambda: None):
    print("ready", flush=True)
    time.sleep(60)
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_ssh_ends_with_the_process_however_that_ends(rig: Rig, number: signal.Signals) -> None:
    rig.script(READY)
    environ = {**os.environ, "TMPDIR": str(rig.temporary), "PYTHONPATH": str(Path.cwd())}
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM], env=environ, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        assert is_running(rig.pid)
        process.send_signal(number)
        process.wait()
    rig.check_nothing_is_left()


def test_ctrl_c_on_the_terminal_does_not_end_ssh_first(rig: Rig) -> None:
    """The terminal sends SIGINT to every process of the group; the tunnel is needed to clean up."""
    rig.script(READY)
    with forwarded(ENDPOINT, go_on):
        status = Path(f"/proc/{rig.pid}/status").read_text()
        ignored = int(next(line for line in status.splitlines() if line.startswith("SigIgn")).split()[1], 16)
        for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGHUP):
            assert ignored & 1 << (number - 1)
        assert not ignored & 1 << (signal.SIGTERM - 1)

"""Exit codes, messages, signals and broken pipes."""

from __future__ import annotations

import inspect
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

import pyctrd
from pyctrd.errors import PyctrdError
from tests.cli.stub import run, with_outcome

PYCTRD = [sys.executable, "-m", "pyctrd"]
CODES = {
    "PyctrdError": 1,
    "InvalidInput": 2,
    "InvalidReference": 2,
    "InvalidPlatform": 2,
    "NotFound": 3,
    "ImageNotFound": 3,
    "NoMatchingPlatform": 3,
    "AmbiguousReference": 1,
    "ImageInUse": 1,
    "IncompleteContent": 4,
    "ContentError": 1,
    "DigestMismatch": 1,
    "RegistryError": 5,
    "RegistryNotFound": 3,
    "RegistryUnreachable": 5,
    "AuthenticationFailed": 5,
    "RegistryContentError": 5,
    "DaemonError": 1,
    "AlreadyExists": 1,
    "FailedPrecondition": 1,
    "IngestLocked": 1,
    "LeaseLost": 1,
    "Unsupported": 1,
    "DaemonUnreachable": 6,
    "ArchiveError": 1,
    "ClientClosed": 1,
    "Cancelled": 130,
}
CLASSES: dict[str, type[PyctrdError]] = {
    name: kind
    for name in pyctrd.__all__
    if inspect.isclass(kind := getattr(pyctrd, name)) and issubclass(kind, PyctrdError)
}


def make(kind: type[PyctrdError]) -> PyctrdError:
    """Create an error of any class, with empty strings for its other arguments."""
    wanted = inspect.signature(kind).parameters.values()
    named: dict[str, Any] = {
        item.name: () if item.name in ("missing", "candidates", "images") else ""
        for item in wanted
        if item.kind is item.KEYWORD_ONLY and item.default is item.empty
    }
    return kind("it went wrong", hint="try again", **named)


def test_every_error_has_its_documented_code() -> None:
    assert {name: kind.exit_code for name, kind in CLASSES.items()} == CODES


@pytest.mark.parametrize("name", CODES)
def test_an_error_is_printed_and_sets_the_exit_code(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    with_outcome(monkeypatch, make(CLASSES[name]))
    result = run("images")
    assert (result.exit_code, result.stdout) == (CODES[name], "")
    assert result.stderr == "pyctrd: it went wrong\nhint: try again\n"


def test_debug_adds_the_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    with_outcome(monkeypatch, PyctrdError("it went wrong"))
    for arguments in (("--debug", "images"), ("images", "--debug")):
        stderr = run(*arguments).stderr
        assert stderr.startswith("pyctrd: it went wrong\n")
        assert "Traceback (most recent call last)" in stderr


def test_an_internal_error_asks_for_a_bug_report(monkeypatch: pytest.MonkeyPatch) -> None:
    with_outcome(monkeypatch, ZeroDivisionError("division by zero"))
    result = run("images")
    assert result.exit_code == 1
    assert result.stderr.splitlines() == [
        "pyctrd: internal error, please report it: ZeroDivisionError: division by zero",
        "hint: run again with --debug for a traceback",
    ]
    assert "Traceback" in run("images", "--debug").stderr


def test_control_characters_of_an_error_are_escaped(monkeypatch: pytest.MonkeyPatch) -> None:
    with_outcome(monkeypatch, PyctrdError("name \x1b]0;owned\x07", hint="\x1b[2J"))
    assert run("images").stderr == "pyctrd: name \\x1b]0;owned\\x07\nhint: \\x1b[2J\n"


def test_an_interrupt_exits_with_130(monkeypatch: pytest.MonkeyPatch) -> None:
    with_outcome(monkeypatch, KeyboardInterrupt())
    result = run("images")
    assert result.exit_code == 130
    assert result.stderr.strip() == "pyctrd: interrupted"


def test_signal_handlers_are_restored(monkeypatch: pytest.MonkeyPatch) -> None:
    before = signal.getsignal(signal.SIGTERM)
    with_outcome(monkeypatch, ())
    run("images")
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.fixture
def interruptible() -> Iterator[None]:
    """Restore default signal handlers: children inherit ignored signals, as from background jobs or nohup."""
    before = {number: signal.signal(number, signal.SIG_DFL) for number in (signal.SIGTERM, signal.SIGHUP)}
    before[signal.SIGINT] = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@contextmanager
def waiting(name: str) -> Iterator[subprocess.Popen[str]]:
    """A command that waits for the daemon's version: the socket accepts, and never responds."""
    with socket.socket(socket.AF_UNIX) as silent, ExitStack() as stack:
        silent.bind(name)
        silent.listen()
        command = subprocess.Popen(
            [*PYCTRD, "-a", name, "images"],
            env={**os.environ, "PYTHONPATH": str(Path(pyctrd.__file__).parent.parent)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        silent.settimeout(20)
        stack.enter_context(silent.accept()[0])  # the probe, which only checks that something listens
        talking = stack.enter_context(silent.accept()[0])
        talking.settimeout(20)
        assert talking.recv(1)  # gRPC has sent its preface: from here on the command waits
        yield command


@pytest.mark.usefixtures("interruptible")
def test_signals_end_a_waiting_command(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """All at once, since each takes a while to end."""
    codes = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGHUP: 129}
    monkeypatch.chdir(tmp_path)  # a socket's path has at most 107 bytes
    with ExitStack() as stack:
        commands = {number: stack.enter_context(waiting(f"{number}.sock")) for number in codes}
        for number, command in commands.items():
            command.send_signal(number)
        for number, command in commands.items():
            stdout, stderr = command.communicate(timeout=20)
            assert (command.returncode, stdout) == (codes[number], "")
            assert "Traceback" not in stderr


def test_a_closed_pipe_is_not_reported() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "wb") as pipe:
        done = subprocess.run(
            [*PYCTRD, "completion", "fish"], stdout=pipe, stderr=subprocess.PIPE, text=True, check=False
        )
    assert (done.returncode, done.stderr) == (1, "")


def test_a_full_disk_is_reported() -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [*PYCTRD, "completion", "fish"], stdout=full, stderr=subprocess.PIPE, text=True, check=False
        )
    assert done.returncode == 1
    assert "No space left on device" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_missing_socket_exits_with_6() -> None:
    done = subprocess.run(
        [*PYCTRD, "images", "-a", "/nonexistent/c.sock"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 6
    assert "/nonexistent/c.sock: no such file or directory" in done.stderr
    assert "hint: " in done.stderr

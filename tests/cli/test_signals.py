"""Signals: the work ends by itself, or the process ends, and nothing is left behind."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import pyctrd
from pyctrd.cli import screen, signals
from pyctrd.errors import Cancelled

ROOT = str(Path(pyctrd.__file__).parent.parent)
SECONDS = 20


@pytest.fixture(autouse=True)
def _default_handlers() -> Iterator[None]:
    """Restore default handlers: children would inherit what a shell sets for background jobs."""
    numbers = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)
    before = {number: signal.signal(number, signal.SIG_DFL) for number in numbers}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def sent_by_work(number: signal.Signals, cancel: threading.Event) -> None:
    """Send this process a signal, and wait until it was handled."""
    os.kill(os.getpid(), number)
    assert cancel.wait(SECONDS)


def test_work_runs_in_a_thread_and_returns_its_result() -> None:
    assert signals.run(lambda: threading.current_thread().name, threading.Event()) == "pyctrd-work"


def test_an_error_of_the_work_is_raised() -> None:
    def work() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        signals.run(work, threading.Event())


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_cancels_the_work_and_is_raised_after_its_error(number: signal.Signals) -> None:
    cancel = threading.Event()

    def work() -> None:
        sent_by_work(number, cancel)
        raise Cancelled("cancelled")

    with pytest.raises(signals.Signalled) as caught:
        signals.run(work, cancel)
    assert caught.value.number == number
    assert isinstance(caught.value.__cause__, Cancelled)
    assert signal.getsignal(number) is signal.SIG_DFL


def test_work_that_finishes_despite_a_signal_succeeds() -> None:
    cancel = threading.Event()
    assert signals.run(lambda: sent_by_work(signal.SIGTERM, cancel), cancel) is None


def test_a_signal_replaces_the_exit_code_of_failed_work() -> None:
    cancel = threading.Event()

    def work() -> int:
        sent_by_work(signal.SIGTERM, cancel)
        return 1

    with pytest.raises(signals.Signalled):
        signals.run(work, cancel)


def test_ignored_signals_stay_ignored() -> None:
    """As under nohup."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    cancel = threading.Event()
    signals.run(lambda: os.kill(os.getpid(), signal.SIGHUP), cancel)
    assert not cancel.is_set()


# --- a process that ends at once ---------------------------------------------------------------------------

STUBBORN = """
import os, sys, threading
from pathlib import Path
from pyctrd.archive.output import open_output
from pyctrd.cli import signals
signals._GRACE_SECONDS = float(sys.argv[1])
def work():
    with open_output(sys.argv[2]) as stream:
        stream.write(b"half an archive")
        print("writing", flush=True)
        threading.Event().wait()
signals.run(work, threading.Event())
"""


@contextmanager
def stubborn(orderly: float, place: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that writes an archive and ignores cancellation."""
    command = [sys.executable, "-c", STUBBORN, str(orderly), str(place)]
    with subprocess.Popen(command, env={**os.environ, "PYTHONPATH": ROOT}, stdout=-1, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "writing\n"
            assert len(list(place.parent.iterdir())) == 1
            yield process
        finally:
            process.kill()


def test_a_second_signal_ends_the_process_and_leaves_no_partial_archive(tmp_path: Path) -> None:
    with stubborn(3600, tmp_path / "image.tar") as process:
        process.send_signal(signal.SIGTERM)
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.5)  # the first signal is handled, but the work does not end
        process.send_signal(signal.SIGINT)
        assert process.wait(SECONDS) == 143, "the first signal decides"
        assert list(tmp_path.iterdir()) == []


def test_work_that_does_not_end_is_abandoned(tmp_path: Path) -> None:
    with stubborn(0.1, tmp_path / "image.tar") as process:
        process.send_signal(signal.SIGINT)
        assert process.wait(SECONDS) == 130
        assert list(tmp_path.iterdir()) == []


ASKING = """
import threading
import click
from pyctrd.cli import screen, signals
def work():
    with screen.asking():
        click.prompt("Password", hide_input=True, err=True)
signals.run(work, threading.Event())
"""


def test_a_signal_at_a_prompt_ends_the_process_and_restores_echo() -> None:
    """The password prompt has turned echo off, and only an answer would end it."""
    controller, terminal = pty.openpty()
    try:
        with subprocess.Popen(
            [sys.executable, "-c", ASKING],
            env={**os.environ, "PYTHONPATH": ROOT},
            stdin=terminal,
            stdout=terminal,
            stderr=terminal,
            start_new_session=True,
        ) as process:
            deadline = time.monotonic() + SECONDS
            while termios.tcgetattr(terminal)[3] & termios.ECHO:
                assert time.monotonic() < deadline
                assert process.poll() is None
                time.sleep(0.01)
            process.send_signal(signal.SIGTERM)
            assert process.wait(SECONDS) == 143
        assert termios.tcgetattr(terminal)[3] & termios.ECHO
    finally:
        os.close(controller)
        os.close(terminal)


def test_a_cancelled_prompt_is_answered_with_no(monkeypatch: pytest.MonkeyPatch) -> None:
    """The process continues until its lease and files are removed."""
    reading, writing = os.pipe()
    cancel = threading.Event()
    with os.fdopen(reading) as silent, os.fdopen(writing, "w"):
        monkeypatch.setattr("sys.stdin", silent)
        threading.Timer(0.2, cancel.set).start()
        assert screen.confirm("Really?", cancel) is False
    assert not screen.is_asking()

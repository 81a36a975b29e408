"""SIGINT, SIGTERM and SIGHUP: the main thread only waits for them, and another thread does the work.

An exception raised by a signal handler could interrupt gRPC in the middle of its bookkeeping, which then
hangs. So the first signal sets an event and the work ends by itself; a second one ends the process.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Final, NoReturn

from pyctrd.cli import screen

# Time for the work to end by itself. Its own limits are shorter, so this is for what cannot be interrupted
# (a write to a disk that hangs, a reader of a pipe that has stopped).
_GRACE_SECONDS: Final = 4.0
# How long a signal that the kernel delivered to another thread may go unnoticed.
_POLL_SECONDS: Final = 0.5


class Signalled(Exception):
    """A signal ended the work."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


def run(work: Callable[[], object], cancel: threading.Event) -> object:
    """Run `work` in a thread and return its result, or raise its error.

    A signal sets `cancel`; if the work then fails, Signalled is raised. The process ends here at a second
    signal, if the work does not end within some seconds, or if it is prompting the user.
    """
    received = _Received(cancel)
    done: concurrent.futures.Future[object] = concurrent.futures.Future()

    def run_work() -> None:
        try:
            done.set_result(work())
        except BaseException as error:  # noqa: BLE001 - raised again in the main thread
            done.set_exception(error)

    with _handled(received):
        threading.Thread(target=run_work, name="pyctrd-work", daemon=True).start()
        while not concurrent.futures.wait([done], _POLL_SECONDS).done:
            received.check_time()
    try:
        result = done.result()
    except BaseException as error:
        if received.number:
            raise Signalled(received.number) from error
        raise
    if received.number and result:
        raise Signalled(received.number)
    return result


class _Received:
    """The first signal; its handler runs in the main thread, between any two instructions."""

    def __init__(self, cancel: threading.Event) -> None:
        self._cancel = cancel
        self._since = 0.0
        self.number = 0

    def handle(self, number: int, _frame: FrameType | None) -> None:
        if self.number or screen.is_asking():
            _end_process(self.number or number)
        self.number = number
        self._since = time.monotonic()
        self._cancel.set()

    def check_time(self) -> None:
        if self.number and time.monotonic() - self._since > _GRACE_SECONDS:
            _end_process(self.number)


@contextlib.contextmanager
def _handled(received: _Received) -> Iterator[None]:
    previous = {}
    if signal.getsignal(signal.SIGINT) in (signal.SIG_DFL, signal.default_int_handler):
        previous[signal.SIGINT] = signal.signal(signal.SIGINT, received.handle)
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is signal.SIG_DFL:  # nohup's SIG_IGN stays
            previous[number] = signal.signal(number, received.handle)
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _end_process(number: int) -> NoReturn:
    """End the process at once, without a partial archive and with a usable terminal.

    Takes no lock that another thread may hold.
    """
    partial = sys.modules.get("pyctrd.archive.partial")
    if partial is not None:
        partial.remove_unfinished()
    screen.restore()
    os._exit(128 + number)

"""SIGINT, SIGTERM and SIGHUP: the main thread only waits for them, and the work is done in another one.

An exception that a signal handler raises would end gRPC in the middle of its bookkeeping, which then waits
for ever. So the first signal sets an event, and the work ends in order; a second one ends the process.
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

# What the work gets to end in order: its own limits are shorter, so this is for what cannot be woken up
# (a write to a disk that hangs, a reader who stands still).
_ORDERLY_SECONDS: Final = 4.0
# How long a signal may go unseen that the kernel has given to another thread.
_LOOK_SECONDS: Final = 0.5


class Signalled(Exception):
    """Work that was ended by a signal."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


def run(work: Callable[[], object], cancel: threading.Event) -> object:
    """Do work in a thread and return its result, or raise its error.

    A signal sets `cancel`: work that does not succeed then raises Signalled, and is left alone after some
    seconds, or at a second signal, or when it waits for an answer of the user: then the process ends here.
    """
    received = _Received(cancel)
    done: concurrent.futures.Future[object] = concurrent.futures.Future()

    def run_work() -> None:
        try:
            done.set_result(work())
        except BaseException as error:  # noqa: BLE001 - it is raised again in the main thread
            done.set_exception(error)

    with _handled(received):
        threading.Thread(target=run_work, name="pyctrd-work", daemon=True).start()
        while not concurrent.futures.wait([done], _LOOK_SECONDS).done:
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
    """The first signal that came; its handler runs in the main thread, between any two instructions."""

    def __init__(self, cancel: threading.Event) -> None:
        self._cancel = cancel
        self._since = 0.0
        self.number = 0

    def handle(self, number: int, _frame: FrameType | None) -> None:
        if self.number or screen.is_asking():
            _leave(self.number or number)
        self.number = number
        self._since = time.monotonic()
        self._cancel.set()

    def check_time(self) -> None:
        if self.number and time.monotonic() - self._since > _ORDERLY_SECONDS:
            _leave(self.number)


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


def _leave(number: int) -> NoReturn:
    """End the process at once, whatever its threads do: without half an archive, and with a usable terminal.

    No lock is waited for that one of them may hold.
    """
    output = sys.modules.get("pyctrd.archive.output")
    if output is not None:
        output.remove_unfinished()
    screen.restore()
    os._exit(128 + number)

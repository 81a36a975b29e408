"""Ending requests from another thread: their sockets are shut down, and new ones are refused."""

from __future__ import annotations

import socket
import threading
import time
import weakref
from collections.abc import Callable
from contextlib import suppress
from typing import Final, TypeAlias

from pyctrd.errors import PyctrdError

# How long an upload may still be taken back after the end.
GRACE_SECONDS: Final = 2.5

# All that goes on with the work; what is left takes an upload back.
_WORKING: Final = frozenset({"HEAD", "GET", "POST", "PUT", "PATCH"})

Why: TypeAlias = Callable[[], PyctrdError]


class Ending:
    """Whether requests may still be made, and what has to be shut down when not. Thread safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._open: weakref.WeakSet[socket.socket] = weakref.WeakSet()
        self._why: Why | None = None
        self._until = 0.0
        self._ended = threading.Event()

    def end(self, why: Why) -> None:
        """Shut all connections down: whoever waits for one gets an error, which becomes that of `why`."""
        with self._lock:
            if self._why is None:
                self._until = time.monotonic() + GRACE_SECONDS
            self._why = why
            connections = list(self._open)
        self._ended.set()
        for connection in connections:
            shut_down(connection)

    def watch(self, connection: socket.socket) -> None:
        """Take a connection in that has just been made."""
        with self._lock:
            self._open.add(connection)
            late = self._why is not None and time.monotonic() > self._until
        if late:
            shut_down(connection)

    def check(self, method: str) -> None:
        """Raise why, when all has been ended; what takes an upload back may pass for a moment."""
        error = self.why()
        if error is not None and (method in _WORKING or time.monotonic() > self._until):
            raise error

    def why(self) -> PyctrdError | None:
        """Make the error that says why all has been ended; None when it has not."""
        return self._why() if self._why is not None else None

    def wait(self, seconds: float) -> None:
        """Sleep; raises why, as soon as all has been ended."""
        if self._ended.wait(seconds):
            error = self.why()
            assert error is not None
            raise error


def shut_down(connection: socket.socket) -> None:
    """Break a connection off, also one that another thread waits for, and that TLS would talk on."""
    with suppress(OSError):
        socket.socket.shutdown(connection, socket.SHUT_RDWR)

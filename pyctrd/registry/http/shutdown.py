"""Shutdown requests from another thread: their sockets are shut down, and new ones are refused."""

from __future__ import annotations

import socket
import threading
import time
import weakref
from collections.abc import Callable
from contextlib import suppress
from typing import Final, TypeAlias

from pyctrd.errors import PyctrdError

# How long uploads may still be cancelled at the registry after the shutdown.
GRACE_SECONDS: Final = 2.5

# All methods that continue the work; any other method cancels an upload.
_WORKING: Final = frozenset({"HEAD", "GET", "POST", "PUT", "PATCH"})

Why: TypeAlias = Callable[[], PyctrdError]


class Shutdown:
    """Whether requests may still be sent, and the sockets to shut down if not. Thread safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._open: weakref.WeakSet[socket.socket] = weakref.WeakSet()
        self._why: Why | None = None
        self._until = 0.0
        self._begun = threading.Event()

    def begin(self, why: Why) -> None:
        """Shut down all connections; requests in progress fail with the error that `why` returns."""
        with self._lock:
            if self._why is None:
                self._until = time.monotonic() + GRACE_SECONDS
            self._why = why
            connections = list(self._open)
        self._begun.set()
        for connection in connections:
            shut_down(connection)

    def watch(self, connection: socket.socket) -> None:
        """Add a new connection."""
        with self._lock:
            self._open.add(connection)
            late = self._why is not None and time.monotonic() > self._until
        if late:
            shut_down(connection)

    def check(self, method: str) -> None:
        """Raise the error of the shutdown, if it has begun; uploads may be cancelled a little longer."""
        error = self.why()
        if error is not None and (method in _WORKING or time.monotonic() > self._until):
            raise error

    def why(self) -> PyctrdError | None:
        """Return the error of the shutdown; None if it has not begun."""
        return self._why() if self._why is not None else None

    def wait(self, seconds: float) -> None:
        """Sleep; raise the error of the shutdown as soon as it begins."""
        if self._begun.wait(seconds):
            error = self.why()
            assert error is not None
            raise error


def shut_down(connection: socket.socket) -> None:
    """Shut down a socket, even while another thread reads from it, and without a TLS close alert."""
    with suppress(OSError):
        socket.socket.shutdown(connection, socket.SHUT_RDWR)

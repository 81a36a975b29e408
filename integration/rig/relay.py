"""A relay between a client and a daemon's unix socket, which stops within the daemon's data."""

from __future__ import annotations

import socket
import threading
from contextlib import suppress
from pathlib import Path
from types import TracebackType

_CHUNK = 1 << 16


class Relay:
    """Forwards everything until the daemon has sent `hold_after` bytes; a context manager.

    Then `held` is set, and nothing more is forwarded until `go_on`. `release` also removes the relay's own
    socket, so that the client sees a daemon that has ended.
    """

    def __init__(self, target: Path, path: Path, hold_after: int) -> None:
        self.path = path
        self.held = threading.Event()
        self._target = target
        self._left = hold_after
        self._released = threading.Event()
        self._open: list[socket.socket] = []
        self._listener = socket.socket(socket.AF_UNIX)

    def __enter__(self) -> Relay:
        self._listener.bind(str(self.path))
        self._listener.listen()
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()
        for one in self._open:
            one.close()

    def release(self) -> None:
        """Continue, and accept no new clients."""
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)  # close alone would not wake accept
        self._listener.close()
        self.path.unlink(missing_ok=True)
        self.go_on()

    def go_on(self) -> None:
        """Send the held data, and hold nothing from now on."""
        self._released.set()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            daemon = socket.socket(socket.AF_UNIX)
            self._open += [client, daemon]
            try:
                daemon.connect(str(self._target))
            except OSError:
                client.close()
                continue
            for pump in ((client, daemon, False), (daemon, client, True)):
                threading.Thread(target=self._pump, args=pump, daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket, counted: bool) -> None:
        """Copy until one side ends, then close both."""
        with suppress(OSError):
            while data := source.recv(_CHUNK):
                if counted:
                    self._hold(len(data))
                sink.sendall(data)
        for one in (source, sink):
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)

    def _hold(self, size: int) -> None:
        self._left -= size
        if self._left <= 0 and not self._released.is_set():
            self.held.set()
            self._released.wait()

"""A line with a long round trip in front of a server: bytes arrive late in both directions."""

from __future__ import annotations

import queue
import socket
import threading
import time
from contextlib import suppress
from types import TracebackType
from typing import Final

_PIECE: Final = 1 << 18
# How many pieces may be on the line in one direction of a connection.
_ON_THE_LINE: Final = 64


class SlowLine:
    """Listens on a free port of 127.0.0.1 and forwards bytes to `port`; a context manager.

    `round_trip` is in seconds: half of it for each direction, and a whole one for a new connection, whose
    handshake the kernel answers at once. Bytes on their way do not delay those behind them.
    """

    def __init__(self, port: int, round_trip: float) -> None:
        self._port = port
        self._half = round_trip / 2
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self._sockets: list[socket.socket] = []
        self._guard = threading.Lock()
        self.connections = 0
        """The number of connections so far."""

    def __enter__(self) -> SlowLine:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop, and close open connections."""
        with self._guard:
            open_sockets = [self._listener, *self._sockets]
        for link in open_sockets:
            with suppress(OSError):
                link.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    @property
    def host(self) -> str:
        """ "127.0.0.1:PORT", as it stands in references."""
        return f"127.0.0.1:{self._listener.getsockname()[1]}"

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.create_connection(("127.0.0.1", self._port))
                for link in (client, server):
                    link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                with self._guard:
                    self.connections += 1
                    self._sockets += [client, server]
                ready = time.monotonic() + 2 * self._half
                self._forward(client, server, ready)
                self._forward(server, client, ready)

    def _forward(self, source: socket.socket, target: socket.socket, ready: float) -> None:
        """Forward one direction in two threads: one reads, the other writes what has arrived."""
        line: queue.Queue[tuple[float, bytes]] = queue.Queue(_ON_THE_LINE)

        def read() -> None:
            data = b"more"
            while data:
                data = b""
                with suppress(OSError):
                    data = source.recv(_PIECE)
                line.put((max(time.monotonic(), ready) + self._half, data))

        def write() -> None:
            data = b"more"
            while data:
                due, data = line.get()
                time.sleep(max(due - time.monotonic(), 0))
                with suppress(OSError):
                    target.sendall(data) if data else target.shutdown(socket.SHUT_WR)

        for part in (read, write):
            threading.Thread(target=part, daemon=True).start()

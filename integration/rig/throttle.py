"""A slow network in front of a server: a rate for each connection, one for all of them, and a delay."""

from __future__ import annotations

import socket
import threading
import time
from contextlib import suppress
from types import TracebackType

_PIECE = 1 << 16


class Rate:
    """A limit of bytes per second for all callers; None is no limit."""

    def __init__(self, per_second: float | None) -> None:
        self._per_second = per_second
        self._due = 0.0
        self._lock = threading.Lock()

    def pay(self, count: int) -> None:
        """Wait as long as so many bytes take."""
        if self._per_second is None:
            return
        with self._lock:
            now = time.monotonic()
            self._due = max(self._due, now) + count / self._per_second
            wait = self._due - now
        time.sleep(wait)


class Throttle:
    """Listens on a free port of 127.0.0.1 and forwards bytes to `port`; a context manager.

    `per_connection` and `in_all` are bytes per second from the server; `delay` is in seconds, applies to data
    from the client, and so to each round trip once. `from_client` is bytes per second in the other
    direction.
    """

    def __init__(
        self,
        port: int,
        *,
        per_connection: float | None = None,
        in_all: float | None = None,
        delay: float = 0.0,
        from_client: float | None = None,
    ) -> None:
        self._port = port
        self._per_connection = per_connection
        self._all = Rate(in_all)
        self._delay = delay
        self._from_client = Rate(from_client)
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self._links: list[socket.socket] = []
        self._guard = threading.Lock()
        self._open = 0
        self.most_connections = 0
        """The largest number of concurrent connections."""
        self.received = 0
        """Bytes from the clients."""
        self.sent = 0
        """Bytes from the server."""

    def __enter__(self) -> Throttle:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop, and close open connections."""
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        with self._guard:
            links = list(self._links)
        for link in links:
            with suppress(OSError):
                link.shutdown(socket.SHUT_RDWR)

    @property
    def host(self) -> str:
        """ "127.0.0.1:PORT", as it stands in references."""
        return f"127.0.0.1:{self._listener.getsockname()[1]}"

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with self._guard:
            self._open += 1
            self.most_connections = max(self.most_connections, self._open)
        try:
            with client, socket.create_connection(("127.0.0.1", self._port)) as server:
                with self._guard:
                    self._links += [client, server]
                # A long queue in the kernel would hide that the network is slow.
                client.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _PIECE)
                threading.Thread(target=self._up, args=(client, server), daemon=True).start()
                self._down(server, client)
        except OSError:
            pass  # one side has disconnected
        finally:
            with self._guard:
                self._open -= 1

    def _up(self, client: socket.socket, server: socket.socket) -> None:
        with suppress(OSError):
            while data := client.recv(_PIECE):
                time.sleep(self._delay)
                self._from_client.pay(len(data))
                with self._guard:
                    self.received += len(data)
                server.sendall(data)
        with suppress(OSError):
            server.shutdown(socket.SHUT_WR)

    def _down(self, server: socket.socket, client: socket.socket) -> None:
        own = Rate(self._per_connection)
        while data := server.recv(_PIECE):
            own.pay(len(data))
            self._all.pay(len(data))
            with self._guard:
                self.sent += len(data)
            client.sendall(data)
        with suppress(OSError):
            client.shutdown(socket.SHUT_WR)

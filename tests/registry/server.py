"""A registry with a script: each entry is used by one request, and unused entries are found."""

from __future__ import annotations

import re
import socket
import ssl
import struct
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass(frozen=True)
class Seen:
    """A request as it arrived; header names are in lower case."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes = b""

    @property
    def authorization(self) -> str:
        return self.headers.get("authorization", "")


@dataclass(frozen=True)
class Answer:
    """What to send. `length` overrides Content-Length, None in `chunked` sends none; `cut_after` body bytes
    the connection is reset; `endless` repeats the body until the client disconnects."""

    status: int = 200
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    length: int | None = None
    chunked: bool = False
    cut_after: int | None = None
    endless: bool = False
    hang_up: bool = False


Reply = Answer | Callable[[Seen], Answer]


class ScriptedServer:
    """Listens on this machine; a context manager. Scripts are (method, path without query) -> replies."""

    def __init__(self, tls: ssl.SSLContext | None = None, address: str = "127.0.0.1") -> None:
        self.seen: list[Seen] = []
        self.connections = 0
        self._script: dict[tuple[str, str], list[Reply]] = {}
        self._lasting: dict[tuple[str, str], Reply] = {}
        self._lock = threading.Lock()
        self._tls = tls
        self._server = _Server((address, 0), _Handler)
        self._server.owner = self
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)

    def __enter__(self) -> ScriptedServer:
        self._thread.start()
        return self

    def __exit__(self, *_exc: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    @property
    def port(self) -> int:
        return int(self._server.server_address[1])

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def url(self) -> str:
        return f"{'https' if self._tls else 'http'}://{self.host}"

    def once(self, method: str, path: str, *replies: Reply) -> None:
        """Answer the next requests to this path with these, one each."""
        self._script.setdefault((method, path), []).extend(replies)

    def always(self, method: str, path: str, reply: Reply) -> None:
        """Answer every request to this path that has no entry of its own."""
        self._lasting[method, path] = reply

    def unused(self) -> dict[tuple[str, str], int]:
        """Return how many entries are unused."""
        return {key: len(left) for key, left in self._script.items() if left}

    def requests(self) -> list[str]:
        return [f"{one.method} {one.path}" for one in self.seen]

    def take(self, seen: Seen) -> Answer:
        with self._lock:
            self.seen.append(seen)
            key = (seen.method, seen.path.partition("?")[0])
            left = self._script.get(key)
            reply = left.pop(0) if left else self._lasting.get(key, Answer(404))
        return reply if isinstance(reply, Answer) else reply(seen)

    def wrap(self, connection: socket.socket) -> socket.socket:
        self.connections += 1
        return self._tls.wrap_socket(connection, server_side=True) if self._tls else connection


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    owner: ScriptedServer

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignore errors: in many tests the client disconnects, or fails the TLS handshake."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _Server

    def setup(self) -> None:
        self.request.settimeout(20)
        self.request = self.server.owner.wrap(self.request)
        super().setup()

    def finish(self) -> None:
        try:
            super().finish()
        except OSError:
            pass  # the client has disconnected
        finally:
            self.request.close()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Log nothing."""

    def _serve(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        headers = {name.lower(): value for name, value in self.headers.items()}
        answer = self.server.owner.take(Seen(self.command, self.path, headers, body))
        if answer.hang_up:
            self._reset()
            return
        self.send_response(answer.status)
        for name, value in answer.headers.items():
            self.send_header(name, value)
        if answer.chunked:
            self.send_header("Transfer-Encoding", "chunked")
        elif not answer.endless:
            self.send_header(
                "Content-Length", str(len(answer.body) if answer.length is None else answer.length)
            )
        else:
            self.close_connection = True
        self.end_headers()
        if self.command != "HEAD":
            self._send_body(answer)

    do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = _serve  # noqa: N815

    def _send_body(self, answer: Answer) -> None:
        body = answer.body if answer.cut_after is None else answer.body[: answer.cut_after]
        if answer.chunked:
            self.wfile.write(b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body) if body else b"0\r\n\r\n")
        else:
            self.wfile.write(body)
        while answer.endless:
            self.wfile.write(body)
        if answer.cut_after is not None:
            self.wfile.flush()
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)

    def _reset(self) -> None:
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close_connection = True
        self.connection.close()


def ranges(body: bytes, **settings: Any) -> Callable[[Seen], Answer]:
    """Serve a blob with support for Range; `settings` are those of Answer."""

    def reply(seen: Seen) -> Answer:
        found = re.fullmatch(r"bytes=(\d+)-", seen.headers.get("range", ""))
        if not found:
            return Answer(200, body, **settings)
        start = int(found[1])
        content_range = {"Content-Range": f"bytes {start}-{len(body) - 1}/{len(body)}"}
        return Answer(206, body[start:], content_range, **settings)

    return reply

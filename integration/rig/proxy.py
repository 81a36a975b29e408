"""An HTTP proxy in front of a registry: logs every request, and can inject faults.

docker-registry writes its access log after it has sent a response, so a test that reads that log right
after a pull may miss the last line. The proxy logs a request before it sends the first byte of the response.
"""

from __future__ import annotations

import http.client
import re
import socket
import ssl
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

CHUNK = 1 << 18
_HOP_BY_HOP = frozenset({"connection", "keep-alive", "transfer-encoding", "te", "upgrade", "expect"})
# The plain-text response of Go's server to a TLS client. containerd from 1.7 on falls back to http only if
# the response starts with "HTTP/" (core/remotes/docker/resolver.go); that of Python's server does not.
_TO_TLS_CLIENT = b"HTTP/1.0 400 Bad Request\r\n\r\nClient sent an HTTPS request to an HTTP server.\n"


@dataclass(frozen=True)
class Request:
    """One logged request. `range` is the Range header or ""; headers (lower-case) do not count for ==."""

    method: str
    path: str
    status: int
    range: str = ""
    query: str = field(default="", compare=False)
    headers: Mapping[str, str] = field(default_factory=dict, compare=False)


@dataclass
class Fault:
    """What to do to responses whose path matches `pattern` (re.search); the first matching fault is used.

    `times` limits how often. `status` responds without the registry (with `headers` and `body`).
    `cut_after` closes the connection after that many body bytes; `corrupt_at` flips one body byte;
    `ignore_range` responds 200 with everything; `drop_headers` removes headers of the response;
    `cut_request_after` breaks both connections after that many bytes of the request's body (logged as 0);
    `stall_after` waits in the body at that byte until `release` is set; `wait` seconds precede the response.
    """

    pattern: str
    methods: tuple[str, ...] = ("GET",)
    times: int | None = None
    status: int | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    cut_after: int | None = None
    corrupt_at: int | None = None
    ignore_range: bool = False
    drop_headers: tuple[str, ...] = ()
    cut_request_after: int | None = None
    stall_after: int | None = None
    release: threading.Event = field(default_factory=threading.Event)
    stalled: threading.Event = field(default_factory=threading.Event)
    wait: float = 0.0


Route = Callable[[str, Mapping[str, str], bytes], tuple[int, Mapping[str, str], bytes]]
"""(query string, request headers, request body) -> (status, headers, body), answered by the proxy itself."""


class LoggingProxy:
    """Listens on a free port of 127.0.0.1 from the start; responds after `serve(upstream port)`."""

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self._server = _Server(("127.0.0.1", 0), _Handler)
        self._server.tls = tls
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)

    @property
    def port(self) -> int:
        """The port that clients use."""
        return int(self._server.server_address[1])

    def serve(self, upstream: int) -> None:
        """Start to pass requests on to 127.0.0.1:upstream."""
        self._server.upstream = upstream
        self._thread.start()

    def close(self) -> None:
        """Stop, and close every open connection."""
        self._server.closing = True
        for fault in self._server.faults:
            fault.release.set()
        if self._thread.is_alive():
            self._server.shutdown()
        self._server.server_close()
        if self._server.errors:
            raise ExceptionGroup("errors of the logging proxy", self._server.errors)

    def requests(self) -> list[Request]:
        """Every request so far, in the order of the responses."""
        with self._server.guard:
            return list(self._server.log)

    def clear_requests(self) -> None:
        """Forget the requests so far."""
        with self._server.guard:
            self._server.log.clear()

    def add_fault(self, fault: Fault) -> Fault:
        """Apply a fault to matching responses from now on; return it."""
        with self._server.guard:
            self._server.faults.append(fault)
        return fault

    def clear_faults(self) -> None:
        """Remove all faults."""
        with self._server.guard:
            for fault in self._server.faults:
                fault.release.set()
            self._server.faults.clear()

    @property
    def connections(self) -> int:
        """The number of open client connections; the requests of closed ones have been logged."""
        with self._server.guard:
            return self._server.connections

    def add_route(self, path: str, route: Route) -> None:
        """Answer `path` here, not in the registry (a token service, for example)."""
        self._server.routes[path] = route

    def clear_routes(self) -> None:
        """Remove all routes."""
        self._server.routes.clear()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def __init__(self, address: tuple[str, int], handler: type[_Handler]) -> None:
        super().__init__(address, handler)
        self.upstream = 0
        self.tls: ssl.SSLContext | None = None
        self.guard = threading.Lock()
        self.log: list[Request] = []
        self.faults: list[Fault] = []
        self.routes: dict[str, Route] = {}
        self.errors: list[Exception] = []
        self.closing = False
        self.connections = 0

    def process_request(self, request: Any, client_address: Any) -> None:
        with self.guard:
            self.connections += 1
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        super().shutdown_request(request)
        with self.guard:
            self.connections -= 1

    def take_fault(self, method: str, path: str) -> Fault | None:
        with self.guard:
            for fault in self.faults:
                if fault.times != 0 and method in fault.methods and re.search(fault.pattern, path):
                    if fault.times is not None:
                        fault.times -= 1
                    return fault
        return None

    def handle_error(self, request: object, client_address: object) -> None:
        """Record errors of the proxy itself; clients that disconnect are part of the tests.

        A Go client silently repeats a request if a reused connection is closed, so an ignored error would
        change the counts of tests.
        """
        error = sys.exc_info()[1]
        if isinstance(error, Exception) and not isinstance(error, OSError) and not self.closing:
            self.errors.append(error)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server
    _upstream: http.client.HTTPConnection | None = None
    _secure = False

    def setup(self) -> None:
        self.request.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if self.server.tls:
            self.request = self.server.tls.wrap_socket(self.request, server_side=True)
            self._secure = True
        super().setup()

    def finish(self) -> None:
        if self._upstream:
            self._upstream.close()
        with suppress(OSError):
            super().finish()
        if self._secure:  # the server closes the accepted socket, but TLS has replaced it
            self.request.close()

    def handle_one_request(self) -> None:
        if not self._secure and self.rfile.peek(1)[:1] == b"\x16":  # type: ignore[attr-defined]
            self.wfile.write(_TO_TLS_CLIENT)
            self.close_connection = True
            return
        super().handle_one_request()
        if self.server.closing:
            self.close_connection = True

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class names it so
        """The list of requests is the log."""

    def do_ANY(self) -> None:
        path = urlsplit(self.path).path
        fault = self.server.take_fault(self.command, path)
        if fault and fault.wait:
            fault.release.wait(fault.wait)
        if path in self.server.routes:
            body = b"".join(self._request_body())
            self._answer(*self.server.routes[path](urlsplit(self.path).query, self._header_map(), body))
        elif fault and fault.status is not None:
            for _ in self._request_body():
                pass
            self._answer(fault.status, fault.headers, fault.body)
        else:
            self._pass_on(fault)

    do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = do_ANY  # noqa: N815

    def _header_map(self) -> dict[str, str]:
        return {name.lower(): value for name, value in self.headers.items()}

    def _record(self, status: int) -> None:
        parts = urlsplit(self.path)
        headers = self._header_map()
        entry = Request(self.command, parts.path, status, headers.get("range", ""), parts.query, headers)
        with self.server.guard:
            self.server.log.append(entry)

    def _answer(self, status: int, headers: Mapping[str, str], body: bytes) -> None:
        self._record(status)
        self.send_response_only(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _request_body(self) -> Iterator[bytes]:
        if "chunked" in self.headers.get("Transfer-Encoding", "").lower():
            yield from self._chunks()
            return
        left = int(self.headers.get("Content-Length") or 0)
        while left:
            data = self.rfile.read(min(left, CHUNK))
            if not data:
                raise ConnectionError("client went away")
            left -= len(data)
            yield data

    def _chunks(self) -> Iterator[bytes]:
        while line := self.rfile.readline():
            size = int(line.split(b";")[0], 16)
            if size:
                yield self.rfile.read(size)
                self.rfile.readline()
                continue
            while self.rfile.readline().strip():
                pass
            return
        raise ConnectionError("client went away")

    def _pass_on(self, fault: Fault | None) -> None:
        if self._upstream is None:
            self._upstream = http.client.HTTPConnection("127.0.0.1", self.server.upstream)
        link = self._upstream
        link.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
        chunked = "chunked" in self.headers.get("Transfer-Encoding", "").lower()
        for name, value in self.headers.items():
            dropped = name.lower() in _HOP_BY_HOP or (
                fault and fault.ignore_range and name.lower() == "range"
            )
            if not dropped:
                link.putheader(name, value)
        if self._secure:
            link.putheader("X-Forwarded-Proto", "https")
        if chunked:
            link.putheader("Transfer-Encoding", "chunked")
        link.endheaders()
        passed = 0
        for data in self._request_body():
            if fault and fault.cut_request_after is not None and passed + len(data) > fault.cut_request_after:
                link.send(data[: fault.cut_request_after - passed])
                self._record(0)
                self._cut()
            link.send(b"%x\r\n%b\r\n" % (len(data), data) if chunked else data)
            passed += len(data)
        if chunked:
            link.send(b"0\r\n\r\n")
        self._return(link.getresponse(), fault)

    def _return(self, response: http.client.HTTPResponse, fault: Fault | None) -> None:
        self._record(response.status)
        self.send_response_only(response.status, response.reason)
        dropped = {name.lower() for name in fault.drop_headers} if fault else set()
        for name, value in response.getheaders():
            if name.lower() not in _HOP_BY_HOP | dropped:
                self.send_header(name, value)
        has_body = self.command != "HEAD" and response.status not in (204, 304)
        chunked = has_body and (response.length is None or "content-length" in dropped)
        if chunked:
            self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for data in self._tainted(_body_of(response), fault):
            self.wfile.write(b"%x\r\n%b\r\n" % (len(data), data) if chunked else data)
        if chunked:
            self.wfile.write(b"0\r\n\r\n")

    def _tainted(self, body: Iterable[bytes], fault: Fault | None) -> Iterator[bytes]:
        """The body with the fault applied; raises ConnectionError where the fault cuts."""
        if fault is None:
            yield from body
            return
        position = 0
        for data in body:
            piece = data
            if fault.corrupt_at is not None and position <= fault.corrupt_at < position + len(piece):
                at = fault.corrupt_at - position
                piece = piece[:at] + bytes([piece[at] ^ 0xFF]) + piece[at + 1 :]
            if fault.stall_after is not None and position <= fault.stall_after < position + len(piece):
                at = fault.stall_after - position
                yield piece[:at]
                piece = piece[at:]
                position += at
                self.wfile.flush()
                fault.stalled.set()
                fault.release.wait()
            if fault.cut_after is not None and position + len(piece) >= fault.cut_after:
                yield piece[: fault.cut_after - position]
                self._cut()
            position += len(piece)
            yield piece

    def _cut(self) -> None:
        self.close_connection = True
        if self._upstream:
            self._upstream.close()
            self._upstream = None
        self.wfile.flush()
        with suppress(OSError):
            self.request.shutdown(socket.SHUT_RDWR)
        raise ConnectionError("cut as the fault says")


def _body_of(response: http.client.HTTPResponse) -> Iterator[bytes]:
    while data := response.read1(CHUNK):
        yield data
    # read1 does not close a response at its end, so the connection would refuse the next request.
    response.close()

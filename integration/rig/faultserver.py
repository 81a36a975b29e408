"""A registry on raw sockets that serves one image correctly, except for one fault.

A fault is a function of an `Exchange`: the request, the correct response, and the socket for another one.
Standard library only; http.server cannot send most of the invalid responses.
"""

from __future__ import annotations

import re
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from struct import pack
from types import TracebackType

from tests.support.images import Graph, digest_of

_PATH = re.compile(r"/v2/(?P<name>.+)/(?P<kind>manifests|blobs)/(?P<target>[^/]+)")
_PIECE = 1 << 16
Headers = Mapping[str, str]


class Cut(Exception):
    """Ends a connection."""


@dataclass(frozen=True)
class Asked:
    """A request; `what` is resolve (HEAD of a tag), tag, manifest, config, layer, or other."""

    method: str
    path: str
    headers: Headers
    what: str


@dataclass(frozen=True)
class Reply:
    """An answer. Content-Length is that of the body unless `headers` have one, or Transfer-Encoding."""

    status: int = 200
    headers: Headers = field(default_factory=dict)
    body: bytes = b""

    def but(self, *, drop: Iterable[str] = (), **headers: str) -> Reply:
        """The same reply with other headers (`_` stands for `-`)."""
        kept = {name: value for name, value in self.headers.items() if name not in drop}
        return replace(self, headers={**kept, **{k.replace("_", "-"): v for k, v in headers.items()}})


@dataclass
class Exchange:
    """One request with the correct response, and methods to send another one."""

    asked: Asked
    good: Reply
    server: FaultServer
    link: socket.socket

    def send(self, reply: Reply | None = None) -> None:
        """Send the complete response; HEAD gets no body."""
        reply = reply or self.good
        self.head(reply)
        if self.asked.method != "HEAD":
            self.raw(reply.body)

    def head(self, reply: Reply) -> None:
        """Send status line and headers only."""
        headers = dict(reply.headers)
        if not {"content-length", "transfer-encoding", "connection"} & {name.lower() for name in headers}:
            headers["Content-Length"] = str(len(reply.body))
        lines = [
            f"HTTP/1.1 {reply.status} Whatever",
            *(f"{name}: {value}" for name, value in headers.items()),
        ]
        self.raw("\r\n".join([*lines, "", ""]).encode("latin-1"))

    def raw(self, data: bytes) -> None:
        """Send bytes as they are."""
        self.link.sendall(data)

    def drip(self, data: bytes, seconds: float) -> None:
        """Send byte by byte, with a pause after each."""
        for value in data:
            self.raw(bytes([value]))
            self.hold(seconds)

    def hold(self, seconds: float = 60.0) -> None:
        """Wait, at most until the server is closed."""
        if self.server.ended.wait(seconds):
            raise Cut

    def cut(self, *, reset: bool = False) -> None:
        """Close the connection, with `reset` by a TCP reset."""
        if reset:
            self.link.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, pack("ii", 1, 0))
        raise Cut


Behaviour = Callable[[Exchange], None]


@dataclass(frozen=True)
class Fault:
    """What is done to responses to `where` (kinds of requests, all if empty), at most `times` times."""

    where: frozenset[str]
    behave: Behaviour
    times: int | None = None


class FaultServer:
    """Serves `graph` under any repository name with tag `latest`; a context manager.

    `listener` is a socket to listen on, by default one of 127.0.0.1. `greet` deals with a fresh connection
    instead of TLS and HTTP.
    """

    def __init__(
        self,
        graph: Graph,
        fault: Fault | None = None,
        *,
        tls: ssl.SSLContext | None = None,
        listener: socket.socket | None = None,
        greet: Callable[[socket.socket], None] | None = None,
    ) -> None:
        self.graph = graph
        self.fault = fault
        self.asked: list[Asked] = []
        self.connections = 0
        self.ended = threading.Event()
        self._tainted = 0
        self._tls = tls
        self._greet = greet
        self._lock = threading.Lock()
        self._listener = listener or socket.create_server(("127.0.0.1", 0))

    def __enter__(self) -> FaultServer:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.ended.set()
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    @property
    def host(self) -> str:
        """host:port as it stands in references."""
        address, port = self._listener.getsockname()[:2]
        return f"{address}:{port}"

    def repair(self, graph: Graph | None = None) -> None:
        """Serve correctly from now on, another image if given."""
        with self._lock:
            self.fault = None
            self.graph = graph or self.graph
            self.asked.clear()

    # --- sockets

    def _accept(self) -> None:
        while not self.ended.is_set():
            try:
                link, _address = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            threading.Thread(target=self._serve, args=(link,), daemon=True).start()

    def _serve(self, link: socket.socket) -> None:
        with suppress(OSError, Cut, ValueError):
            link.settimeout(30)
            if self._greet and self.fault:
                self._greet(link)
            elif self._tls:
                with self._tls.wrap_socket(link, server_side=True) as secure:
                    self._converse(secure)
            else:
                self._converse(link)
        with suppress(OSError):
            link.close()

    def _converse(self, link: socket.socket) -> None:
        with link.makefile("rb") as lines:
            while line := lines.readline(_PIECE):
                method, path, _version = line.decode("latin-1").split()
                headers = {}
                while (header := lines.readline(_PIECE).strip()) != b"":
                    name, _, value = header.decode("latin-1").partition(":")
                    headers[name.lower()] = value.strip()
                lines.read(int(headers.get("content-length", 0)))
                self._answer(link, method, path, headers)
        # An orderly close, even if another thread still uses the socket.
        with suppress(OSError):
            link.shutdown(socket.SHUT_RDWR)

    def _answer(self, link: socket.socket, method: str, path: str, headers: Headers) -> None:
        # Requests to a proxy have whole URLs.
        bare = re.sub(r"^http://[^/]+", "", path.partition("?")[0])
        with self._lock:
            asked = Asked(method, path, headers, self._what(method, bare))
            self.asked.append(asked)
            fault = self.fault
            spoil = fault is not None and (not fault.where or asked.what in fault.where)
            spoil = spoil and (fault.times is None or self._tainted < fault.times) if fault else False
            self._tainted += spoil
        exchange = Exchange(asked, self._good(asked, bare), self, link)
        if fault and spoil:
            fault.behave(exchange)
        else:
            exchange.send()

    # --- content

    def _what(self, method: str, path: str) -> str:
        found = _PATH.fullmatch(path)
        if not found:
            return "other"
        if found["kind"] == "manifests":
            if ":" in found["target"]:
                return "manifest"
            return "resolve" if method == "HEAD" else "tag"
        return "config" if self.graph.blobs.get(found["target"], b"").startswith(b"{") else "layer"

    def _good(self, asked: Asked, path: str) -> Reply:
        found = _PATH.fullmatch(path)
        digest = found["target"] if found else ""
        if digest and ":" not in digest:
            digest = self.graph.digest
        body = self.graph.blobs.get(digest)
        if body is None:
            return Reply(404, {"Content-Type": "application/json"}, b'{"errors":[{"code":"NOT_FOUND"}]}')
        headers = {"Content-Type": "application/octet-stream", "Docker-Content-Digest": digest}
        if asked.what in ("resolve", "tag", "manifest"):
            headers["Content-Type"] = self._media_type(digest, body)
        start = re.fullmatch(r"bytes=(\d+)-", asked.headers.get("range", ""))
        if not start:
            return Reply(200, headers, body)
        first = int(start[1])
        headers["Content-Range"] = f"bytes {first}-{len(body) - 1}/{len(body)}"
        return Reply(206, headers, body[first:])

    def _media_type(self, digest: str, body: bytes) -> str:
        if digest == self.graph.digest:
            return str(self.graph.root["mediaType"])
        found = re.search(rb'"mediaType":"([^"]+)"', body)
        return found[1].decode() if found else "application/octet-stream"


# --- behaviours -------------------------------------------------------------------------------------------


def answering(status: int = 200, body: bytes = b"", **headers: str) -> Behaviour:
    """Send this response to any request; `_` in a header's name stands for `-`."""
    return lambda exchange: exchange.send(Reply(status, {}, body).but(**headers))


def altered(change: Callable[[Reply], Reply]) -> Behaviour:
    """Send the correct response with one change."""
    return lambda exchange: exchange.send(change(exchange.good))


def with_headers(*, drop: Iterable[str] = (), **headers: str) -> Behaviour:
    """Send the correct response with these headers."""
    return altered(lambda good: good.but(drop=drop, **headers))


def cut_after(count: int, *, reset: bool = False) -> Behaviour:
    """Send the correct head, and so many bytes of the body."""

    def behave(exchange: Exchange) -> None:
        exchange.head(exchange.good)
        exchange.raw(exchange.good.body[:count])
        exchange.cut(reset=reset)

    return behave


def stalled_after(count: int) -> Behaviour:
    """Send the correct head, so many bytes of the body, and then nothing more."""

    def behave(exchange: Exchange) -> None:
        exchange.head(exchange.good)
        exchange.raw(exchange.good.body[:count])
        exchange.hold()

    return behave


def dripping(seconds: float = 0.05, *, head: bool = False) -> Behaviour:
    """Send the body byte by byte, or the head, too."""

    def behave(exchange: Exchange) -> None:
        if head:
            exchange.drip(b"HTTP/1.1 200 OK\r\nX-Slow: " + b"o" * 100_000, seconds)
        exchange.head(exchange.good)
        exchange.drip(exchange.good.body, seconds)

    return behave


def endless(data: bytes, before: bytes = b"", *, chunked: bool = False, pause: float = 0) -> Behaviour:
    """Send a head without a length (or `before`, if given), and then endless data, with pauses."""

    def behave(exchange: Exchange) -> None:
        how = {"Transfer-Encoding": "chunked"} if chunked else {"Connection": "close"}
        if before:
            exchange.raw(before)
        else:
            exchange.head(exchange.good.but(**how))
        piece = b"%x\r\n%b\r\n" % (len(data), data) if chunked else data
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            exchange.raw(piece)
            if pause:
                exchange.hold(pause)

    return behave


def framed(after: bytes, piece: bytes, *, body: bool, pause: float = 0.05) -> Behaviour:
    """Send a head, the `body` in one chunk or none of it, and then endless framing."""

    def behave(exchange: Exchange) -> None:
        exchange.head(exchange.good.but(Transfer_Encoding="chunked"))
        if body:
            exchange.raw(b"%x\r\n%b\r\n" % (len(exchange.good.body), exchange.good.body))
        exchange.raw(after)
        while True:
            exchange.raw(piece)
            exchange.hold(pause)

    return behave


def preceded(interim: bytes) -> Behaviour:
    """Send an interim response before the correct one."""

    def behave(exchange: Exchange) -> None:
        exchange.raw(interim)
        exchange.send()

    return behave


def chunked(*, whole: bool, count: int = 1 << 30) -> Behaviour:
    """Send the body in chunks; unless `whole`, the data after `count` bytes is not a valid chunk."""

    def behave(exchange: Exchange) -> None:
        exchange.head(exchange.good.but(Transfer_Encoding="chunked"))
        body = exchange.good.body[:count]
        exchange.raw(b"%x\r\n%b\r\n" % (len(body), body))
        exchange.raw(b"0\r\n\r\n" if whole else b"no chunk at all\r\n")
        if not whole:
            exchange.cut()

    return behave


def wrong_byte(good: Reply) -> Reply:
    """The same response with one bit of its body flipped, and unchanged headers."""
    middle = len(good.body) // 2
    spoiled = bytes([good.body[middle] ^ 1]) if good.body else b""
    return replace(good, body=good.body[:middle] + spoiled + good.body[middle + 1 :])


def raw_graph(body: bytes, media_type: str, blobs: Mapping[str, bytes] | None = None) -> Graph:
    """An image whose root is any bytes, served under their correct digest."""
    digest = digest_of(body)
    root = {"mediaType": media_type, "digest": digest, "size": len(body)}
    return Graph(root, {**(blobs or {}), digest: body})

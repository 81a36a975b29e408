"""Faults on the way to a registry: connections, waiting, authentication, redirects."""

from __future__ import annotations

import base64
import socket
import time
from collections.abc import Callable
from email.utils import formatdate

from integration.faults.case import AT, LAYER, LINK_LOCAL, LOGIN, NEVER, Case, on
from integration.rig.faultserver import (
    Behaviour,
    Exchange,
    Reply,
    answering,
    cut_after,
    dripping,
    endless,
    preceded,
)


def _retry_date(seconds: float) -> Behaviour:
    def behave(exchange: Exchange) -> None:
        exchange.send(Reply(503, {"Retry-After": formatdate(time.time() + seconds, usegmt=True)}))

    return behave


def _says_plain_400(link: socket.socket) -> None:
    link.recv(1 << 16)
    link.sendall(b"HTTP/1.0 400 Bad Request\r\n\r\nClient sent an HTTP request to an HTTPS server.\n")


def _greets(data: bytes) -> Callable[[socket.socket], None]:
    def greet(link: socket.socket) -> None:
        link.recv(1 << 16)
        link.sendall(data)

    return greet


def _tunnels(start: bytes, piece: bytes, pause: float = 0.05) -> Callable[[socket.socket], None]:
    """Answer CONNECT with an endless response."""

    def greet(link: socket.socket) -> None:
        link.recv(1 << 16)
        link.sendall(start)
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            link.sendall(piece)
            time.sleep(pause)

    return greet


def _connect(name: str, story: str, start: bytes, piece: bytes, says: str, pause: float = 0.05) -> Case:
    return Case(
        name,
        f"the proxy's response to CONNECT {story}",
        on("", lambda _: None),
        ("registry.invalid", "{repository}", says, "through proxy http://127.0.0.1:"),
        asks=0,
        options=NEVER,
        via="connect",
        greet=_tunnels(start, piece, pause),
    )


def _wants_login(pair: bytes) -> Behaviour:
    wanted = f"Basic {base64.b64encode(pair).decode()}"

    def behave(exchange: Exchange) -> None:
        known = exchange.asked.headers.get("proxy-authorization") == wanted
        exchange.send(None if known else Reply(407))

    return behave


def _bearer(realm: str) -> Behaviour:
    return answering(401, WWW_Authenticate=f'Bearer realm="{realm}",service="s"')


def _spelled(name: str, host: str, zone: str) -> Case:
    return Case(
        f"proxied-redirect-{name}",
        f"behind a proxy, a redirect to `{host}`",
        on("layer", answering(302, Location=f"http://{host}/latest")),
        ("{repository}", "{layer}", f"{host} is a {zone} address"),
        via="through-proxy",
    )


def _circle(exchange: Exchange) -> None:
    exchange.send(Reply(302, {"Location": exchange.asked.path}))


CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
HINTS = b"HTTP/1.1 103 Early Hints\r\nLink: </style.css>; rel=preload\r\n\r\n"
LATE = "timed out while waiting"
TUNNEL = b"HTTP/1.1 200 Connection established\r\n"

CONNECTIONS = (
    Case(
        "connection-refused",
        "nothing listens on the port",
        None,
        (AT, "connection refused"),
        asks=0,
        via="nobody",
    ),
    Case(
        "no-such-host",
        "the name does not exist",
        None,
        ("no such host", "{repository}"),
        asks=0,
        via="nowhere",
    ),
    Case(
        "dead-proxy",
        "the proxy does not exist",
        None,
        ("connection refused", "through proxy http://127.0.0.1:1"),
        asks=0,
        via="proxy",
    ),
    Case(
        "hosts-toml-pipe",
        "hosts.toml is a named pipe without a writer",
        None,
        ("hosts.toml: not a regular file",),
        code=2,
        asks=0,
        via="pipe hosts.toml",
    ),
    Case(
        "ca-pipe",
        "the CA file in hosts.toml is a named pipe without a writer",
        None,
        ("cannot use CA file", "ca.pem: not a regular file"),
        code=2,
        asks=0,
        via="pipe ca.pem",
    ),
    Case(
        "tls-unknown-authority",
        "a certificate of an unknown authority",
        None,
        (AT, "certificate signed by unknown authority"),
        asks=0,
        via="tls-unknown",
    ),
    Case(
        "tls-expired",
        "the certificate has expired",
        None,
        (AT, "failed to verify certificate", "expired"),
        asks=0,
        via="tls-expired",
    ),
    Case(
        "tls-other-name",
        "the certificate is for another name",
        None,
        (AT, "failed to verify certificate", "mismatch"),
        asks=0,
        via="tls-other-name",
    ),
    Case(
        "tls-alert",
        "the TLS handshake is refused",
        on("", lambda _: None),
        (AT, "tls: handshake failed"),
        asks=0,
        via="greeting-tls",
        greet=_greets(b"\x15\x03\x03\x00\x02\x02\x28"),
    ),
    Case(
        "plain-on-tls-port",
        "the port expects TLS, and responds to plain http in TLS",
        on("", lambda _: None),
        (AT, "the server speaks TLS", "Do not use --plain-http for it."),
        asks=0,
        via="greeting",
        greet=_greets(b"\x15\x03\x01\x00\x02\x02\x46"),
    ),
    Case(
        "plain-on-go-port",
        "the port expects TLS, and responds to plain http with Go's error message",
        on("", lambda _: None),
        (AT, "unexpected status 400", "--plain-http"),
        asks=0,
        via="greeting",
        greet=_says_plain_400,
    ),
    Case(
        "tls-on-plain-port",
        "the port does not support TLS",
        on("", lambda _: None),
        (AT, "server gave HTTP response to HTTPS client"),
        asks=0,
        via="greeting-tls",
        greet=_greets(b"HTTP/1.1 400 Bad Request\r\n\r\n"),
    ),
    Case(
        "head-stalls",
        "no response",
        on("", lambda exchange: exchange.hold()),
        (AT, "timed out while waiting"),
        asks=3,
    ),
    Case(
        "head-drips",
        "the head of the response is sent byte by byte, endlessly",
        on("", dripping(head=True)),
        (AT, "timed out while waiting"),
        asks=1,
        options=NEVER,
    ),
    Case(
        "endless-100",
        "endless `100 Continue` responses",
        on("", endless(CONTINUE, CONTINUE, pause=0.05)),
        (AT, "timed out while waiting"),
        asks=1,
        options=NEVER,
    ),
    Case(
        "endless-103",
        "endless `103 Early Hints` responses",
        on("", endless(HINTS, HINTS, pause=0.05)),
        (AT, "timed out while waiting"),
        asks=1,
        options=NEVER,
    ),
    Case("early-hints", "`103 Early Hints` before each response", on("", preceded(HINTS)), (), 0),
    Case(
        "processing",
        "`102 Processing` before each response",
        on("", preceded(b"HTTP/1.1 102 Processing\r\n\r\n")),
        (),
        0,
    ),
    Case(
        "header-flood",
        "an endless header line",
        on("", endless(b"x" * 9999, b"HTTP/1.1 200 OK\r\nX-Big: ")),
        (AT, "malformed HTTP response"),
        asks=1,
    ),
    Case(
        "no-http",
        "a response that is not HTTP",
        on("", lambda exchange: exchange.raw(b"220 mail\r\n\r\n")),
        (AT, "malformed HTTP response"),
        asks=1,
    ),
    Case(
        "proxy-password",
        "a proxy with a password that is percent-encoded in its URL",
        on("", _wants_login(b"me:hush@!")),
        (),
        0,
        via="through-proxy",
    ),
    _connect("connect-drips", "is sent byte by byte", b"HTTP/1.1 ", b"2", LATE),
    _connect(
        "connect-header-drips",
        "has an endless header",
        TUNNEL + b"X: ",
        b"y",
        "timed out while waiting",
    ),
    _connect("connect-headers", "has endless headers", TUNNEL, b"X: y\r\n", LATE),
    _connect("connect-flood", "never ends", TUNNEL + b"X: ", b"y" * 9999, "malformed HTTP response", 0),
    Case("reset-once", "the connection is reset, once", on("resolve", cut_after(0, reset=True), 1), (), 0),
)

WAITING = (
    Case(
        "429-seconds",
        "429 with Retry-After in seconds, once",
        on("resolve", answering(429, Retry_After="1"), 1),
        (),
        0,
    ),
    Case(
        "503-date",
        "503 with Retry-After as a date, once",
        on("layer", _retry_date(1), 1),
        (),
        0,
        options=("--retry-budget", "3"),
    ),
    Case("429-absent", "429 without Retry-After, once", on("manifest", answering(429), 1), (), 0),
    Case(
        "429-absurd",
        "429 with Retry-After of two days",
        on("resolve", answering(429, Retry_After="172800")),
        (AT, "unexpected status 429", "it asks to wait 172800 s (2 days)", "--retry-budget"),
        asks=1,
    ),
    Case(
        "503-absurd-date",
        "503 with Retry-After in the year 2099",
        on("layer", answering(503, Retry_After="Wed, 01 Jan 2099 00:00:00 GMT")),
        (*LAYER, "unexpected status 503", "it asks to wait", "days"),
        asks=6,
    ),
    Case("500-once", "500, once", on("manifest", answering(500), 1), (), 0),
    Case("500-always", "500, always", on("resolve", answering(500)), (AT, "unexpected status 500"), asks=5),
    Case(
        "502-on-a-layer",
        "502 for a layer, always",
        on("layer", answering(502)),
        ("{host}", "{repository}", "unexpected status 502"),
        asks=12,
    ),
)

AUTHENTICATION = (
    Case(
        "401-loop",
        "credentials are never accepted",
        on("", answering(401, WWW_Authenticate='Basic realm="x"')),
        ("{host}", "{repository}", "authorization failed"),
        asks=4,
        options=LOGIN,
    ),
    Case(
        "401-no-challenge",
        "401 without a challenge",
        on("", answering(401)),
        ("{repository}", "pull access denied"),
        asks=1,
    ),
    Case(
        "401-errors-object",
        "an error body whose `errors` is an object and not a list",
        on("layer", answering(403, b'{"errors":{"code":"DENIED","message":"go away"}}')),
        ("{host}", "{repository}", "{layer}", "pull access denied", "DENIED: go away"),
    ),
    Case(
        "realm-link-local",
        "the token server is a cloud's metadata service",
        on("resolve", _bearer(LINK_LOCAL)),
        ("{repository}", "169.254.169.254", "link-local"),
        asks=1,
    ),
    Case(
        "realm-file",
        "the token server is a file",
        on("resolve", _bearer("file:///etc/passwd")),
        ("{host}", "{repository}", "not the URL of a token server"),
        asks=1,
    ),
    Case(
        "realm-injection",
        "a line break in the challenge's realm",
        on("resolve", _bearer("http://127.0.0.1:1/\r\n X-Evil: 1")),
        ("{host}", "{repository}"),
        asks=1,
    ),
)

REDIRECTS = (
    Case(
        "redirect-loop",
        "redirects in a circle",
        on("resolve", _circle),
        ("{repository}", "stopped after 10 redirects"),
        asks=11,
    ),
    Case(
        "redirect-file",
        "a redirect to a file",
        on("layer", answering(307, Location="file:///etc/passwd")),
        (*LAYER, "not a plain http URL"),
    ),
    Case(
        "redirect-ftp",
        "a redirect to ftp",
        on("layer", answering(307, Location="ftp://127.0.0.1/x")),
        (*LAYER, "not a plain http URL"),
    ),
    Case(
        "redirect-link-local",
        "a redirect to a cloud's metadata service",
        on("layer", answering(302, Location=LINK_LOCAL)),
        (*LAYER, "169.254.169.254 is a link-local address"),
    ),
    _spelled("decimal", "2852039166", "link-local"),
    _spelled("hexadecimal", "0xa9fea9fe", "link-local"),
    _spelled("short", "127.1", "loopback"),
    _spelled("name", "localhost.localdomain", "loopback"),
    _spelled("metadata", "metadata.google.internal", "cloud metadata"),
    Case(
        "redirect-metadata",
        "a redirect to another cloud's metadata service",
        on("layer", answering(302, Location="http://100.100.100.200/latest/meta-data")),
        (*LAYER, "100.100.100.200 is a cloud metadata address"),
    ),
    Case(
        "redirect-down",
        "a redirect from https to http",
        on("layer", answering(302, Location="http://127.0.0.1:1/x")),
        ("{repository}", "{layer}", "from https down to http"),
        via="tls",
    ),
    Case(
        "redirect-injection",
        "a line break in Location",
        on("layer", answering(302, Location="/x\r\n X-Evil: 1")),
        (*LAYER, "not a URL"),
    ),
    Case(
        "redirect-userinfo",
        "a redirect with a user in it",
        on("layer", answering(302, Location="http://a@127.0.0.1/")),
        (*LAYER, "not a plain http URL"),
    ),
)

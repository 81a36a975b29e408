"""The fields of a row of the table, and values that many rows share."""

from __future__ import annotations

import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from integration.rig.faultserver import Behaviour, Exchange, Fault, answering, framed
from tests.support.images import Graph

LINK_LOCAL = "http://169.254.169.254/latest/meta-data"


@dataclass(frozen=True)
class Case:
    """One fault. `code` is the pull's exit code, `says` what stderr must hold, `asks` the most requests.

    `image_at` makes the image from the server's host[:port], too. In `says`, {host}, {repository}, {root},
    {manifest}, {config} and {layer} stand for the names and digests of the image. `via` is how the server
    listens: http, tls, tls-expired, tls-other-name, tls-unknown, greeting or greeting-tls (only `greet`
    speaks, to a client of http or https), nobody, nowhere (a name that does not exist), proxy (one that is
    not there), connect (`greet` is a proxy that is asked for a tunnel), through-proxy (the server is a proxy
    that serves what it is asked for), or "pipe" with the name of a file of the host configuration that is a
    named pipe. `generations` are those of containerd that the row is about, where they differ.
    """

    name: str
    story: str
    fault: Fault | None
    says: Sequence[str]
    code: int = 5
    asks: int = 8
    image: Callable[[str], Graph] | None = None
    image_at: Callable[[str, str], Graph] | None = None
    options: Sequence[str] = ()
    via: str = "http"
    greet: Callable[[socket.socket], None] | None = None
    generations: Sequence[str] = ()


def on(where: str, behave: Behaviour, times: int | None = None) -> Fault:
    """Apply a fault to responses to these kinds of requests, by default to all."""
    return Fault(frozenset(where.split()), behave, times)


def first_layer(behave: Behaviour) -> Behaviour:
    """Apply a fault to the first layer of the root manifest only: with two, the order would vary."""

    def chosen(exchange: Exchange) -> None:
        first = exchange.server.graph.document()["layers"][0]["digest"]
        if exchange.asked.path.endswith(first):
            behave(exchange)
        else:
            exchange.send()

    return chosen


AT = "{host}/{repository}"
LAYER = ("{host}", "{repository}", "{layer}")
ROOT = ("{host}", "{repository}", "{root}")
NEVER = ("--retry-budget", "0")
LOGIN = ("-u", "tester:hush")
_HTML = b"<!doctype html><title>Log in</title>"
AS_HTML = answering(200, _HTML, Content_Type="text/html; charset=utf-8")


def framing(where: str) -> tuple[Case, ...]:
    """Return faults in the framing of a manifest, config or layer: slow and endless bytes."""
    what = f"the {where}" if where == "config" else f"a {where}"
    lost = (*LAYER[:2], "short read", "timed out while waiting")
    flood = b"1;" + b"x" * 60_000 + b"\r\n{\r\n"
    trailer = b"X: " + b"y" * 60_000 + b"\r\n"
    return (
        Case(
            f"{where}-chunk-size-drips",
            f"{what} whose first chunk size never ends",
            on(where, framed(b"", b"0", body=False)),
            lost,
            asks=14,
        ),
        Case(
            f"{where}-extension-drips",
            f"{what} whose chunk extension never ends",
            on(where, framed(b"9;x=", b"y", body=False)),
            lost,
            asks=14,
        ),
        Case(
            f"{where}-extension-flood",
            f"{what} with 60 kB of chunk extension for each byte",
            on(where, framed(b"", flood, body=False, pause=0)),
            lost[:3],
            asks=14,
        ),
        Case(
            f"{where}-trailer-drips",
            f"{what}, whole, and a trailer that never ends",
            on(where, framed(b"0\r\nX: ", b"y", body=True)),
            (),
            0,
        ),
        Case(
            f"{where}-trailers-endless",
            f"{what}, complete, and endless trailers",
            on(where, framed(b"0\r\n", b"X: y\r\n", body=True)),
            (),
            0,
        ),
        Case(
            f"{where}-trailer-flood",
            f"{what}, complete, and an endless trailer",
            on(where, framed(b"0\r\n", trailer, body=True, pause=0)),
            (),
            0,
        ),
    )

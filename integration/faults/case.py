"""What a row of the table says, and the words that many rows share."""

from __future__ import annotations

import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from integration.rig.faultserver import Behaviour, Exchange, Fault, answering
from integration.rig.images import Graph

LINK_LOCAL = "http://169.254.169.254/latest/meta-data"


@dataclass(frozen=True)
class Case:
    """One fault. `code` is the pull's exit code, `says` what stderr must hold, `asks` the most requests.

    In `says`, {host}, {repository}, {root}, {manifest}, {config} and {layer} stand for the names and digests
    of the image. `via` is how the server listens: http, tls, tls-expired, tls-other-name, tls-unknown,
    greeting or greeting-tls (only `greet` speaks, to a client of http or https), nobody, nowhere (a name that
    does not exist), proxy (one that is not there).
    """

    name: str
    story: str
    fault: Fault | None
    says: Sequence[str]
    code: int = 5
    asks: int = 8
    image: Callable[[str], Graph] | None = None
    options: Sequence[str] = ()
    via: str = "http"
    greet: Callable[[socket.socket], None] | None = None


def on(where: str, behave: Behaviour, times: int | None = None) -> Fault:
    """Spoil the answers to these kinds of requests; none named is all."""
    return Fault(frozenset(where.split()), behave, times)


def first_layer(behave: Behaviour) -> Behaviour:
    """Spoil the first layer of the root manifest alone: of two faults at once any may come first."""

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

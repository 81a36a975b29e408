"""Requests that another thread ends: while they wait, in a pause, and later ones."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from pyctrd.errors import Cancelled, ClientClosed, PyctrdError
from pyctrd.registry.http import shutdown
from pyctrd.registry.http.shutdown import Shutdown
from pyctrd.registry.http.transport import Request, Transport

SECONDS = 20


@pytest.fixture
def silent() -> Iterator[tuple[str, threading.Event]]:
    """A server that never responds: its URL, and an event that is set by the first request."""
    asked = threading.Event()
    connections: list[socket.socket] = []
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            connection, _ = server.accept()
            connections.append(connection)
            if connection.recv(1 << 16):
                asked.set()

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}/v2/", asked
        for connection in connections:
            connection.close()


@pytest.mark.parametrize(("end", "kind"), [("close", ClientClosed), ("cancel", Cancelled)])
def test_a_waiting_request_ends_and_later_ones_are_refused(
    silent: tuple[str, threading.Event], end: str, kind: type[PyctrdError]
) -> None:
    url, asked = silent
    transport = Transport()
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(transport.send, Request("GET", url))
        assert asked.wait(SECONDS)
        getattr(transport, end)()
        with pytest.raises(kind):
            answer.result(SECONDS)
    with pytest.raises(kind):
        transport.send(Request("GET", url))
    transport.close()


def test_a_pause_ends_at_once() -> None:
    transport = Transport()
    threading.Timer(0.1, transport.cancel).start()
    started = time.monotonic()
    with pytest.raises(Cancelled):
        transport.pause(3600)
    assert time.monotonic() - started < SECONDS


def test_uploads_can_be_cancelled_during_a_grace_period(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutdown, "GRACE_SECONDS", SECONDS)
    ended = Shutdown()
    ended.check("GET")
    ended.begin(lambda: Cancelled("over"))
    for method in ("GET", "HEAD", "POST", "PUT", "PATCH"):
        with pytest.raises(Cancelled):
            ended.check(method)
    ended.check("DELETE")
    monkeypatch.setattr(shutdown, "GRACE_SECONDS", 0.0)
    late = Shutdown()
    late.begin(lambda: Cancelled("over"))
    with pytest.raises(Cancelled):
        late.check("DELETE")


def test_a_late_connection_is_shut_down(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutdown, "GRACE_SECONDS", 0.0)
    ended = Shutdown()
    ended.begin(lambda: ClientClosed("over"))
    one, other = socket.socketpair()
    with one, other:
        ended.watch(one)
        assert other.recv(1) == b""

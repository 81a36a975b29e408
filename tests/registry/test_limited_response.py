"""Responses that never end, in the head or in the framing; and interim responses before the final one."""

from __future__ import annotations

import http.client
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from itertools import chain, repeat
from pathlib import Path

import pytest
import trustme
from hypothesis import example, given
from hypothesis import strategies as st

from pyctrd.errors import RegistryError, RegistryUnreachable
from pyctrd.oci import reference
from pyctrd.registry import RegistryClient, RegistryOptions, listing
from pyctrd.registry.http import errors
from pyctrd.registry.http.limited_response import MAX_FRAMING_BYTES, MAX_HEAD_BYTES, LimitedResponse
from pyctrd.registry.http.transport import Request, Transport

STALL = 0.3
LONG = 20.0  # large, so that limits of size are reached before limits of time
HEAD = b"HTTP/1.1 200 OK\r\n"
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
WHOLE = CHUNKED + b"5\r\nhello\r\n"
FLOOD = b"X: " + b"y" * 60_000 + b"\r\n"

DRIPS = {
    "chunk size": (CHUNKED, b"0"),
    "chunk extension": (CHUNKED + b"5;x=", b"y"),
    "end of a chunk": (CHUNKED + b"5\r\nhello", b""),
    "last chunk": (WHOLE, b"0"),
    "trailer": (WHOLE + b"0\r\nX: ", b"y"),
    "trailers": (WHOLE + b"0\r\n", b"X: y\r\n"),
}
FLOODS = {
    "chunk extensions": (CHUNKED, b"1;" + b"x" * 60_000 + b"\r\ny\r\n"),
    "trailers": (WHOLE + b"0\r\n", FLOOD),
}
HEADS = {
    "interim answers": (b"", b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n"),
    "headers": (HEAD, FLOOD),
    "continue": (b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
}
TUNNEL = b"HTTP/1.1 200 Connection established\r\n"


@contextmanager
def responding(
    start: bytes, piece: bytes, pause: float, *, tls: ssl.SSLContext | None = None
) -> Iterator[tuple[str, list[int]]]:
    """Answer every request with `start`, then `piece` without end; yields host:port and the bytes sent."""
    ended = threading.Event()
    sent = [0]
    listener = socket.create_server(("127.0.0.1", 0))

    def serve(link: socket.socket) -> None:
        link.settimeout(20)
        with suppress(OSError), tls.wrap_socket(link, server_side=True) if tls else link as client:
            client.recv(1 << 16)
            for data in chain([start], repeat(piece)):
                client.sendall(data)
                sent[0] += len(data)
                if ended.wait(pause):
                    return

    def accept() -> None:
        with suppress(OSError):
            while True:
                link, _address = listener.accept()
                threading.Thread(target=serve, args=(link,), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield f"127.0.0.1:{listener.getsockname()[1]}", sent
    finally:
        ended.set()
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()


@contextmanager
def tunnel(tls: ssl.SSLContext, target: str) -> Iterator[str]:
    """A proxy that speaks TLS, and always connects to `target`; yields its host:port."""
    listener = socket.create_server(("127.0.0.1", 0))

    def pump(source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError, ValueError):
            while data := source.recv(1 << 16):
                sink.sendall(data)
        with suppress(OSError):
            sink.close()

    def serve(link: socket.socket) -> None:
        with suppress(OSError), tls.wrap_socket(link, server_side=True) as client:
            client.recv(1 << 16)
            client.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
            host, port = target.split(":")
            with socket.create_connection((host, int(port))) as server:
                threading.Thread(target=pump, args=(server, client), daemon=True).start()
                pump(client, server)

    def accept() -> None:
        with suppress(OSError):
            while True:
                link, _address = listener.accept()
                threading.Thread(target=serve, args=(link,), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield f"127.0.0.1:{listener.getsockname()[1]}"
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()


def read(url: str, *, proxy: str = "", stall: float = LONG) -> bytes:
    with Transport(stall_timeout=stall, sleep=lambda _: None) as transport:
        response = transport.send(Request("GET", url, tries=1, proxy=proxy))
        with closing(response):
            return response.read(1000)


@pytest.mark.parametrize("what", DRIPS)
def test_slow_bytes_in_the_framing_are_a_stall(what: str) -> None:
    start, piece = DRIPS[what]
    with (
        responding(start, piece, 0.02) as (host, _sent),
        pytest.raises(RegistryUnreachable, match="timed out"),
    ):
        read(f"http://{host}/", stall=STALL)


@pytest.mark.parametrize("what", FLOODS)
def test_endless_framing_is_an_error(what: str) -> None:
    start, piece = FLOODS[what]
    with responding(start, piece, 0) as (host, sent):
        with pytest.raises(RegistryUnreachable, match="the framing of the body does not end"):
            read(f"http://{host}/")
        assert sent[0] < 20 * MAX_FRAMING_BYTES  # buffers of the kernel included


@pytest.mark.parametrize("what", HEADS)
def test_an_endless_head_is_an_error(what: str) -> None:
    start, piece = HEADS[what]
    with responding(start, piece, 0) as (host, sent):
        with pytest.raises(RegistryUnreachable, match="malformed HTTP response"):
            read(f"http://{host}/")
        assert sent[0] < 20 * MAX_HEAD_BYTES


@pytest.mark.parametrize("what", ["interim answers", "continue"])
def test_slow_interim_responses_have_the_time_limit_of_a_head(what: str) -> None:
    start, piece = HEADS[what]
    with (
        responding(start, piece, 0.02) as (host, _sent),
        pytest.raises(RegistryUnreachable, match="timed out"),
    ):
        read(f"http://{host}/", stall=STALL)


@pytest.mark.parametrize(
    ("start", "piece", "stall", "message"),
    [
        (b"HTTP/1.1 ", b"2", STALL, "timed out"),
        (TUNNEL + b"X: ", b"y", STALL, "timed out"),
        (TUNNEL, b"X: y\r\n", STALL, "timed out"),
        (TUNNEL, FLOOD, LONG, "malformed HTTP response"),
    ],
    ids=["status", "header", "headers", "flood"],
)
def test_the_response_to_connect_has_limits(start: bytes, piece: bytes, stall: float, message: str) -> None:
    with responding(start, piece, 0 if stall == LONG else 0.02) as (host, sent):
        with pytest.raises(RegistryUnreachable, match=message) as caught:
            read("https://a.example/", proxy=f"http://{host}", stall=stall)
        assert f"through proxy http://{host}" in str(caught.value)
        assert sent[0] < 20 * MAX_HEAD_BYTES


@pytest.mark.parametrize(
    ("start", "piece", "stall", "message"),
    [
        (HEAD + b"X: ", b"y", 1, "timed out"),
        (*DRIPS["trailer"], 1, "timed out"),
        (b"220 mail\r\n\r\n", b"", LONG, "malformed HTTP response"),
    ],
    ids=["head", "framing", "no HTTP"],
)
def test_responses_over_tls_through_a_proxy_with_tls(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, start: bytes, piece: bytes, stall: float, message: str
) -> None:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1", "a.example").configure_cert(tls)
    with (
        responding(start, piece, 0.02, tls=tls) as (host, _sent),
        tunnel(tls, host) as proxy,
        pytest.raises(RegistryUnreachable, match=message),
    ):
        read("https://a.example/", proxy=f"https://{proxy}", stall=stall)


@pytest.mark.parametrize("what", ["chunk size", "trailers"])
def test_slow_bytes_in_the_framing_of_a_list_of_tags(what: str) -> None:
    start, piece = DRIPS[what]
    options = RegistryOptions(plain_http=True, retry_budget=0, stall_timeout=STALL)
    with (
        responding(start, piece, 0.02) as (host, _sent),
        RegistryClient(options, environ={}) as client,
        pytest.raises(RegistryError, match="timed out"),
    ):
        listing.tags(client.remote(reference.parse(f"{host}/team/app")))


@pytest.mark.parametrize("status", [100, 102, 103, 199])
def test_interim_responses_are_skipped(status: int) -> None:
    interim = b"HTTP/1.1 %d Early\r\nLink: </style.css>\r\nContent-Length: 9\r\n\r\n" % status
    final = HEAD + b"Content-Length: 5\r\n\r\nhello"
    with responding(interim * 3 + final, b"", 1) as (host, _sent):
        assert read(f"http://{host}/") == b"hello"


def test_switching_protocols_is_a_final_response() -> None:
    with (
        responding(b"HTTP/1.1 101 Switching Protocols\r\n\r\n", b"", 1) as (host, _sent),
        Transport() as transport,
    ):
        response = transport.send(Request("GET", f"http://{host}/"))
        with closing(response):
            assert response.status == 101


def test_a_late_response_is_a_transient_error() -> None:
    with responding(*DRIPS["chunk size"], 0.02) as (host, _sent):
        with pytest.raises(errors.Unreachable) as caught:
            read(f"http://{host}/", stall=STALL)
        assert errors.is_transient(caught.value)


PIECES = st.lists(st.binary(min_size=1, max_size=300), max_size=30)


def chunked(pieces: list[bytes], extension: bytes, trailers: int) -> bytes:
    """A body in chunks, as a server may send it."""
    chunks = b"".join(b"%x%b\r\n%b\r\n" % (len(piece), extension, piece) for piece in pieces)
    return chunks + b"0\r\n" + b"X-Checked: yes\r\n" * trailers + b"\r\n"


@given(PIECES, st.sampled_from([b"", b";a", b';a="b c"', b" "]), st.integers(0, 5), st.integers(1, 400))
@example([b"x"] * 60_000, b"", 3, 1000)
@example([b"x" * 65536] * 50, b"", 0, 4096)
def test_valid_framing_is_read_completely(
    pieces: list[bytes], extension: bytes, trailers: int, amount: int
) -> None:
    raw = CHUNKED + chunked(pieces, extension, trailers)
    ours, theirs = socket.socketpair()
    with closing(ours), closing(theirs):
        sender = threading.Thread(target=theirs.sendall, args=(raw,))
        sender.start()
        ours.settimeout(20)
        answer = LimitedResponse(ours, head_seconds=20, stall_seconds=20)
        answer.begin()
        received = b"".join(iter(lambda: answer.read1(amount), b""))
        sender.join()
        answer.close()
    assert received == b"".join(pieces)


@given(st.binary(max_size=80), st.lists(st.binary(max_size=40), max_size=4).map(b"\r\n".join))
def test_any_response_can_be_read(head: bytes, body: bytes) -> None:
    ours, theirs = socket.socketpair()
    with closing(ours), closing(theirs):
        theirs.sendall(HEAD + head + b"\r\nTransfer-Encoding: chunked\r\n\r\n" + body)
        theirs.shutdown(socket.SHUT_WR)
        ours.settimeout(20)
        answer = LimitedResponse(ours, head_seconds=20, stall_seconds=20)
        with suppress(http.client.HTTPException):
            answer.begin()
            while answer.read1(100):
                pass
        answer.close()

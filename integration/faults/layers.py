"""Faults of layers, and of configs as blobs."""

from __future__ import annotations

from collections.abc import Callable

from integration.faults.broken import (
    sha512,
)
from integration.faults.case import AS_HTML, Case, framing, on
from integration.rig.faultserver import (
    Behaviour,
    Exchange,
    Reply,
    altered,
    answering,
    chunked,
    cut_after,
    dripping,
    endless,
    stalled_after,
    with_headers,
    wrong_byte,
)


def _close_delimited(exchange: Exchange) -> None:
    exchange.head(exchange.good.but(Connection="close"))
    exchange.raw(exchange.good.body)
    exchange.cut()


def _whole(exchange: Exchange) -> None:
    """Ignore Range and send everything again; the first response is cut."""
    whole = exchange.server.graph.blobs[exchange.asked.path.rpartition("/")[2]]
    exchange.head(Reply(200, {}, whole))
    first = sum(one.what == "layer" for one in exchange.server.asked) == 1
    exchange.raw(whole[:1000] if first else whole)
    if first:
        exchange.cut()


def _wrong_range(exchange: Exchange) -> None:
    if exchange.good.status == 206:
        exchange.send(exchange.good.but(Content_Range="bytes 7-8/9"))
    else:
        cut_after(1000)(exchange)


def _no_range(exchange: Exchange) -> None:
    if exchange.good.status == 206:
        exchange.send(Reply(416, {}))
    else:
        cut_after(1000)(exchange)


def _body(change: Callable[[bytes], bytes]) -> Behaviour:
    return altered(lambda good: Reply(good.status, good.headers, change(good.body)))


BLOBS = (
    Case(
        "blob-wrong-bytes",
        "a layer with one flipped bit",
        on("layer", altered(wrong_byte)),
        ("{host}", "{repository}", "unexpected commit digest"),
    ),
    Case(
        "config-wrong-bytes",
        "a config with one flipped bit",
        on("config", altered(wrong_byte)),
        ("{host}", "{repository}", "{config}", "wrong content"),
    ),
    Case(
        "blob-short",
        "a layer that is one byte too short",
        on("layer", _body(lambda body: body[:-1])),
        ("{host}", "{repository}", "short read"),
    ),
    Case(
        "blob-long",
        "a layer that is one byte too long",
        on("layer", _body(lambda body: body + b"x")),
        ("{host}", "{repository}", "expected"),
    ),
    Case(
        "blob-endless",
        "an endless layer",
        on("layer", endless(b"e" * 65536)),
        ("{host}", "{repository}", "more than the expected"),
    ),
    Case(
        "blob-endless-chunked",
        "the same in chunks",
        on("layer", endless(b"e" * 65536, chunked=True)),
        ("{host}", "{repository}", "more than the expected"),
    ),
    Case(
        "blob-empty",
        "an empty layer",
        on("layer", _body(lambda body: b"")),
        ("{host}", "{repository}", "short read"),
    ),
    Case(
        "blob-html",
        "a login page with status 200 for a layer",
        on("layer", AS_HTML),
        ("{host}", "{repository}", "HTML page"),
    ),
    Case(
        "blob-encoded",
        "a layer with Content-Encoding gzip",
        on("layer", with_headers(Content_Encoding="gzip")),
        ("{host}", "{repository}", "Content-Encoding 'gzip'"),
    ),
    Case(
        "blob-missing",
        "a missing layer",
        on("layer", answering(404)),
        ("{host}", "{repository}", "not found"),
    ),
    Case(
        "config-missing",
        "a missing config",
        on("config", answering(404)),
        ("{host}", "{repository}", "{config}", "not found"),
    ),
    Case(
        "blob-no-length",
        "a layer without a length",
        on("layer", _close_delimited),
        (),
        0,
    ),
    Case("blob-chunked", "a layer in chunks", on("layer", chunked(whole=True)), (), 0),
    Case(
        "chunks-end-badly",
        "chunks that end in invalid data, once",
        on("layer", chunked(whole=False, count=5000), 1),
        (),
        0,
    ),
    Case(
        "chunks-always-bad",
        "chunks that begin with invalid data, always",
        on("layer", chunked(whole=False, count=1)),
        ("{host}", "{repository}", "short read"),
        asks=12,
    ),
    Case("cut-once", "a layer cut at byte 100000, once", on("layer", cut_after(100_000), 1), (), 0),
    Case(
        "cut-always",
        "a layer cut every 100000 bytes",
        on("layer", cut_after(100_000)),
        (),
        0,
        asks=12,
        options=("--retry-budget", "9"),
    ),
    Case(
        "cut-at-nothing",
        "a layer cut before its first byte, always",
        on("layer", cut_after(0)),
        ("{host}", "{repository}", "short read"),
        asks=12,
    ),
    Case(
        "range-ignored",
        "a layer cut once, and Range ignored then",
        on("layer", _whole),
        (),
        0,
        asks=8,
        options=("--retry-budget", "3"),
    ),
    Case(
        "range-wrong",
        "another range than requested",
        on("layer", _wrong_range),
        ("{host}", "{repository}", "unhandled content range"),
        asks=8,
    ),
    Case(
        "range-refused",
        "416 for the rest of a layer",
        on("layer", _no_range),
        ("{host}", "{repository}", "short read"),
    ),
    *framing("layer"),
    Case("stall-once", "nothing more after 5000 bytes, once", on("layer", stalled_after(5000), 1), (), 0),
    Case(
        "stall-always",
        "nothing more after the head, always",
        on("layer", stalled_after(0)),
        ("{host}", "{repository}", "short read"),
        asks=12,
    ),
    Case(
        "drip",
        "a layer that is sent byte by byte",
        on("layer", dripping()),
        ("{host}", "{repository}", "short read"),
        asks=12,
    ),
    Case(
        "sha512",
        "a layer with a sha512 digest, which is fetched, but which containerd before 2.3 cannot store",
        None,
        ("{host}", "{repository}", "sha512:", "this containerd only supports sha256"),
        image=sha512,
        generations=("1.6", "1.7", "2.1"),
    ),
    Case(
        "sha512-kept",
        "the same, for containerd 2.3 and later",
        None,
        (),
        0,
        image=sha512,
        generations=("2.3", "2.4"),
    ),
)

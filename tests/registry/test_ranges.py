"""Parallel ranges of a blob from a scripted server: the bytes, the requests, and every failure."""

from __future__ import annotations

import itertools
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from pyctrd.errors import RegistryContentError, RegistryError
from pyctrd.oci import reference
from pyctrd.oci.model import Descriptor
from pyctrd.registry import RegistryClient, RegistryOptions
from pyctrd.registry.range_control import MIN_REMAINING_BYTES, SEGMENT_BYTES
from pyctrd.registry.range_workers import RangeFailed, RangeWorkers
from tests.registry.samples import blob_path, layer, mirror_config, read
from tests.registry.server import Answer, ScriptedServer, Seen, ranges

MIB = 1 << 20
SIZE = MIN_REMAINING_BYTES + 5 * MIB + 17
LARGE = (bytes(range(251)) * (SIZE // 251 + 1))[:SIZE]
SMALL = LARGE[: MIN_REMAINING_BYTES - 1]


def bounded(seen: Seen) -> tuple[int, int] | None:
    """Return the range [start, end) of a request."""
    found = re.fullmatch(r"bytes=(\d+)-(\d+)", seen.headers.get("range", ""))
    return (int(found[1]), int(found[2]) + 1) if found else None


class Blob:
    """A blob on a server with ranges; `spoil(start)` may return another response for one."""

    def __init__(self, data: bytes = LARGE, spoil: Callable[[int], Answer | None] = lambda _: None) -> None:
        self.data = data
        self.descriptor = layer(data)
        self._spoil = spoil
        self._plain = ranges(data)

    def __call__(self, seen: Seen) -> Answer:
        span = bounded(seen)
        if span is None:
            return self._plain(seen)
        start, end = span
        total = {"Content-Range": f"bytes {start}-{end - 1}/{len(self.data)}"}
        return self._spoil(start) or Answer(206, self.data[start:end], total)

    def serve(self, server: ScriptedServer) -> Descriptor:
        server.always("GET", blob_path(self.descriptor), self)
        return self.descriptor


@pytest.fixture
def fetch(server: ScriptedServer, pauses: list[float]) -> Iterator[Callable[..., bytes]]:
    """Read a blob with four connections."""
    options = RegistryOptions(parallel_ranges=4)
    with RegistryClient(options, sleep=pauses.append) as client:
        yield lambda descriptor, offset=0: read(
            client.remote(reference.parse(f"{server.host}/team/app:v1")), descriptor, offset
        )


def spans(server: ScriptedServer) -> list[tuple[int, int]]:
    return sorted(filter(None, map(bounded, server.seen)))


@pytest.mark.parametrize("offset", [0, 1, 3 * MIB + 5])
def test_the_bytes_arrive_in_order_and_once(
    server: ScriptedServer, fetch: Callable[..., bytes], offset: int
) -> None:
    descriptor = Blob().serve(server)
    assert fetch(descriptor, offset) == LARGE[offset:]
    asked = spans(server)
    assert len(asked) > 20
    assert all(end == start for (_, end), (start, _) in itertools.pairwise(asked))
    assert max(end - start for start, end in asked) == SEGMENT_BYTES
    assert asked[-1][1] == len(LARGE)
    assert len(server.seen) == len(asked) + 1


def test_a_small_blob_is_one_request(server: ScriptedServer, fetch: Callable[..., bytes]) -> None:
    assert fetch(Blob(SMALL).serve(server)) == SMALL
    assert len(server.seen) == 1


def test_off_sends_one_request(server: ScriptedServer) -> None:
    descriptor = Blob().serve(server)
    with RegistryClient(RegistryOptions(parallel_ranges="off")) as client:
        assert read(client.remote(reference.parse(f"{server.host}/team/app:v1")), descriptor) == LARGE
    assert len(server.seen) == 1


def test_a_server_that_ignores_range_is_downloaded_over_one_connection(
    server: ScriptedServer, fetch: Callable[..., bytes]
) -> None:
    """The first connection continues to the end."""
    blob = Blob(spoil=lambda _: Answer(200, LARGE))
    assert fetch(blob.serve(server)) == LARGE
    assert len(server.seen) - len(spans(server)) == 1
    assert len(spans(server)) <= 4


def test_ranges_that_are_ignored_are_not_requested_again(server: ScriptedServer) -> None:
    descriptor = Blob(spoil=lambda _: Answer(200, LARGE)).serve(server)
    with RegistryClient(RegistryOptions(parallel_ranges=4)) as client:
        remote = client.remote(reference.parse(f"{server.host}/team/app:v1"))
        assert read(remote, descriptor) == LARGE
        asked = len(spans(server))
        assert read(remote, descriptor) == LARGE
    assert len(spans(server)) == asked


@pytest.mark.parametrize(
    "answer",
    [
        Answer(206, b"x" * SEGMENT_BYTES, {"Content-Range": f"bytes 0-{SEGMENT_BYTES - 1}/{len(LARGE)}"}),
        Answer(206, b"x" * SEGMENT_BYTES),
        Answer(206, b"x" * SEGMENT_BYTES, {"Content-Range": "bytes 9-1/5"}),
        Answer(429, b"slow down"),
        Answer(404),
        Answer(500),
        Answer(403),
        Answer(hang_up=True),
    ],
    ids=["another range", "no Content-Range", "nonsense", "429", "404", "500", "403", "hang-up"],
)
def test_after_any_failure_of_a_range_one_connection_continues(
    server: ScriptedServer, fetch: Callable[..., bytes], answer: Answer
) -> None:
    blob = Blob(spoil=lambda start: answer if start >= 8 * MIB else None)
    assert fetch(blob.serve(server)) == LARGE
    plain = [seen for seen in server.seen if bounded(seen) is None]
    assert 2 <= len(plain) <= 3
    assert "range" not in plain[0].headers
    went_on_at = [int(seen.headers["range"].removeprefix("bytes=").rstrip("-")) for seen in plain[1:]]
    assert went_on_at[0] <= 8 * MIB


def test_a_cut_range_is_resumed(server: ScriptedServer, fetch: Callable[..., bytes]) -> None:
    cuts = [4 * MIB + 2 * SEGMENT_BYTES]

    def cut(start: int) -> Answer | None:
        if start < cuts[0] or len(cuts) > 1:
            return None
        cuts.append(start)
        body = LARGE[start : start + SEGMENT_BYTES]
        content = f"bytes {start}-{start + SEGMENT_BYTES - 1}/{len(LARGE)}"
        return Answer(206, body, {"Content-Range": content}, cut_after=1000)

    assert fetch(Blob(spoil=cut).serve(server)) == LARGE
    start = cuts[1]
    assert (start + 1000, start + SEGMENT_BYTES) in spans(server)
    assert sum(bounded(seen) is None for seen in server.seen) == 1


def test_errors_are_those_of_one_connection(server: ScriptedServer, fetch: Callable[..., bytes]) -> None:
    """The blob vanishes half-way: the error is exactly that of one connection."""
    blob = Blob()
    gone = threading.Event()

    def answer(seen: Seen) -> Answer:
        span = bounded(seen)
        if gone.is_set() or (span and span[0] >= 6 * MIB):
            gone.set()
            return Answer(404)
        return blob(seen)

    server.always("GET", blob_path(blob.descriptor), answer)
    with pytest.raises(RegistryError) as caught:
        fetch(blob.descriptor)
    with pytest.raises(RegistryError) as plain:
        fetch(blob.descriptor)
    assert (str(caught.value), caught.value.status) == (str(plain.value), 404)
    assert str(blob.descriptor.digest) in str(caught.value)


def test_a_blob_that_is_too_long_is_refused(server: ScriptedServer, fetch: Callable[..., bytes]) -> None:
    blob = Blob()
    server.always("GET", blob_path(blob.descriptor), Answer(200, LARGE + b"x"))
    with pytest.raises(RegistryContentError, match=f"has {len(LARGE) + 1} bytes, expected {len(LARGE)}"):
        fetch(blob.descriptor)


def test_ranges_are_requested_from_all_hosts(
    server: ScriptedServer, other: ScriptedServer, tmp_path: Path
) -> None:
    """The mirror loses some of its ranges: the registry sends those."""
    lossy = Blob(spoil=lambda start: Answer(404) if start // SEGMENT_BYTES % 3 == 0 else None)
    descriptor = lossy.serve(other)
    Blob().serve(server)
    options = RegistryOptions(parallel_ranges=4, hosts_dir=mirror_config(tmp_path, server, other))
    with RegistryClient(options) as client:
        remote = client.remote(reference.parse("registry.example/team/app:v1"))
        assert read(remote, descriptor) == LARGE
    assert len(spans(server)) > 5
    assert len(spans(other)) > 20
    assert {start // SEGMENT_BYTES % 3 for start, _ in spans(server)} == {0}


def test_a_read_that_is_left_early_leaves_no_thread(server: ScriptedServer) -> None:
    descriptor = Blob().serve(server)
    with RegistryClient(RegistryOptions(parallel_ranges=4)) as client:
        remote = client.remote(reference.parse(f"{server.host}/team/app:v1"))
        with remote.fetch(descriptor) as chunks:
            for _ in range(8):
                next(chunks)
            mine = [one for one in threading.enumerate() if one.name == "pyctrd-range"]
            assert mine
        for thread in mine:
            thread.join(20)
            assert not thread.is_alive()


# --- workers ----------------------------------------------------------------------------------------------


def test_the_number_of_waiting_segments_is_limited() -> None:
    """The first segment is slow: others wait for it, but only as many as allowed."""
    release, guard = threading.Event(), threading.Lock()
    asked: list[int] = []
    full = threading.Event()

    def slow_first(start: int, end: int) -> bytes:
        with guard:
            asked.append(start)
            if len(asked) == 6:
                full.set()
        if start == 0:
            assert release.wait(20)
        return bytes(end - start)

    with closing(RangeWorkers(slow_first, 0, 40 * SEGMENT_BYTES)) as workers:
        workers.resize(4)
        assert full.wait(20)
        assert sorted(asked) == [number * SEGMENT_BYTES for number in range(6)]
        release.set()
        received = 0
        while not workers.drained:
            received += len(workers.take())
        assert received == 40 * SEGMENT_BYTES
    assert len(asked) == 40


def test_workers_that_are_stopped_finish_their_segment() -> None:
    with closing(RangeWorkers(lambda start, end: bytes(end - start), 5, 40 * SEGMENT_BYTES)) as workers:
        workers.resize(3)
        received = len(workers.take())
        workers.resize(0)
        while not workers.drained:
            received += len(workers.take())
        assert 0 < received < 40 * SEGMENT_BYTES


def test_a_failure_is_raised_after_the_segments_before_it() -> None:
    def second_fails(start: int, end: int) -> bytes:
        if start:
            raise RegistryError("gone", host="x")
        return bytes(end - start)

    with closing(RangeWorkers(second_fails, 0, 4 * SEGMENT_BYTES)) as workers:
        workers.resize(1)
        assert workers.wait_for_first()
        assert len(workers.take()) == SEGMENT_BYTES
        with pytest.raises(RangeFailed, match="gone"):
            workers.take()

"""DownloadPool: what happens to the other downloads after an error."""

from __future__ import annotations

import concurrent.futures
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from pyctrd.oci.model import Descriptor, Digest
from pyctrd.steps.fetch import FetchResult, Stopped
from pyctrd.steps.pool import LARGE_BYTES, MOST_AT_ONCE, DownloadPool


def test_downloads_that_never_started_are_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    started, released = threading.Event(), threading.Event()
    waits: list[set[Any]] = []
    real = concurrent.futures.wait

    def wait(*arguments: Any, **how: Any) -> Any:
        released.set()
        found = real(*arguments, **how)
        waits.append(found.not_done)
        return found

    monkeypatch.setattr(concurrent.futures, "wait", wait)

    def fetch(_descriptor: Descriptor, _received: Callable[[], None]) -> FetchResult:
        started.set()
        released.wait()
        return FetchResult()

    def fail() -> None:
        with DownloadPool(fetch, threading.Event(), max_concurrent=1) as pool:
            pool.submit(blobs)
            started.wait()
            raise ValueError("another error")

    blobs = [Descriptor(media_type="", digest=Digest.of(bytes([number])), size=1) for number in range(3)]
    with pytest.raises(ValueError, match="another error"):
        fail()
    assert waits == [set()]


class Running:
    """Downloads that run until they are released; `most` is how many ran at the same time."""

    def __init__(self, sizes: Sequence[int]) -> None:
        self.blobs = [
            Descriptor(media_type="", digest=Digest.of(str(number).encode()), size=size)
            for number, size in enumerate(sizes)
        ]
        self.started: list[Descriptor] = []
        self.most = 0
        self._now = 0
        self._changed = threading.Condition()
        self._released = False

    def fetch(self, descriptor: Descriptor, _received: Callable[[], None]) -> FetchResult:
        with self._changed:
            self.started.append(descriptor)
            self._now += 1
            self.most = max(self.most, self._now)
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._released)
            self._now -= 1
        return FetchResult(descriptor.size)

    def run(self, limit: int | None, expected: int) -> None:
        """Download everything, after so many downloads have started and no other one has for a moment."""
        with DownloadPool(self.fetch, threading.Event(), max_concurrent=limit) as pool:
            pool.submit(self.blobs)
            with self._changed:
                assert self._changed.wait_for(lambda: self._now == expected, timeout=30)
                self._changed.wait_for(lambda: self._now > expected, timeout=0.1)
                self._released = True
                self._changed.notify_all()
            pool.join()
            assert sum(pool.downloaded().values()) == sum(blob.size for blob in self.blobs)


@pytest.mark.parametrize(
    ("sizes", "limit", "at_once"),
    [
        ([LARGE_BYTES] * 6, None, 3),
        ([1 << 34] * 6, None, 3),
        ([1 << 18] * 40, None, MOST_AT_ONCE),
        ([4 << 20] * 6, None, 4),
        ([1 << 34, 1 << 34, 1 << 18, 1 << 34, 1 << 18], None, 5),
        ([1 << 34] * 4, 1, 1),
        ([1 << 34] * 8, 6, 6),
        ([1 << 18] * 40, 2, 2),
    ],
)
def test_small_blobs_are_downloaded_more_than_three_at_a_time(
    sizes: Sequence[int], limit: int | None, at_once: int
) -> None:
    running = Running(sizes)
    running.run(limit, at_once)
    if limit is not None:
        assert running.most <= limit


@pytest.mark.parametrize(("limit", "at_once"), [(None, 4), (3, 3)])
def test_a_blob_that_is_being_committed_leaves_its_place_to_the_next_one(
    limit: int | None, at_once: int
) -> None:
    class Committing(Running):
        def fetch(self, descriptor: Descriptor, received: Callable[[], None]) -> FetchResult:
            if descriptor == self.blobs[0]:
                received()
                received()  # it has only one place
            return super().fetch(descriptor, received)

    Committing([LARGE_BYTES] * 6).run(limit, at_once)


def test_a_download_that_waits_for_room_does_not_start_after_an_error() -> None:
    running = Running([LARGE_BYTES] * 6)

    def fetch(descriptor: Descriptor, _received: Callable[[], None]) -> FetchResult:
        started.append(descriptor)
        raise ValueError("it failed")

    started: list[Descriptor] = []
    stop = threading.Event()

    def download() -> None:
        with DownloadPool(fetch, stop, max_concurrent=None) as pool:
            pool.submit(running.blobs)
            pool.join()

    with pytest.raises(ValueError, match="it failed"):
        download()
    assert stop.is_set()
    assert len(started) <= 3


def test_the_error_that_stopped_the_others_is_raised() -> None:
    """Also if it ends after them."""
    failing, other = Running([1, 1]).blobs
    stop = threading.Event()

    def fetch(descriptor: Descriptor, _received: Callable[[], None]) -> FetchResult:
        if descriptor == other:
            assert stop.wait(30)
            raise Stopped
        stop.set()
        concurrent.futures.wait([pool.stored(other.digest)], 30)
        time.sleep(0.2)
        raise ValueError("it failed")

    with DownloadPool(fetch, stop, max_concurrent=None) as pool:
        pool.submit([other, failing])
        with pytest.raises(ValueError, match="it failed"):
            pool.join()

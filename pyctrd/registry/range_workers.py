"""Threads that fetch consecutive segments of one blob, which one reader takes in order."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextvars import copy_context

from pyctrd.registry.range_control import SEGMENT_BYTES


class RangeFailed(Exception):
    """A segment could not be fetched; ends the workers, and is handled by RangedDownload."""


class RangeWorkers:
    """Fetches the segments of [start, end) in several threads; `take` returns them in order.

    Half as many finished segments as there are workers may wait for their turn, so that one slow worker does
    not stop the others. The threads are daemons: one that waits for a dead connection must not block the end
    of the process.
    """

    def __init__(self, fetch: Callable[[int, int], bytes], start: int, end: int) -> None:
        self._fetch = fetch
        self.start = start
        self._end = end
        self._claimed = self._taken = start
        self._ready: dict[int, bytes] = {}
        self._limit = self._threads = 0
        self._failure: Exception | None = None
        self._changed = threading.Condition()

    def resize(self, count: int) -> None:
        """Set the number of workers; with 0, segments in progress are finished, and then it is `drained`."""
        with self._changed:
            self._limit = count
            while self._threads < count:
                self._threads += 1
                threading.Thread(
                    target=copy_context().run, args=(self._work,), name="pyctrd-range", daemon=True
                ).start()
            self._changed.notify_all()

    def close(self) -> None:
        """End all workers, without waiting for them, and discard what they have fetched."""
        with self._changed:
            self._limit, self._end = 0, self._claimed
            self._ready.clear()
            self._changed.notify_all()

    @property
    def drained(self) -> bool:
        """Whether nothing is left to take."""
        with self._changed:
            return self._taken == (self._claimed if not self._limit else self._end)

    def wait_for_first(self) -> bool:
        """Wait for the first segment; return whether it has arrived."""
        with self._changed:
            self._changed.wait_for(lambda: self.start in self._ready or self._is_dead())
            return self.start in self._ready

    def take(self) -> bytes:
        """Wait for the next segment and return it. Raises RangeFailed if a request failed."""
        with self._changed:
            self._changed.wait_for(lambda: self._taken in self._ready or self._is_dead())
            if self._taken not in self._ready:
                raise RangeFailed(str(self._failure or "no worker is left")) from self._failure
            data = self._ready.pop(self._taken)
            self._taken += len(data)
            self._changed.notify_all()
            return data

    def _work(self) -> None:
        while (span := self._claim()) is not None:
            try:
                data = self._fetch(*span)
            except Exception as error:  # noqa: BLE001 - the download over one connection raises the error
                with self._changed:
                    self._failure = self._failure or error
                    self._changed.notify_all()
            else:
                with self._changed:
                    self._ready[span[0]] = data
                    self._changed.notify_all()

    def _claim(self) -> tuple[int, int] | None:
        """Return the next segment to fetch, as soon as there is room for it; None ends the thread."""
        with self._changed:
            while not self._is_over() and not self._has_room():
                self._changed.wait()
            if self._is_over():
                self._threads -= 1
                self._changed.notify_all()
                return None
            start = self._claimed
            self._claimed = min(start + SEGMENT_BYTES, self._end)
            return start, self._claimed

    def _is_dead(self) -> bool:
        return self._failure is not None or not self._threads

    def _is_over(self) -> bool:
        done = self._claimed >= self._end or self._failure is not None
        return done or self._threads > self._limit

    def _has_room(self) -> bool:
        return self._claimed - self._taken < (self._limit + self._limit // 2) * SEGMENT_BYTES

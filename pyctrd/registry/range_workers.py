"""Several threads that fetch consecutive segments of one blob, and somebody who takes them in order."""

from __future__ import annotations

import threading
from collections.abc import Callable

from pyctrd.registry.range_control import SEGMENT_BYTES


class LaneFailed(Exception):
    """A segment did not come; ends the lanes, and never reaches a caller."""


class Lanes:
    """Fetches the segments of [start, end) by several threads; `take` gives them in order.

    Half as many finished ones as there are lanes may wait for their turn, so that one slow lane does not stop
    the others. The threads are daemons: one that hangs in a dead connection holds up nobody.
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
        """Have so many lanes from now on; with 0 those under way finish, and then it is `drained`."""
        with self._changed:
            self._limit = count
            while self._threads < count:
                self._threads += 1
                threading.Thread(target=self._work, name="pyctrd-range", daemon=True).start()
            self._changed.notify_all()

    def close(self) -> None:
        """End all lanes, without waiting for them, and forget what they have fetched."""
        with self._changed:
            self._limit, self._end = 0, self._claimed
            self._ready.clear()
            self._changed.notify_all()

    @property
    def drained(self) -> bool:
        """Whether nothing is left to take."""
        with self._changed:
            return self._taken == (self._claimed if not self._limit else self._end)

    def proven(self) -> bool:
        """Wait for the first segment; tells whether it came."""
        with self._changed:
            self._changed.wait_for(lambda: self.start in self._ready or self._is_dead())
            return self.start in self._ready

    def take(self) -> bytes:
        """Give the next segment, waiting for it; raises LaneFailed when its or a later one's request did."""
        with self._changed:
            self._changed.wait_for(lambda: self._taken in self._ready or self._is_dead())
            if self._taken not in self._ready:
                raise LaneFailed(str(self._failure or "no lane is left")) from self._failure
            data = self._ready.pop(self._taken)
            self._taken += len(data)
            self._changed.notify_all()
            return data

    def _work(self) -> None:
        while (span := self._claim()) is not None:
            try:
                data = self._fetch(*span)
            except Exception as error:  # noqa: BLE001 - whatever it is, the plain way will say it
                with self._changed:
                    self._failure = self._failure or error
                    self._changed.notify_all()
            else:
                with self._changed:
                    self._ready[span[0]] = data
                    self._changed.notify_all()

    def _claim(self) -> tuple[int, int] | None:
        """Take the next segment to fetch, when there is room for it; None ends the thread."""
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

"""Decide how many connections a large blob gets, by the total throughput of all downloads.

The rule of `auto` (see docs/resume.md): every blob starts with one connection. If the readers mostly wait for
the network, and much is left, each large blob may have 4 connections, then 8; a step that does not increase
the total throughput is undone, and none is tried for a while. This module opens no connections.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Final, Literal, NamedTuple, TypeAlias

from pyctrd import redact

ParallelRanges: TypeAlias = int | Literal["auto", "off"]

# The size of one range; a finished one waits in memory for its turn.
SEGMENT_BYTES: Final = 1 << 19
# With less than this left, more connections are not worth their setup time.
MIN_REMAINING_BYTES: Final = 16 << 20
MIN_REMAINING_SECONDS: Final = 2.0
# For the whole process, since it limits memory: each has one segment in progress, and half as many wait.
MAX_CONNECTIONS: Final = 8
STEPS: Final = (1, 4, 8)
# The minimum of a measurement, since segments arrive as a whole.
WINDOW_SECONDS: Final = 1.0
WINDOW_SEGMENTS: Final = 2
# The share of the time in which the readers wait for the network rather than for the store.
WAITING_SHARE: Final = 0.75
# With less than this, nothing was read for part of the time, and the rate is not that of the network.
READING_SHARE: Final = 0.8
# Above this, disk and hashing are the bottleneck.
FAST_BYTES_PER_SECOND: Final = 100 << 20
GROWTH: Final = 1.2
SETTLED_SECONDS: Final = 60.0

_log = redact.logger("pyctrd.registry")


class ConnectionBudget:
    """Connections for ranges, beyond the first one of each download, for the whole process; thread safe."""

    def __init__(self, total: int = MAX_CONNECTIONS) -> None:
        self._free = total
        self._lock = threading.Lock()

    def take(self, wanted: int, *, at_least: int = 1) -> int:
        """Take up to `wanted` connections and return their number; 0 if there are fewer than `at_least`."""
        with self._lock:
            taken = max(min(wanted, self._free), 0)
            if taken < at_least:
                return 0
            self._free -= taken
            return taken

    def give_back(self, count: int) -> None:
        """Return connections that were taken."""
        with self._lock:
            self._free += count


PROCESS_BUDGET: Final = ConnectionBudget()


class _Trial(NamedTuple):
    """A step under trial: the step before it, and the throughput then, in bytes per second."""

    step: int
    rate: float


class RangeControl:
    """Allots connections to the downloads; thread safe.

    `setting` is the number of connections for every large blob, `auto` (measure) or `off`.
    """

    def __init__(
        self,
        setting: ParallelRanges = "auto",
        *,
        budget: ConnectionBudget = PROCESS_BUDGET,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.clock = clock
        self._setting = setting
        self._budget = budget
        self._lock = threading.Lock()
        self._held = 0
        self._step = 0
        self._rate = 0.0
        self._more = False
        self._trial: _Trial | None = None
        self._warming_up = False
        self._settled_until = clock()
        self._begin()

    def _begin(self) -> None:
        """Start a new measurement."""
        self._since = self.clock()
        self._bytes, self._waited, self._busy = 0, 0.0, 0.0

    def record(self, count: int, *, waited: float, busy: float) -> None:
        """Record bytes of a download: the seconds waited for them, and those its reader was busy before."""
        if self._setting != "auto":
            return
        with self._lock:
            self._bytes += count
            self._waited += waited
            self._busy += busy
            seconds = self.clock() - self._since
            enough = WINDOW_SEGMENTS * max(self._held, 2) * SEGMENT_BYTES
            if seconds < WINDOW_SECONDS or self._bytes < enough:
                return
            read = self._waited + self._busy
            rate, share = self._bytes / seconds, self._waited / max(read, 1e-9)
            self._begin()
            if read >= seconds * READING_SHARE:
                self._evaluate(rate, share)

    def _evaluate(self, rate: float, waiting_share: float) -> None:
        if self._warming_up:  # the connections were still being opened
            self._warming_up = False
            return
        if self._trial is not None:
            before, self._trial = self._trial, None
            if rate < before.rate * GROWTH:
                _log.info("%s connections are not faster: %s", STEPS[self._step], _per_second(rate))
                self._step = before.step
                self._settled_until = self.clock() + SETTLED_SECONDS
        self._rate = rate
        self._more = (
            waiting_share >= WAITING_SHARE
            and rate < FAST_BYTES_PER_SECOND
            and self._step + 1 < len(STEPS)
            and self.clock() >= self._settled_until
        )

    def allot(self, held: int, remaining: int) -> int:
        """Return how many connections a download with `remaining` bytes has now; it had `held` of them.

        0 means no ranges; 2 and more count against the budget until `release`.
        """
        with self._lock:
            wanted = self._wanted(held, remaining)
            if wanted > held:
                got = self._budget.take(wanted - held, at_least=1 if held else 2)
            else:
                got = wanted - held
                self._budget.give_back(-got)
            self._held += got
            return held + got

    def _wanted(self, held: int, remaining: int) -> int:
        if remaining < MIN_REMAINING_BYTES:
            return held  # those in progress may finish
        if isinstance(self._setting, int):
            return self._setting if self._setting > 1 else 0
        if self._setting == "auto" and self._more and remaining > self._rate * MIN_REMAINING_SECONDS:
            self._try()
        return STEPS[self._step] if self._step else 0

    def _try(self) -> None:
        """Try the next step, with a new measurement."""
        self._trial, self._more, self._warming_up = _Trial(self._step, self._rate), False, True
        self._step += 1
        self._begin()
        _log.info("%s: trying %d connections for a blob", _per_second(self._rate), STEPS[self._step])

    def release(self, held: int) -> None:
        """Return connections to the budget; without any left, a trial is undone."""
        if not held:
            return
        with self._lock:
            self._budget.give_back(held)
            self._held -= held
            if not self._held and self._trial is not None:
                self._step, self._trial, self._warming_up = self._trial.step, None, False
                self._begin()


def _per_second(rate: float) -> str:
    return f"{rate / (1 << 20):.1f} MiB/s"

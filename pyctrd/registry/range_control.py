"""How many connections a large blob may have: decided by what they bring, for all downloads together.

The rule of `auto` (docs/resume.md has it for readers): every blob starts plain. Where the readers mostly
wait for the network, and much is left, each large blob may have 4 connections, then 8; a step that does not
let the sum of all downloads grow is taken back, and none is tried for a while. Nothing here opens one.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Final, Literal, NamedTuple, TypeAlias

from pyctrd import redact

ParallelRanges: TypeAlias = int | Literal["auto", "off"]

# What one request of several asks for; a finished one waits in memory for its turn.
SEGMENT_BYTES: Final = 1 << 19
# Below this a blob is done before another connection has paid for itself.
MIN_REMAINING_BYTES: Final = 16 << 20
MIN_REMAINING_SECONDS: Final = 2.0
# For the whole process, since memory is: each has a segment under way, and half as many wait (see Lanes).
MAX_LANES: Final = 8
STEPS: Final = (1, 4, 8)
# Shorter or smaller than this is no measurement: whole segments arrive at once.
WINDOW_SECONDS: Final = 1.0
WINDOW_SEGMENTS: Final = 2
# The share of the time in which the readers wait for bytes rather than for the store.
WAITING_SHARE: Final = 0.75
# With less than this nobody read for a part of the time, and the rate is not the line's.
READING_SHARE: Final = 0.8
# Beyond this the disk and the hashing are what takes the time.
FAST_BYTES_PER_SECOND: Final = 100 << 20
GROWTH: Final = 1.2
SETTLED_SECONDS: Final = 60.0

_log = redact.logger(__name__)


class Budget:
    """Connections beyond the plain ones, for all registries of a process; thread safe."""

    def __init__(self, total: int = MAX_LANES) -> None:
        self._free = total
        self._lock = threading.Lock()

    def take(self, wanted: int, *, at_least: int = 1) -> int:
        """Take up to `wanted`; nothing when there are not `at_least` so many."""
        with self._lock:
            taken = max(min(wanted, self._free), 0)
            if taken < at_least:
                return 0
            self._free -= taken
            return taken

    def give_back(self, count: int) -> None:
        """Return what was taken."""
        with self._lock:
            self._free += count


PROCESS_BUDGET: Final = Budget()


class _Trial(NamedTuple):
    """A step that has to prove itself: the one before, and what all downloads had then, in bytes a second."""

    step: int
    rate: float


class Governor:
    """Tells each download how many connections it may have; thread safe.

    `setting` is the number of connections for every large blob, `auto` (measure) or `off`.
    """

    def __init__(
        self,
        setting: ParallelRanges = "auto",
        *,
        budget: Budget = PROCESS_BUDGET,
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
        self._passing = False
        self._settled_until = clock()
        self._begin()

    def _begin(self) -> None:
        """Start a new measurement."""
        self._since = self.clock()
        self._bytes, self._waited, self._busy = 0, 0.0, 0.0

    def saw(self, count: int, *, waited: float, busy: float) -> None:
        """Take in that a download got bytes: seconds waited for them, and seconds of its reader before."""
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
                self._judge(rate, share)

    def _judge(self, rate: float, waiting_share: float) -> None:
        if self._passing:  # the connections were only being opened in this one
            self._passing = False
            return
        if self._trial is not None:
            before, self._trial = self._trial, None
            if rate < before.rate * GROWTH:
                _log.info("%s connections bring no more: %s", STEPS[self._step], _per_second(rate))
                self._step = before.step
                self._settled_until = self.clock() + SETTLED_SECONDS
        self._rate = rate
        self._more = (
            waiting_share >= WAITING_SHARE
            and rate < FAST_BYTES_PER_SECOND
            and self._step + 1 < len(STEPS)
            and self.clock() >= self._settled_until
        )

    def lanes(self, held: int, remaining: int) -> int:
        """Tell a download that holds so many connections, with so many bytes to go, how many it holds now.

        0 is the plain way; 2 and more count against the budget, until they are given up by `release`.
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
            return held  # those that are open may finish
        if isinstance(self._setting, int):
            return self._setting if self._setting > 1 else 0
        if self._setting == "auto" and self._more and remaining > self._rate * MIN_REMAINING_SECONDS:
            self._try()
        return STEPS[self._step] if self._step else 0

    def _try(self) -> None:
        """Go a step up, with a measurement of its own; only where somebody has use for it."""
        self._trial, self._more, self._passing = _Trial(self._step, self._rate), False, True
        self._step += 1
        self._begin()
        _log.info("%s: trying %d connections for a blob", _per_second(self._rate), STEPS[self._step])

    def release(self, held: int) -> None:
        """Give connections back; a trial that nobody is left to prove is off."""
        if not held:
            return
        with self._lock:
            self._budget.give_back(held)
            self._held -= held
            if not self._held and self._trial is not None:
                self._step, self._trial, self._passing = self._trial.step, None, False
                self._begin()


def _per_second(rate: float) -> str:
    return f"{rate / (1 << 20):.1f} MiB/s"

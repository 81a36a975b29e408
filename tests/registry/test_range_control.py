"""The decisions of RangeControl, with a clock that tests advance."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from pyctrd.registry.range_control import (
    MIN_REMAINING_BYTES,
    SETTLED_SECONDS,
    ConnectionBudget,
    ParallelRanges,
    RangeControl,
)

MIB = 1 << 20
MUCH = 1 << 30


class Line:
    """A blob read over one network line: `rate(connections)` is their total throughput, in MiB per second."""

    def __init__(self, setting: ParallelRanges = "auto", *, budget: ConnectionBudget | None = None) -> None:
        self.now = 1000.0
        self.control = RangeControl(setting, budget=budget or ConnectionBudget(), clock=lambda: self.now)
        self.held = 0

    def second(self, mib: float, *, waiting: float = 1.0, remaining: int = MUCH) -> int:
        """Read for a second; returns the connections that the blob may have then."""
        self.now += 1.01
        self.control.record(int(mib * 1.01 * MIB), waited=1.01 * waiting, busy=1.01 * (1 - waiting))
        self.held = self.control.allot(self.held, remaining)
        return self.held

    def seconds(self, count: int, *, each: float, limit: float = 1e9, waiting: float = 1.0) -> list[int]:
        """Read for several seconds, each connection at its rate, all at `limit`."""
        return [self.second(min(max(self.held, 1) * each, limit), waiting=waiting) for _ in range(count)]


def test_if_each_connection_is_limited_all_connections_are_used() -> None:
    line = Line()
    assert line.control.allot(0, MUCH) == 0  # before anything is measured
    assert line.seconds(8, each=4) == [4, 4, 8, 8, 8, 8, 8, 8]


def test_on_a_saturated_line_connections_are_closed() -> None:
    line = Line()
    assert line.seconds(6, each=12, limit=12) == [4, 4, 0, 0, 0, 0]


def test_a_step_without_effect_is_undone() -> None:
    line = Line()
    assert line.seconds(7, each=4, limit=16) == [4, 4, 8, 8, 4, 4, 4]


def test_a_step_is_tried_again_after_some_time() -> None:
    line = Line()
    assert line.seconds(3, each=12, limit=12)[-1] == 0
    line.now += SETTLED_SECONDS
    assert line.second(12) == 0  # nothing was read in that minute, so it does not count as a measurement
    assert line.second(12) == 4


@pytest.mark.parametrize(
    ("mib", "waiting", "remaining"),
    [
        (4, 0.5, MUCH),
        (150, 1.0, MUCH),
        (4, 1.0, MIN_REMAINING_BYTES - 1),
        (60, 1.0, 100 * MIB),
    ],
    ids=["the store is what takes the time", "fast enough", "little is left", "soon done"],
)
def test_nothing_is_tried_if_it_cannot_help(mib: float, waiting: float, remaining: int) -> None:
    line = Line()
    assert [line.second(mib, waiting=waiting, remaining=remaining) for _ in range(5)] == [0] * 5


def test_a_short_time_is_not_a_measurement() -> None:
    line = Line()
    line.now += 0.1
    line.control.record(50 * MIB, waited=0.1, busy=0.0)
    assert line.control.allot(0, MUCH) == 0
    slow = Line()
    assert slow.second(0.2) == 0


def test_a_blob_near_its_end_keeps_its_connections() -> None:
    line = Line(4)
    assert line.control.allot(0, MUCH) == 4
    assert line.control.allot(4, 5) == 4


def test_a_fixed_number_is_used_at_once_but_not_for_small_blobs() -> None:
    control = Line(3).control
    assert control.allot(0, MUCH) == 3
    assert control.allot(0, MIN_REMAINING_BYTES - 1) == 0


@pytest.mark.parametrize("setting", ["off", 1, 0])
def test_off_uses_no_ranges(setting: ParallelRanges) -> None:
    assert Line(setting).seconds(5, each=1) == [0] * 5


def test_the_limit_of_connections_is_for_the_whole_process() -> None:
    budget = ConnectionBudget(8)
    first, second = Line(8, budget=budget), Line(8, budget=budget)
    assert first.control.allot(0, MUCH) == 8
    assert second.control.allot(0, MUCH) == 0
    first.control.release(7)
    assert second.control.allot(0, MUCH) == 7
    first.control.release(1)
    assert second.control.allot(7, MUCH) == 8


def test_one_connection_means_no_ranges() -> None:
    budget = ConnectionBudget(3)
    control = RangeControl(2, budget=budget)
    assert control.allot(0, MUCH) == 2
    assert control.allot(0, MUCH) == 0


def test_a_trial_whose_blob_ends_is_undone() -> None:
    line = Line()
    assert line.second(4) == 4
    line.control.release(4)
    line.held = 0
    assert line.control.allot(0, MUCH) == 0
    assert line.second(4) == 4  # measured again


def test_the_sum_of_all_downloads_counts() -> None:
    """If one blob gains what another one loses, nothing is gained."""
    line = Line()
    assert line.second(10) == 4

    def sums() -> Iterator[int]:
        for own in (8, 8, 8):
            line.control.record(2 * MIB, waited=1.0, busy=0.0)
            yield line.second(own)

    assert list(sums())[-1] == 0

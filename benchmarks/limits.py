"""The limits: how much pyctrd may take, mostly compared with another program in the same run."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase
from statistics import median
from typing import Literal, NamedTuple

from benchmarks.cases import CALLS_ONLY, CHECK_EACH, COPY, FEWER, GRPC, OURS, WITHOUT_RANGES
from benchmarks.measuring import Run
from benchmarks.results import Report, Result

Quantity = Literal["seconds", "cpu", "peak", "daemon_cpu", "daemon_peak", "requests"]
MEMORY_MIB = 80.0
# Programs that do no more than every client in Python has to do.
MINIMAL = (GRPC, CALLS_ONLY)


class Limit(NamedTuple):
    """The largest ratio to `peer`; or the largest value, if there is no peer.

    The first limit of a case, peer and quantity applies. `case` and `generation` may have wildcards.
    """

    case: str
    peer: str
    at_most: float
    of: Quantity = "seconds"
    generation: str = "*"


LIMITS: Sequence[Limit] = (
    Limit("pull/*", "ctr images pull", 1.1, generation="1.*"),
    Limit("pull/programs", "ctr images pull", 0.75),
    Limit("pull/*", "ctr images pull", 1.0),
    Limit("fetch/small", "ctr content fetch", 1.2),
    Limit("fetch/*", "ctr content fetch", 1.0),
    Limit("line/*", "ctr content fetch", 1.0),
    Limit("pull-again/*", GRPC, 3.0),
    Limit("requests/*", "", 1, of="requests"),
    Limit("save/150", "ctr images export", 2.5),
    Limit("save/500", "ctr images export", 2.0),
    Limit("save/*", "ctr images export", 0.22),
    Limit("pipe/*", "ctr images export", 0.22),
    Limit("save/*", COPY, 1.05),
    Limit("load/*", "ctr images import", 0.7),
    Limit("load-again/*", "ctr images import", 0.05),
    Limit("start/list", GRPC, 1.6),
    Limit("start/diagnose", GRPC, 2.0),
    Limit("start/version", "", 0.05, of="cpu"),
    Limit("diagnose/500", CHECK_EACH, 0.3),
    Limit("ranges/loopback", WITHOUT_RANGES, 1.1),
    Limit("ranges/shared", WITHOUT_RANGES, 1.1),
    Limit("ranges/*", WITHOUT_RANGES, 0.5),
    # Flat memory: twenty times as many names may take a little more.
    Limit("*/10000", FEWER, 1.2, of="peak"),
    Limit("*", "", MEMORY_MIB, of="peak"),
)


class Check(NamedTuple):
    """A limit applied to a result; `value` is what may be `limit.at_most`."""

    result: Result
    limit: Limit
    value: float

    @property
    def holds(self) -> bool:
        """Whether the limit holds."""
        return self.value <= self.limit.at_most

    @property
    def minimal(self) -> tuple[str, float] | None:
        """A minimal program that exceeds the limit, too: its name and value, or None."""
        if not self.limit.peer or self.limit.of != "seconds":
            return None
        peer = typical(self.result.runs[self.limit.peer])
        runs = [(name, self.result.runs[name]) for name in MINIMAL if name in self.result.runs]
        found = [(name, typical(measured) / peer) for name, measured in runs]
        return next(((name, value) for name, value in found if value > self.limit.at_most), None)


def typical(runs: Sequence[Run], of: Quantity = "seconds") -> float:
    """Return the median; of memory the largest value."""
    values = [float(getattr(run, of)) for run in runs]
    return max(values) if of.endswith("peak") else median(values)


def checks(report: Report) -> Iterator[Check]:
    """Apply the limits to all results."""
    for result in report.results:
        done = set()
        for limit in LIMITS:
            where = (limit.peer, limit.of)
            if where not in done and _applies(limit, result):
                done.add(where)
                value = typical(result.runs[OURS], limit.of)
                yield Check(
                    result, limit, value / typical(result.runs[limit.peer], limit.of) if limit.peer else value
                )


def _applies(limit: Limit, result: Result) -> bool:
    return (
        OURS in result.runs
        and fnmatchcase(result.case, limit.case)
        and fnmatchcase(result.generation, limit.generation)
        and (not limit.peer or limit.peer in result.runs)
    )

"""The results of a run, as they are in JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

from benchmarks.measuring import Run


class Result(msgspec.Struct, frozen=True):
    """All runs of a case on one generation of containerd, by command; pyctrd is the first of them.

    A case that failed has none.
    """

    case: str
    title: str
    generation: str
    runs: Mapping[str, Sequence[Run]]


class Report(msgspec.Struct, frozen=True):
    """A run of the benchmarks; `scale` is a factor of all sizes, `versions` are those of containerd."""

    date: str
    machine: str
    python: str
    scale: float
    versions: Mapping[str, str]
    minutes: float
    results: Sequence[Result]


def read(file: Path) -> Report:
    """Read a report."""
    return msgspec.json.decode(file.read_bytes(), type=Report)


def write(report: Report, file: Path) -> None:
    """Write a report, a line for each result."""
    head = msgspec.json.encode(msgspec.structs.replace(report, results=[])).removesuffix(b"]}")
    lines = b",\n".join(map(msgspec.json.encode, report.results))
    file.write_bytes(head + b"\n" + lines + b"\n]}\n")

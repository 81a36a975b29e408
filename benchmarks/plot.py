"""The picture of a report: a bar for each comparison that has a limit."""

from __future__ import annotations

from pathlib import Path

import matplotlib as mpl
from matplotlib.figure import Figure

from benchmarks.limits import checks
from benchmarks.results import Report

_GOOD, _BAD, _LIMIT = "#2da44e", "#cf222e", "#24292f"


def draw(report: Report, generation: str, file: Path) -> None:
    """Draw the ratios and limits of one generation."""
    shown = [one for one in checks(report) if one.limit.peer and one.limit.of == "seconds"]
    shown = [one for one in shown if one.result.generation == generation][::-1]
    mpl.rcParams.update({"svg.hashsalt": "pyctrd", "svg.fonttype": "none", "font.size": 9})
    figure = Figure(figsize=(9, 1 + 0.24 * len(shown)), layout="constrained")
    axes = figure.add_subplot()
    rows, values = range(len(shown)), [one.value for one in shown]
    colours = [_GOOD if one.holds else _BAD for one in shown]
    axes.barh(rows, [value - 1 for value in values], left=1, color=colours, height=0.7)
    axes.plot([one.limit.at_most for one in shown], rows, "|", color=_LIMIT, markersize=11, markeredgewidth=2)
    axes.set_yticks(rows, [f"{one.result.case} / {one.limit.peer}" for one in shown])
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter("{x:g} ×")
    axes.axvline(1, color=_LIMIT, linewidth=0.8)
    axes.margins(y=0.01)
    axes.grid(axis="x", which="both", alpha=0.25)
    axes.set_axisbelow(True)
    axes.set_title(
        f"Time of pyctrd / time of the other program, containerd {report.versions[generation]}\n"
        "left of 1: pyctrd is faster; the marks are the limits, and red bars exceed them"
    )
    figure.savefig(file, metadata={"Date": None, "Creator": None})

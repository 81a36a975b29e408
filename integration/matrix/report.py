"""Write docs/mismatch.md; with the same versions every run writes the same page."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from integration.matrix.cells import ROWS, Row, cells_of
from integration.matrix.images import ABOUT
from integration.matrix.runner import Result
from integration.matrix.tools import TOOLS

_ASKED = {
    "host": "host's platform",
    "arm64": "arm64",
    "riscv64": "riscv64",
    "all": "all platforms",
}
_SHORT = {
    "unknown service": "no service",
    "no manifest found for platform": "no platform",
    "unable to create manifests file": "nested",
    "connection refused": "no network",
    "not found": "absent",
}
_TEMPLATE = Path(__file__).with_name("page.md")


def page(
    results: Mapping[Row, Sequence[Result]], versions: Iterable[tuple[str, str]], missing: Mapping[str, str]
) -> str:
    """Return the page. `missing` are the tools or rows that are not available here, with the reason."""
    summary = [_summary(results)]
    summary += [f"Not available: {name} ({reason})." for name, reason in sorted(missing.items())]
    return _TEMPLATE.read_text().format(
        summary="\n\n".join(summary),
        versions="\n".join(f"| {name} | {version} |" for name, version in versions),
        images="\n".join(f"* **{name}** – {about}" for name, about in ABOUT),
        tables="\n".join(_tables(results)),
    )


def _summary(results: Mapping[Row, Sequence[Result]]) -> str:
    every = [result for row in results.values() for result in row]
    right = sum(not result.wrong for result in every)
    return f"**{len(every)} cells, {right} predicted correctly, {len(every) - right} wrongly.**"


def _tables(results: Mapping[Row, Sequence[Result]]) -> Iterator[str]:
    for daemon in sorted({row.daemon for row in ROWS}, reverse=True):
        for image, _ in ABOUT:
            rows = [row for row in ROWS if (row.daemon, row.image) == (daemon, image)]
            if rows:
                yield f"## {image[0].upper()}{image[1:]}, in containerd {daemon}\n"
                yield "\n".join(_table(rows, results)) + "\n"


def _table(rows: Sequence[Row], results: Mapping[Row, Sequence[Result]]) -> Iterator[str]:
    yield f"| stored by | platforms | {' | '.join(tool.name for tool in TOOLS)} |"
    yield "|" + "---|" * (len(TOOLS) + 2)
    for row in rows:
        done = {result.cell.tool.name: result for result in results.get(row, ())}
        cells = [_cell(done.get(tool.name), runs=tool.runs_on(row.daemon)) for tool in TOOLS]
        asked = _ASKED[row.ask] + ("" if row.circumstance == "registry" else f"; {row.circumstance}")
        yield f"| {row.arrival} | {asked} | {' | '.join(cells)} |"


def _cell(result: Result | None, *, runs: bool) -> str:
    if result is None:
        return "not available" if runs else "–"
    if result.cell.row.chance or result.prediction.ok is None:
        return "by chance" + (" **(not predicted)**" if result.wrong else "")
    text = "ok" if result.outcome.exit_code == 0 else f"fails: {_reason(result)}"
    if result.prediction.replaced and result.outcome.exit_code == 0:
        text += ", NEW"
    if result.prediction.replaced and result.cell.tool.version == "2.0.3":
        text += ", by chance how much"  # one fetch per platform, and garbage collection may run between them
    elif result.outcome.fetched:
        count = len(result.outcome.fetched)
        text += f", {count} blob{'s' * (count > 1)}, {_size(result.outcome.size)}"
    return text + (" **(not predicted)**" if result.wrong else "")


def _reason(result: Result) -> str:
    """Return the kind of failure, by containerd's message."""
    if result.cell.row.circumstance == "tag gone" and result.prediction.network:
        return "no tag"
    words = re.sub(r'\\?"', '"', result.outcome.words)
    if result.cell.row.circumstance == "no network" and result.prediction.network:
        return "no network"
    return next((short for phrase, short in _SHORT.items() if phrase in words), "other")


def _size(count: int) -> str:
    return f"{count} B" if count < 1000 else f"{count / 1000:.1f} kB"


def total() -> int:
    """Return the number of cells."""
    return sum(len(cells_of(row)) for row in ROWS)

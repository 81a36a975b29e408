"""Progress on stderr, in the way that was asked for: bars, lines, JSON lines, or none.

The events come from several threads at once; every sink takes one at a time.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Final

import click

from pyctrd.cli.render import title
from pyctrd.cli.text import sanitize, size
from pyctrd.ports import no_progress

if TYPE_CHECKING:
    from pyctrd.ports import Progress, ProgressSink

# JSON lines about one blob's bytes come no faster than this; changes of state always come.
_INTERVAL_SECONDS: Final = 0.25
# What is told with the size of its blob.
_SIZED: Final = frozenset({"downloading", "downloaded", "uploading", "uploaded", "writing", "verifying"})


@contextlib.contextmanager
def reporting(mode: str, *, quiet: bool = False) -> Iterator[ProgressSink]:
    """Open the sink for a mode of `--progress`; `quiet` silences what was not asked for by name."""
    chosen = _choose(mode, quiet)
    if chosen == "none":
        yield no_progress
    elif chosen == "bar":
        from pyctrd.cli.bars import Bars

        with Bars() as bars:
            yield _one_at_a_time(bars.show)
    else:
        yield _one_at_a_time(_JsonLines().show if chosen == "json" else _PlainLines().show)


def _choose(mode: str, quiet: bool) -> str:
    if mode != "auto":
        return mode
    if quiet:
        return "none"
    return "bar" if sys.stderr.isatty() and os.environ.get("TERM") != "dumb" else "plain"


def _one_at_a_time(show: Callable[[Progress], None]) -> ProgressSink:
    lock = threading.Lock()

    def sink(event: Progress) -> None:
        with lock:
            show(event)

    return sink


class _PlainLines:
    """One line for each change of state, for logs."""

    def __init__(self) -> None:
        self._last: dict[str, tuple[str, str]] = {}

    def show(self, event: Progress) -> None:
        name = title(event)
        if self._last.get(name) == (event.action, event.detail):
            return
        self._last[name] = (event.action, event.detail)
        parts = [f"{name}: {event.action}" if name else event.action]
        if event.action in _SIZED and event.total:
            parts.append(size(event.total))
        if event.resumed:
            told = {"downloading": "resumed at", "done": "resumed"}.get(event.action, "of which resumed")
            parts.append(f"{told} {size(event.resumed)}")
        if event.detail and event.detail != name:
            parts.append(event.detail)
        click.echo(sanitize(", ".join(parts)), err=True)


class _JsonLines:
    """One JSON object a line; docs/json.md has the schema."""

    def __init__(self) -> None:
        self._shown: dict[tuple[str, str], float] = {}

    def show(self, event: Progress) -> None:
        digest = event.descriptor.digest if event.descriptor else ""
        key = (event.action, digest)
        now = time.monotonic()
        unfinished = event.offset < event.total
        if unfinished and now - self._shown.get(key, -1.0) < _INTERVAL_SECONDS and key in self._shown:
            return
        self._shown[key] = now
        line: dict[str, object] = {"action": event.action, "offset": event.offset, "total": event.total}
        if event.resumed:
            line["resumed"] = event.resumed
        if event.descriptor:
            line["mediaType"] = event.descriptor.media_type
            line["digest"] = digest
        if event.detail:
            line["detail"] = event.detail
        click.echo(json.dumps(line), err=True)

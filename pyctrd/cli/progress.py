"""Progress on stderr: bars, lines, JSON lines, or none.

Events may come from several threads; each sink handles one at a time.
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
import msgspec

from pyctrd.cli.render import title
from pyctrd.cli.text import duration, sanitize, size
from pyctrd.progress import no_progress, one_at_a_time

if TYPE_CHECKING:
    from pyctrd.progress import Progress, ProgressSink

# Minimum time between JSON lines about one blob's bytes; changes of state are always printed.
_INTERVAL_SECONDS: Final = 0.25
# Ongoing work is reported again after this time, checked once per tick.
_REPORT_SECONDS: Final = 10.0
_TICK_SECONDS: Final = 1.0
_LASTING: Final = frozenset({"downloading", "uploading", "writing", "verifying", "unpacking"})
# Actions that are printed with the size of the blob.
_SIZED: Final = frozenset({"downloading", "downloaded", "uploading", "uploaded", "writing", "verifying"})


@contextlib.contextmanager
def reporting(
    mode: str, *, quiet: bool = False, clock: Callable[[], float] = time.monotonic
) -> Iterator[ProgressSink]:
    """Open the sink for a mode of `--progress`; `quiet` turns `auto` into `none`."""
    chosen = _choose(mode, quiet)
    if chosen == "none":
        yield no_progress
    elif chosen == "bar":
        from pyctrd.cli.bars import Bars

        with Bars() as bars:
            yield one_at_a_time(bars.show)
    elif chosen == "json":
        yield one_at_a_time(_JsonLines().show)
    else:
        lines = PlainLines(clock)
        with _ticking(lines) as sink:
            yield sink


@contextlib.contextmanager
def reporting_later(mode: str, *, quiet: bool = False) -> Iterator[ProgressSink]:
    """Open the sink with the first event: until then, ssh may ask for a password on the terminal.

    Events must not come from two threads at once.
    """
    with contextlib.ExitStack() as stack:
        opened: list[ProgressSink] = []

        def report(event: Progress) -> None:
            if not opened:
                opened.append(stack.enter_context(reporting(mode, quiet=quiet)))
            opened[0](event)

        yield report


def _choose(mode: str, quiet: bool) -> str:
    if mode != "auto":
        return mode
    if quiet:
        return "none"
    return "bar" if sys.stderr.isatty() and os.environ.get("TERM") != "dumb" else "plain"


@contextlib.contextmanager
def _ticking(lines: PlainLines) -> Iterator[ProgressSink]:
    """Call `tick` every second while the context is open, never at the same time as `show`."""
    over = threading.Event()
    lock = threading.Lock()

    def show(event: Progress) -> None:
        with lock:
            lines.show(event)

    def run() -> None:
        while not over.wait(_TICK_SECONDS):
            with lock:
                lines.tick()

    thread = threading.Thread(target=run, name="pyctrd-progress", daemon=True)
    thread.start()
    try:
        yield show
    finally:
        over.set()
        thread.join()


class PlainLines:
    """For logs: a line per change of state, and one every ten seconds for ongoing work."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._last: dict[str, tuple[str, str]] = {}
        self._under_way: dict[str, _UnderWay] = {}

    def show(self, event: Progress) -> None:
        """Handle an event."""
        name = title(event)
        state = (event.action, event.detail)
        if event.action == "planned":
            return
        if self._last.get(name) == state:
            if name in self._under_way:
                self._under_way[name].event = event
            return
        self._last[name] = state
        self._under_way.pop(name, None)
        if event.action in _LASTING and event.offset < event.total:
            now = self._clock()
            self._under_way[name] = _UnderWay(event, begun=now, reported=now, offset=event.offset)
        parts = [f"{name}: {event.action}" if name else event.action]
        if event.action in _SIZED and event.total:
            parts.append(size(event.total))
        if event.resumed:
            resumed = {"downloading": "resumed at", "done": "resumed"}.get(event.action, "of which resumed")
            parts.append(f"{resumed} {size(event.resumed)}")
        if event.detail and event.detail != name:
            parts.append(event.detail)
        click.echo(sanitize(", ".join(parts)), err=True)

    def tick(self) -> None:
        """Report ongoing work that was last reported ten seconds ago or earlier."""
        now = self._clock()
        for name, item in self._under_way.items():
            if now - item.reported >= _REPORT_SECONDS and item.event.offset < item.event.total:
                click.echo(sanitize(f"{name}: {item.event.action}, {item.text(now)}"), err=True)
                item.reported, item.offset = now, item.event.offset


class _UnderWay(msgspec.Struct):
    """A blob in progress: its latest event, when it began, and when and at which offset it was reported."""

    event: Progress
    begun: float
    reported: float
    offset: int

    def text(self, now: float) -> str:
        """Return offset, rate and time left; only the elapsed time for unpacking, whose offset is unknown."""
        event = self.event
        if event.action not in _SIZED:
            return f"{size(event.total)}, for {duration(now - self.begun)}"
        rate = (event.offset - self.offset) / (now - self.reported)
        left = f", {duration((event.total - event.offset) / rate)} left" if rate > 0 else ""
        return f"{size(event.offset)} / {size(event.total)}, {size(int(rate))}/s{left}"


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

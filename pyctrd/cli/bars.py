"""Progress bars: a line for each blob in progress, and one for the total."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Final, Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress import BarColumn, ProgressColumn, Task, TaskID, TextColumn
from rich.progress import Progress as RichProgress
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from pyctrd.cli import screen
from pyctrd.cli.render import title
from pyctrd.cli.text import clock_time, count, duration, sanitize, size
from pyctrd.oci import mediatypes

if TYPE_CHECKING:
    from pyctrd.oci.model import Descriptor
    from pyctrd.progress import Progress

_DOWNLOAD: Final = frozenset({"waiting", "downloading", "downloaded", "retrying"})
_UPLOAD: Final = frozenset({"uploading", "uploaded"})
_UNPACK: Final = frozenset({"unpacking", "unpacked"})
# Actions that are finished when all bytes are.
_COUNTED: Final = {"writing": "write", "verifying": "verify"}
_COUNTED_NOTES: Final = {"writing": "written", "verifying": "verified"}
# Lines for the totals and the prompt, in addition to those of the blobs.
_RESERVED_LINES: Final = 5
_NAME_WIDTH: Final = 28
_AMOUNT_WIDTH: Final = 21
_NOTE_WIDTH: Final = 18
_NARROWEST_BAR: Final = 8
_WIDEST_BAR: Final = 60
# The rate is an average over this window, sampled at this interval.
_RATE_SECONDS: Final = 10.0
_SAMPLE_SECONDS: Final = 0.25
# No rate is shown for shorter work.
_SHORTEST_SECONDS: Final = 0.5


class _Amount(ProgressColumn):
    """`12.3 MiB / 45.6 MiB`, or one number when finished."""

    def render(self, task: Task) -> Text:
        if task.finished or not task.total:
            text = size(int(task.total or task.completed))
        else:
            text = _of(int(task.completed), int(task.total))
        return Text(text.rjust(_AMOUNT_WIDTH), style="progress.download")


class _Note(ProgressColumn):
    """The speed during a transfer, else the state."""

    def render(self, task: Task) -> Text:
        note = str(task.fields.get("note", ""))
        if not note and not task.finished and task.speed:
            note = f"{size(int(task.speed))}/s"
        return _noted(note)


def _noted(note: str) -> Text:
    return Text(sanitize(note).ljust(_NOTE_WIDTH), style="dim", no_wrap=True, overflow="ellipsis")


def _of(done: int, total: int) -> str:
    return f"{size(done)} / {size(total)}"


class _Sum:
    """The state of all blobs in one phase."""

    def __init__(self, verb: str, noun: str, place: str, clock: Callable[[], float]) -> None:
        self._verb = verb
        self._noun = noun
        self._place = place
        self._clock = clock
        self._planned: dict[str, int] = {}
        self._blobs: dict[str, tuple[int, int, bool]] = {}
        self._present: dict[str, int] = {}
        self._resumed: dict[str, int] = {}
        self._times: list[float] = []
        self._samples: deque[tuple[float, int]] = deque()
        self._furthest = 0.0
        self._is_known = False
        self.lock = threading.RLock()
        """Worker threads send events while another thread draws."""

    def plan(self, descriptor: Descriptor) -> None:
        """Count a blob that will be transferred later."""
        with self.lock:
            self._planned.setdefault(str(descriptor.digest), descriptor.size)
        # A bar of only the manifests would reach 100 % and then fall back when they list the layers.
        self._is_known |= not (
            mediatypes.is_index(descriptor.media_type) or mediatypes.is_manifest(descriptor.media_type)
        )

    def expects(self, name: str) -> bool:
        """Whether a blob was planned."""
        return name in self._planned

    def found(self, name: str, size: int) -> None:
        """Count a blob that was already present."""
        with self.lock:
            self._planned.pop(name, None)
            self._present[name] = size

    def note(self, name: str, done: int, total: int, *, finished: bool, resumed: int = 0) -> None:
        """Record the progress of a blob."""
        with self.lock:
            now = self._clock()
            self._blobs[name] = done, total, finished
            self._resumed[name] = resumed
            self._times = [self._times[0] if self._times else now, now]
            if not self._samples or now - self._samples[-1][0] >= _SAMPLE_SECONDS:
                self._samples.append((now, self.bytes[0]))
                while now - self._samples[0][0] > _RATE_SECONDS:
                    self._samples.popleft()

    @property
    def is_begun(self) -> bool:
        """Whether there is anything to show."""
        return bool(self._blobs or self._present)

    @property
    def bytes(self) -> tuple[int, int]:
        """The bytes done and the total so far; if there is nothing to do, the bytes present."""
        if not self._blobs:
            here = sum(self._present.values())
            return here, here
        done = sum(done for done, _, _ in self._blobs.values())
        begun = sum(total for _, total, _ in self._blobs.values())
        return done, begun + sum(size for name, size in self._planned.items() if name not in self._blobs)

    def row(self, bar_width: int) -> tuple[RenderableType, ...]:
        """Draw the line of a phase in progress."""
        with self.lock:
            done, total = self.bytes
            amount = size(total) if done == total else _of(done, total)
            return (
                Text(self.counts.ljust(_NAME_WIDTH), no_wrap=True, overflow="ellipsis"),
                self.bar(bar_width),
                Text(amount.rjust(_AMOUNT_WIDTH), style="progress.download"),
                _noted(self.note_text),
            )

    def bar(self, width: int) -> ProgressBar:
        """Draw the bar of the total, which never goes back, and pulses while the total is unknown."""
        done, total = self.bytes
        if total and (self._is_known or done == total):
            self._furthest = max(self._furthest, done / total)
        known = self._is_known or not self._blobs or self._is_finished
        return ProgressBar(1.0, self._furthest if total else 1.0, width, pulse=not known)

    @property
    def _is_finished(self) -> bool:
        begun = all(finished for _, _, finished in self._blobs.values())
        return begun and self._planned.keys() <= self._blobs.keys()

    @property
    def counts(self) -> str:
        """`fetched 3/12 blobs, 1 here`."""
        if not self._blobs:
            return f"{count(len(self._present), self._noun)} {self._place}"
        finished = sum(done for _, _, done in self._blobs.values())
        wanted = len(self._blobs.keys() | self._planned.keys())
        here = f"{len(self._present)} {self._place}" if self._present else ""
        return ", ".join(filter(None, (f"{self._verb} {finished}/{count(wanted, self._noun)}", here)))

    @property
    def note_text(self) -> str:
        """The current rate, and the time left at that rate."""
        if len(self._samples) < 2 or self._is_finished:
            return ""
        (since, before), (now, done) = self._samples[0], self._samples[-1]
        rate = (done - before) / (now - since)
        if rate <= 0:
            return ""
        left = clock_time((self.bytes[1] - done) / rate) if self._is_known else ""
        return f"{size(int(rate))}/s {left}"

    @property
    def summary(self) -> str:
        """The result in a line: amounts, time, rate, and resumed bytes."""
        done, total = self.bytes
        resumed = sum(self._resumed.values())
        parts = [self.counts]
        if self._blobs:
            seconds = self._times[-1] - self._times[0]
            amount = size(done) if done >= total else _of(done, total)
            parts.append(f"{amount} in {_taken(seconds)}")
            if seconds >= _SHORTEST_SECONDS and done > resumed:
                parts.append(f"{size(int((done - resumed) / seconds))}/s")
        if resumed:
            parts.append(f"{size(resumed)} resumed")
        return ", ".join(parts)


def _taken(seconds: float) -> str:
    return duration(seconds) if seconds < 60 else clock_time(seconds)


class _Totals:
    """A line for each phase that has begun, and a summary at the end."""

    def __init__(self, sums: list[_Sum], bar_width: int) -> None:
        self._sums = sums
        self._bar_width = bar_width
        self.is_over = False

    def __rich__(self) -> RenderableType:
        begun = [item for item in self._sums if item.is_begun]
        if self.is_over:
            return Group(*(Text(item.summary) for item in begun))
        grid = Table.grid(padding=(0, 1, 0, 0))
        for item in begun:
            grid.add_row(*item.row(self._bar_width))
        return grid


class Bars:
    """A live display on stderr; the last state stays on the screen."""

    def __init__(self, console: Console | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self._console = console or Console(stderr=True, highlight=False, emoji=False, markup=False)
        rest = self._console.width - _NAME_WIDTH - _AMOUNT_WIDTH - _NOTE_WIDTH - 3
        width = max(_NARROWEST_BAR, min(rest, _WIDEST_BAR))
        self._blobs = RichProgress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=width),
            _Amount(),
            _Note(),
            console=self._console,
            auto_refresh=False,
        )
        self._lines: dict[str, TaskID] = {}
        self._sums = {
            "download": _Sum("fetched", "blob", "here", clock),
            "unpack": _Sum("unpacked", "layer", "here", clock),
            "upload": _Sum("uploaded", "blob", "there", clock),
            "write": _Sum("written", "blob", "here", clock),
            "verify": _Sum("verified", "blob", "here", clock),
        }
        self._totals = _Totals(list(self._sums.values()), width)
        self._live = Live(Group(self._blobs, self._totals), console=self._console, refresh_per_second=8)

    def __enter__(self) -> Self:
        """Start drawing."""
        screen.begin(self._live)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Draw the last state, and stop."""
        self._totals.is_over = True
        screen.end(self._live)

    def show(self, event: Progress) -> None:
        """Handle an event."""
        if event.action in _DOWNLOAD:
            self._advance("download", event, finished=event.action == "downloaded")
        elif event.action in _UPLOAD:
            self._advance("upload", event, finished=event.action == "uploaded")
        elif event.action in _UNPACK:
            self._advance("unpack", event, finished=event.action == "unpacked")
        elif event.action in _COUNTED:
            self._advance(_COUNTED[event.action], event, finished=event.offset >= event.total)
        elif event.descriptor is not None:
            self._count(event, event.descriptor)

    def _count(self, event: Progress, descriptor: Descriptor) -> None:
        """Handle an event that has no line of its own."""
        if event.action == "planned":
            self._sums[event.detail].plan(descriptor)
        elif event.action in ("mounted", "present"):
            self._sums["upload"].found(str(descriptor.digest), event.total)
        elif event.action == "exists":
            name = str(descriptor.digest)
            phase = "write" if self._sums["write"].expects(name) else "download"  # of a load
            self._sums[phase].found(name, event.total)
        elif event.action == "resolved":
            self._console.print(Text(sanitize(f"{event.detail} {descriptor.digest}"), style="bold"))

    def _advance(self, phase: str, event: Progress, *, finished: bool) -> None:
        done = event.total if finished else event.offset
        line = self._line(event)
        # The bar of a layer being unpacked stays full: the daemon does not report its progress.
        shown = event.total if phase == "unpack" else done
        self._blobs.update(line, completed=max(shown, finished), total=max(event.total, 1), note=_note(event))
        name = str(event.descriptor.digest) if event.descriptor else title(event)
        self._sums[phase].note(name, done, event.total, finished=finished, resumed=event.resumed)
        self._make_room()

    def _line(self, event: Progress) -> TaskID:
        name = title(event)
        if name not in self._lines:
            self._lines[name] = self._blobs.add_task(
                sanitize(name).ljust(_NAME_WIDTH), total=max(event.total, 1), completed=event.offset, note=""
            )
        return self._lines[name]

    def _make_room(self) -> None:
        """Hide the oldest finished lines when there are more than fit on the screen."""
        room = max(self._console.height - _RESERVED_LINES, 1)
        visible = [task for task in self._blobs.tasks if task.visible]
        finished = [task for task in visible if task.finished]
        for task in finished[: max(len(visible) - room, 0)]:
            self._blobs.update(task.id, visible=False)


def _note(event: Progress) -> str:
    """Return the state, or nothing where the speed is shown."""
    if event.action in ("downloading", "uploading"):
        return ""
    if event.action in _COUNTED:
        return _COUNTED_NOTES[event.action] if event.offset >= event.total else ""
    return event.action

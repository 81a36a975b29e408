"""Progress bars: a line for each blob under way, and one for all of them."""

from __future__ import annotations

from types import TracebackType
from typing import TYPE_CHECKING, Final, Self

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, ProgressColumn, Task, TaskID, TextColumn
from rich.progress import Progress as RichProgress
from rich.text import Text

from pyctrd.cli import screen
from pyctrd.cli.render import title
from pyctrd.cli.text import count, sanitize, size

if TYPE_CHECKING:
    from pyctrd.ports import Progress

_DOWNLOAD: Final = frozenset({"waiting", "downloading", "downloaded", "retrying"})
_UPLOAD: Final = frozenset({"uploading", "uploaded"})
_UNPACK: Final = frozenset({"unpacking", "unpacked"})
# Work that is done when all bytes are.
_COUNTED: Final = {"writing": "write", "verifying": "verify"}
_COUNTED_NOTES: Final = {"writing": "written", "verifying": "verified"}
# Lines that the total and the prompt need, beside those of the blobs.
_RESERVED_LINES: Final = 5
_NAME_WIDTH: Final = 28


class _Amount(ProgressColumn):
    """`12.3 MiB / 45.6 MiB`, or the one number when it is done."""

    def render(self, task: Task) -> Text:
        if task.finished or not task.total:
            text = size(int(task.total or task.completed))
        else:
            text = f"{size(int(task.completed))} / {size(int(task.total))}"
        return Text(text.rjust(21), style="progress.download")


class _Note(ProgressColumn):
    """The speed while bytes come, else the state."""

    def render(self, task: Task) -> Text:
        note = str(task.fields.get("note", ""))
        if not note and not task.finished and task.speed:
            note = f"{size(int(task.speed))}/s"
        return Text(sanitize(note).ljust(12), style="dim", no_wrap=True, overflow="ellipsis")


class _Sum:
    """The state of all blobs in one phase of the work."""

    def __init__(self, verb: str, noun: str, place: str = "here") -> None:
        self._verb = verb
        self._noun = noun
        self._place = place
        self._blobs: dict[str, tuple[int, int, bool]] = {}
        self._present = 0
        self._present_bytes = 0
        self._resumed: dict[str, int] = {}

    def found(self, size: int) -> None:
        """Count a blob that was in its place before."""
        self._present += 1
        self._present_bytes += size

    def note(self, name: str, done: int, total: int, *, finished: bool, resumed: int = 0) -> None:
        self._blobs[name] = done, total, finished
        self._resumed[name] = resumed

    @property
    def bytes(self) -> tuple[int, int]:
        """The bytes done, and those of all blobs known so far; where nothing was to be done, what is here."""
        if not self._blobs:
            return self._present_bytes, self._present_bytes
        return sum(done for done, _, _ in self._blobs.values()), sum(
            all_ for _, all_, _ in self._blobs.values()
        )

    @property
    def text(self) -> str:
        if not self._blobs:
            return f"{count(self._present, self._noun)} {self._place}"
        here = f"{self._present} {self._place}" if self._present else ""
        finished = sum(done for _, _, done in self._blobs.values())
        text = f"{self._verb} {finished}/{count(len(self._blobs), self._noun)}"
        begun = sum(self._resumed.values())
        resumed = f"{size(begun)} resumed" if begun else ""
        return ", ".join(filter(None, (text, here, resumed)))


class Bars:
    """A live region on stderr; leaving the context leaves the last state on the screen."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(stderr=True, highlight=False, emoji=False, markup=False)
        self._blobs = self._bars()
        self._totals = self._bars()
        self._lines: dict[str, TaskID] = {}
        self._sums = {
            "download": _Sum("fetched", "blob"),
            "unpack": _Sum("unpacked", "layer"),
            "upload": _Sum("uploaded", "blob", "there"),
            "write": _Sum("written", "blob"),
            "verify": _Sum("verified", "blob"),
        }
        self._sum_lines: dict[str, TaskID] = {}
        self._live = Live(Group(self._blobs, self._totals), console=self._console, refresh_per_second=8)

    def _bars(self) -> RichProgress:
        return RichProgress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=16),
            _Amount(),
            _Note(),
            console=self._console,
            auto_refresh=False,
        )

    def __enter__(self) -> Self:
        """Start drawing."""
        screen.begin(self._live)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Draw the last state, and stop."""
        screen.end(self._live)

    def show(self, event: Progress) -> None:
        """Take an event in."""
        if event.action in _DOWNLOAD:
            self._advance("download", event, finished=event.action == "downloaded")
        elif event.action in _UPLOAD:
            self._advance("upload", event, finished=event.action == "uploaded")
        elif event.action in ("mounted", "present"):
            self._sums["upload"].found(event.total)
            self._sum_up("upload")
        elif event.action in _UNPACK:
            self._advance("unpack", event, finished=event.action == "unpacked")
        elif event.action in _COUNTED:
            self._advance(_COUNTED[event.action], event, finished=event.offset >= event.total)
        elif event.action == "exists":
            self._sums["download"].found(event.total)
            self._sum_up("download")
        elif event.action == "resolved" and event.descriptor is not None:
            self._console.print(Text(sanitize(f"{event.detail} {event.descriptor.digest}"), style="bold"))

    def _advance(self, phase: str, event: Progress, *, finished: bool) -> None:
        done = event.total if finished else event.offset
        line = self._line(event)
        # The bar of a layer that is unpacked stays full: nobody knows how far the daemon is.
        shown = event.total if phase == "unpack" else done
        self._blobs.update(line, completed=max(shown, finished), total=max(event.total, 1), note=_note(event))
        self._sums[phase].note(title(event), done, event.total, finished=finished, resumed=event.resumed)
        self._make_room()
        self._sum_up(phase)

    def _line(self, event: Progress) -> TaskID:
        name = title(event)
        if name not in self._lines:
            self._lines[name] = self._blobs.add_task(
                sanitize(name).ljust(_NAME_WIDTH), total=max(event.total, 1), completed=event.offset, note=""
            )
        return self._lines[name]

    def _make_room(self) -> None:
        """Hide the oldest finished lines when the region grows beyond the screen."""
        room = max(self._console.height - _RESERVED_LINES, 1)
        visible = [task for task in self._blobs.tasks if task.visible]
        finished = [task for task in visible if task.finished]
        for task in finished[: max(len(visible) - room, 0)]:
            self._blobs.update(task.id, visible=False)

    def _sum_up(self, phase: str) -> None:
        known = self._sums[phase]
        if phase not in self._sum_lines:
            self._sum_lines[phase] = self._totals.add_task("", total=1, note="")
        done, total = known.bytes
        self._totals.update(
            self._sum_lines[phase],
            description=known.text.ljust(_NAME_WIDTH),
            completed=done if total else 1,
            total=max(total, 1),
        )


def _note(event: Progress) -> str:
    """Say the state where it is no speed."""
    if event.action in ("downloading", "uploading"):
        return ""
    if event.action in _COUNTED:
        return _COUNTED_NOTES[event.action] if event.offset >= event.total else ""
    return event.action

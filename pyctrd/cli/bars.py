"""Progress bars: a line for each blob under way, and one for all of them."""

from __future__ import annotations

from types import TracebackType
from typing import TYPE_CHECKING, Final, Self

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, ProgressColumn, Task, TaskID, TextColumn
from rich.progress import Progress as RichProgress
from rich.text import Text

from pyctrd.cli.progress import title
from pyctrd.cli.text import count, sanitize, size

if TYPE_CHECKING:
    from pyctrd.ports import Progress

_PHASES: Final = {
    "waiting": "download",
    "downloading": "download",
    "downloaded": "download",
    "retrying": "download",
    "unpacking": "unpack",
    "unpacked": "unpack",
    "writing": "write",
}
_VERBS: Final = {"download": "fetched", "unpack": "unpacked", "write": "written"}
# Lines that the total and the prompt need, beside those of the blobs.
_RESERVED_LINES: Final = 4


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


class Bars:
    """A live region on stderr; leaving the context leaves the last state on the screen."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(stderr=True, highlight=False, emoji=False, markup=False)
        self._blobs = self._bars()
        self._sums = self._bars()
        self._tasks: dict[tuple[str, str], TaskID] = {}
        self._totals: dict[str, TaskID] = {}
        self._present = 0
        self._live = Live(Group(self._blobs, self._sums), console=self._console, refresh_per_second=8)

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
        self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Draw the last state, and stop."""
        self._live.stop()

    def show(self, event: Progress) -> None:
        """Take an event in."""
        phase = _PHASES.get(event.action)
        if phase is not None:
            self._advance(phase, event)
            self._make_room()
            self._sum_up(phase)
        elif event.action == "exists":
            self._present += 1
            self._sum_up("download")
        elif event.action == "resolved" and event.descriptor is not None:
            self._console.print(Text(sanitize(f"{event.detail} {event.descriptor.digest}"), style="bold"))

    def _advance(self, phase: str, event: Progress) -> None:
        done = event.action in ("downloaded", "unpacked") or (
            event.action == "writing" and event.offset >= event.total
        )
        note = event.action if event.action in ("waiting", "retrying", "unpacking") else ""
        total = event.total or 1
        self._blobs.update(
            self._task(phase, event),
            completed=total if done else event.offset,
            total=total,
            note="done" if done else note,
        )

    def _task(self, phase: str, event: Progress) -> TaskID:
        key = (phase, event.descriptor.digest if event.descriptor else event.detail)
        if key not in self._tasks:
            self._tasks[key] = self._blobs.add_task(
                sanitize(title(event)).ljust(28)[:40],
                total=event.total or 1,
                completed=event.offset,
                phase=phase,
                note="",
            )
        return self._tasks[key]

    def _make_room(self) -> None:
        """Hide the oldest finished lines when the region grows beyond the screen."""
        room = max(self._console.height - _RESERVED_LINES, 1)
        visible = [task for task in self._blobs.tasks if task.visible]
        finished = [task for task in visible if task.finished]
        for task in finished[: max(len(visible) - room, 0)]:
            self._blobs.update(task.id, visible=False)

    def _sum_up(self, phase: str) -> None:
        tasks = [task for task in self._blobs.tasks if task.fields["phase"] == phase]
        finished = sum(task.finished for task in tasks)
        text = f"{_VERBS[phase]} {finished}/{count(len(tasks), 'blob')}"
        if phase == "download" and self._present:
            text += f", {self._present} here"
        text = text.ljust(28)
        if phase not in self._totals:
            self._totals[phase] = self._sums.add_task(text, total=1, note="")
        self._sums.update(
            self._totals[phase],
            description=text,
            completed=sum(task.completed for task in tasks),
            total=sum(task.total or 0 for task in tasks),
        )

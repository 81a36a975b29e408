"""Questions on the terminal, which pause the progress bars."""

from __future__ import annotations

import contextlib
import os
import select
import sys
import termios
import threading
from collections.abc import Iterator
from typing import Any, Final, Protocol

import click

from pyctrd.cli.text import sanitize


class Drawing(Protocol):
    """A live display on the terminal that can be paused."""

    def start(self) -> None:
        """Start or resume drawing."""

    def stop(self) -> None:
        """Stop drawing."""


# How often an open question checks whether it was cancelled.
_POLL_SECONDS: Final = 0.1

_drawings: list[Drawing] = []
# The terminal's settings before the open question; empty if there is no terminal.
_question: list[Any] | None = None


def begin(drawing: Drawing) -> None:
    """Start a drawing that questions may pause."""
    drawing.start()
    _drawings.append(drawing)


def end(drawing: Drawing) -> None:
    """Stop a drawing."""
    _drawings.remove(drawing)
    drawing.stop()


def is_interactive() -> bool:
    """Whether a user can answer questions. stdout may still be a file."""
    return sys.stdin.isatty() and sys.stderr.isatty()


def confirm(question: str, cancel: threading.Event) -> bool:
    """Ask a yes-or-no question; return whether the answer is y or yes.

    End of input and `cancel` count as no.
    """
    with _paused():
        # Neither click's prompt nor input(), which write to stdout: it may be the archive.
        click.echo(f"{sanitize(question)} [y/N] ", nl=False, err=True)
        while not _is_answered():
            if cancel.is_set():
                return False
        return sys.stdin.readline().strip().lower() in ("y", "yes")


def _is_answered() -> bool:
    try:
        return bool(select.select([sys.stdin], [], [], _POLL_SECONDS)[0])
    except (OSError, ValueError):  # not a file that select() supports
        return True


@contextlib.contextmanager
def asking() -> Iterator[None]:
    """Mark a prompt that cannot be cancelled: a signal then ends the process and restores the terminal."""
    global _question  # noqa: PLW0603
    try:
        _question = termios.tcgetattr(sys.stdin.fileno())
    except (termios.error, OSError, ValueError):
        _question = []
    try:
        yield
    finally:
        _question = None


def is_asking() -> bool:
    """Whether a question of `asking` is open."""
    return _question is not None


def restore() -> None:
    """Restore echo and cursor at the end of the process."""
    if _question:
        with contextlib.suppress(termios.error, OSError, ValueError):
            termios.tcsetattr(sys.stdin.fileno(), termios.TCSANOW, _question)
    with contextlib.suppress(OSError):
        if _drawings and select.select([], [2], [], 0)[1]:
            os.write(2, b"\x1b[?25h\n")


@contextlib.contextmanager
def _paused() -> Iterator[None]:
    drawings = list(_drawings)
    for drawing in drawings:
        drawing.stop()
    try:
        yield
    finally:
        for drawing in drawings:
            drawing.start()

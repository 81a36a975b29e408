"""Questions on the terminal, in between the drawings of a progress bar."""

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
    """What draws on the terminal again and again, and can pause."""

    def start(self) -> None:
        """Begin, or go on, to draw."""

    def stop(self) -> None:
        """Leave the terminal alone."""


# How soon a question notices that it is not to be answered any more.
_LOOK_SECONDS: Final = 0.1

_drawings: list[Drawing] = []
# The terminal's settings before the question that is open; empty where there is no terminal.
_question: list[Any] | None = None


def begin(drawing: Drawing) -> None:
    """Start a drawing that questions may interrupt."""
    drawing.start()
    _drawings.append(drawing)


def end(drawing: Drawing) -> None:
    """Stop a drawing."""
    _drawings.remove(drawing)
    drawing.stop()


def is_interactive() -> bool:
    """Tell whether there is somebody to ask: stdout may be a file all the same."""
    return sys.stdin.isatty() and sys.stderr.isatty()


def confirm(question: str, cancel: threading.Event) -> bool:
    """Put a question that is answered by y or yes.

    Anything else means no, as does the end of the input, and `cancel`, when it is set meanwhile.
    """
    with _paused():
        # Neither click's prompt nor input(): those write to stdout, where an archive may go.
        click.echo(f"{sanitize(question)} [y/N] ", nl=False, err=True)
        while not _is_answered():
            if cancel.is_set():
                return False
        return sys.stdin.readline().strip().lower() in ("y", "yes")


def _is_answered() -> bool:
    try:
        return bool(select.select([sys.stdin], [], [], _LOOK_SECONDS)[0])
    except (OSError, ValueError):  # no file that could be waited for
        return True


@contextlib.contextmanager
def asking() -> Iterator[None]:
    """Mark a question that only an answer ends: a signal then ends the process, and restores the terminal."""
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
    """Make the terminal usable again, at the very end of the process: echo and cursor."""
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

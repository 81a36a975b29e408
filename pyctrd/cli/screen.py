"""Questions on the terminal, in between the drawings of a progress bar."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from typing import Protocol

import click

from pyctrd.cli.text import sanitize


class Drawing(Protocol):
    """What draws on the terminal again and again, and can pause."""

    def start(self) -> None:
        """Begin, or go on, to draw."""

    def stop(self) -> None:
        """Leave the terminal alone."""


_drawings: list[Drawing] = []


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


def confirm(question: str) -> bool:
    """Put a question that is answered by y or yes; anything else, and the end of the input, means no."""
    with _paused():
        # Neither click's prompt nor input(): those write to stdout, where an archive may go.
        click.echo(f"{sanitize(question)} [y/N] ", nl=False, err=True)
        return sys.stdin.readline().strip().lower() in ("y", "yes")


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

"""Our own log records on stderr: warnings always, everything with --debug. No other library's, ever.

The loggers below us print whole URLs; ours have their secrets struck out before a handler sees them.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from typing import Final

import click

from pyctrd.cli.text import sanitize

_PACKAGE: Final = "pyctrd"


@contextlib.contextmanager
def shown() -> Iterator[None]:
    """Show the package's log records while the context is open."""
    logger = logging.getLogger(_PACKAGE)
    handler, level = _Lines(), logger.level
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)


def show_everything() -> None:
    """Show the records of every level from now on: requests, retries, whose credentials are used."""
    logging.getLogger(_PACKAGE).setLevel(logging.DEBUG)


class _Lines(logging.Handler):
    """One line for each record, also above a progress bar: stderr is looked up for each."""

    def emit(self, record: logging.LogRecord) -> None:
        with contextlib.suppress(OSError, ValueError):
            click.echo(sanitize(_line(record)), err=True)


def _line(record: logging.LogRecord) -> str:
    if record.levelno >= logging.WARNING:
        return f"pyctrd: warning: {record.getMessage()}"
    seconds = record.relativeCreated / 1000
    return f"debug: {seconds:.3f} {record.name.rpartition('.')[2]}: {record.getMessage()}"

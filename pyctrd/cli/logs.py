"""Print the log records of pyctrd to stderr: warnings, or everything with --debug.

Records of other libraries are not printed: they contain whole URLs. Ours are redacted before they are logged.
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
    """Print the package's log records while the context is open."""
    logger = logging.getLogger(_PACKAGE)
    handler, level = _Lines(), logger.level
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)


def show_everything() -> None:
    """Print records of every level from now on: requests, retries, sources of credentials."""
    logging.getLogger(_PACKAGE).setLevel(logging.DEBUG)


class _Lines(logging.Handler):
    """Print one line per record; sys.stderr is read each time, since progress bars replace it."""

    def emit(self, record: logging.LogRecord) -> None:
        with contextlib.suppress(OSError, ValueError):
            click.echo(sanitize(_line(record)), err=True)


def _line(record: logging.LogRecord) -> str:
    if record.levelno >= logging.WARNING:
        return f"pyctrd: warning: {record.getMessage()}"
    seconds = record.relativeCreated / 1000
    return f"debug: {seconds:.3f} {record.name.rpartition('.')[2]}: {record.getMessage()}"

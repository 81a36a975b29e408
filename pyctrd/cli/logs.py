"""Print the log records of pyctrd to stderr: warnings, or everything with --debug.

Records of other libraries are not printed: they contain whole URLs. Ours are redacted before they are logged.
"""

from __future__ import annotations

import contextlib
import logging
import re
import sys
from collections.abc import Iterator, Mapping
from typing import Any, Final

import click

from pyctrd.cli.text import sanitize

_PACKAGE: Final = "pyctrd"
# Twelve digits of a digest are enough to find it, and leave room on the line.
_DIGEST: Final = r"(sha256:[0-9a-f]{12})[0-9a-f]{52}|(sha512:[0-9a-f]{12})[0-9a-f]{116}"
# How many columns the last part of a line has at least, on a terminal that is too narrow for it.
_MIN_ROOM: Final = 40


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
    """Print records of every level from now on: calls, requests, retries, sources of credentials."""
    logging.getLogger(_PACKAGE).setLevel(logging.DEBUG)


class _Lines(logging.Handler):
    """Print one line per record; sys.stderr is read each time, since progress bars replace it."""

    def emit(self, record: logging.LogRecord) -> None:
        with contextlib.suppress(OSError, ValueError):
            click.echo(sanitize(_line(record)), err=True)


def _line(record: logging.LogRecord) -> str:
    if record.levelno >= logging.WARNING:
        return f"pyctrd: warning: {record.getMessage()}"
    start = f"[{record.relativeCreated / 1000:7.3f}]"
    if not hasattr(record, "seconds"):
        return re.sub(_DIGEST, r"\1\2", f"{start} {record.getMessage()}")
    found = vars(record)
    outcome = found.get("code") or found.get("status") or found.get("error")
    start += f" {_milliseconds(found['seconds'])} {outcome!s:3} "
    return start + _fitted(re.sub(_DIGEST, r"\1\2", _call(found)), len(start))


def _call(found: Mapping[str, Any]) -> str:
    """Return what was called: the method and the name of an object, or the URL and the size of the body."""
    if "url" not in found:
        service, _, method = found["method"].rpartition("/")
        return f"{service.rpartition('.')[2]}.{method} {found['subject']}".rstrip()
    what = f"{found['method']} {found['url'].removeprefix('https://')}"
    if not found.get("bytes"):
        return what
    from pyctrd.amounts import size

    return f"{what} ({size(found['bytes'])})"


def _milliseconds(seconds: float) -> str:
    return f"{seconds * 1000:6.1f} ms" if seconds < 9.9995 else f"{seconds:6.1f} s "


def _fitted(text: str, used: int) -> str:
    """Shorten a text in the middle so that it ends on the same line of a terminal."""
    if not sys.stderr.isatty():
        return text
    import shutil

    room = max(shutil.get_terminal_size().columns - used, _MIN_ROOM)
    if len(text) <= room:
        return text
    tail = room // 2
    return f"{text[: room - tail - 1]}…{text[-tail:]}"

"""Run-time checks of the caller's arguments: modes, counts, names and paths."""

from __future__ import annotations

import datetime as dt
import os
import re
import threading
from collections.abc import Iterable, Mapping, Sequence

from pyctrd.errors import Cancelled, InvalidInput, require_utf8

_MAX_TTL = dt.timedelta(days=36_525)


def one_of(name: str, value: object, choices: Sequence[str]) -> None:
    """Raise InvalidInput, listing the choices, unless `value` is one of them."""
    if not isinstance(value, str) or value not in choices:
        raise InvalidInput(f"{name}={value!r}: must be one of {', '.join(map(repr, choices))}")


def count(name: str, value: object, *, least: int = 1) -> None:
    """Raise InvalidInput unless `value` is an integer of at least `least`."""
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise InvalidInput(f"{name}={value!r}: must be an integer of at least {least}")


def limit(name: str, value: object) -> None:
    """Raise InvalidInput unless `value` is a positive integer, or None for no given limit."""
    if value is not None:
        count(name, value)


def text(name: str, value: object) -> str:
    """Return a string unchanged. Raises InvalidInput if it is not a string, or not valid UTF-8."""
    if not isinstance(value, str):
        raise InvalidInput(f"{name}={value!r}: must be a string, not {type(value).__name__}")
    require_utf8(value, name)
    return value


def texts(name: str, value: str | Iterable[str]) -> tuple[str, ...]:
    """Return strings as a tuple; a single string is one item, not a sequence. Raises InvalidInput."""
    if isinstance(value, str):
        return (text(name, value),)
    if not isinstance(value, Iterable):
        raise InvalidInput(f"{name}={value!r}: must be a string or an iterable of strings")
    return tuple(text(name, item) for item in value)


def labels(name: str, value: object) -> dict[str, str]:
    """Return labels as a dict of strings; None means no labels. Raises InvalidInput."""
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise InvalidInput(f"{name}={value!r}: must map strings to strings")
    return {text(name, key): text(name, item) for key, item in value.items()}


def ttl(name: str, value: object) -> dt.timedelta | None:
    """Return how long an image is kept, unchanged; None means for ever. Raises InvalidInput."""
    if value is None or (isinstance(value, dt.timedelta) and dt.timedelta() < value <= _MAX_TTL):
        return value
    shown = str(value) if isinstance(value, dt.timedelta) else repr(value)
    raise InvalidInput(f"{name}={shown}: must be a datetime.timedelta of more than 0, at most 100 years")


def patterns(name: str, value: str | Iterable[str]) -> tuple[re.Pattern[str], ...]:
    """Return regular expressions, compiled; a single string is one. Raises InvalidInput."""
    found = []
    for item in texts(name, value):
        try:
            found.append(re.compile(item))
        except re.error as error:
            raise InvalidInput(f"`{name}`: {item!r} is not a regular expression: {error}") from error
    return tuple(found)


def duration(name: str, value: object) -> dt.timedelta | None:
    """Return a length of time, or None, unchanged. Raises InvalidInput, also for a negative one."""
    if value is None or (isinstance(value, dt.timedelta) and value >= dt.timedelta()):
        return value
    shown = str(value) if isinstance(value, dt.timedelta) else repr(value)
    raise InvalidInput(f"{name}={shown}: must be a datetime.timedelta of at least 0")


def path(name: str, value: object) -> str:
    """Return a path as a string. Raises InvalidInput if it is not a path."""
    if isinstance(value, str | os.PathLike):
        found = os.fspath(value)
        if isinstance(found, str):
            return found
    raise InvalidInput(f"{name}={value!r}: must be a path")


def event(name: str, value: object) -> None:
    """Raise InvalidInput unless `value` is a threading.Event, and Cancelled if it is already set."""
    if not isinstance(value, threading.Event):
        raise InvalidInput(f"{name}={value!r}: must be a threading.Event")
    if value.is_set():
        raise Cancelled("the operation was cancelled")

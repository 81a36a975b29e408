"""Formatting of sizes, times and ages, and escaping of control characters. Does not import rich."""

from __future__ import annotations

import datetime as dt
from typing import Final

from pyctrd.amounts import count, size

__all__ = [
    "age",
    "clock_time",
    "count",
    "duration",
    "is_visible",
    "moment",
    "sanitize",
    "seconds",
    "short",
    "since",
    "size",
    "until",
    "without_breaks",
]

_AGES: Final = (
    ("years", 31_557_600),
    ("months", 2_629_800),
    ("weeks", 604_800),
    ("days", 86400),
    ("h", 3600),
    ("min", 60),
)

# Characters that Unicode calls default ignorable or renders as blank, although Python calls them printable.
_BLANK: Final = frozenset(
    map(
        chr,
        (
            *(0x034F, 0x115F, 0x1160, 0x17B4, 0x17B5, 0x2800, 0x3164, 0xFFA0),
            *range(0x180B, 0x1810),
            *range(0xFE00, 0xFE10),
            *range(0xE0100, 0xE01F0),
        ),
    )
)


def sanitize(text: str, *, keep: str = "") -> str:
    """Escape control characters and invisible ones, so that no name or label looks like another one.

    Characters in `keep` are left as they are.
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(char if char in keep or is_visible(char) else _escape(char) for char in text)


def without_breaks(text: str) -> str:
    """Replace tabs, line breaks and runs of spaces by single spaces."""
    return " ".join(text.split())


def is_visible(char: str) -> bool:
    """Whether a character is a plain space or has a visible glyph: no control, format or blank character."""
    return char.isprintable() and char not in _BLANK


def _escape(char: str) -> str:
    code = ord(char)
    if code <= 0xFF:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code <= 0xFFFF else f"\\U{code:08x}"


def moment(when: dt.datetime | None) -> str:
    """Format a time as RFC 3339 in UTC, to the second; empty for None."""
    if when is None:
        return ""
    return when.astimezone(dt.UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def short(digest: str) -> str:
    """Return a digest shortened to the algorithm and twelve digits."""
    algorithm, colon, encoded = digest.partition(":")
    return f"{algorithm}{colon}{encoded[:12]}"


def duration(value: float) -> str:
    """Format a duration: `0.8 s`, `42 s`, `3 min 12 s`, `2 h 5 min`."""
    if value < 9.95:
        return f"{value:.1f} s"
    whole = round(value)
    if whole < 60:
        return f"{whole} s"
    return (
        f"{whole // 60} min {whole % 60} s" if whole < 3600 else f"{whole // 3600} h {whole % 3600 // 60} min"
    )


def clock_time(value: float) -> str:
    """Format a duration compactly: `0:42`, `12:05`, `1:02:03`."""
    minutes, rest = divmod(round(value), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def age(value: float) -> str:
    """Format an age in the largest unit that fits twice: `90 s`, `47 h`, `3 months`."""
    for name, length in _AGES:
        if value >= 2 * length:
            return f"{value / length:.0f} {name}"
    return f"{max(value, 0):.0f} s"


def since(when: dt.datetime | None, now: dt.datetime) -> str:
    """Format how long ago a time was; empty for None."""
    return age((now - when).total_seconds()) if when else ""


def until(when: dt.datetime, now: dt.datetime) -> str:
    """Format how far ahead a time is: `in 23 h`."""
    return f"in {age((when - now).total_seconds())}"


def seconds(value: float) -> str:
    """Format a number of seconds: `10 s`, `0.5 s`."""
    return f"{value:g} s"

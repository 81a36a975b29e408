"""Text for people and for pipes: sizes, ages, control characters made harmless. No rich in here."""

from __future__ import annotations

import datetime as dt
import unicodedata
from typing import Final

_UNITS: Final = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")
# Format characters that turn the reading direction round: a name could show as another one.
_HIDDEN: Final = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\ufeff")


def sanitize(text: str, *, keep: str = "") -> str:
    """Write control characters as escapes, so that a name or a label cannot steer the terminal.

    `keep` are the characters that may stay as they are.
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(char if char in keep or not _steers(char) else _escape(char) for char in text)


def _steers(char: str) -> bool:
    return char in _HIDDEN or unicodedata.category(char) in ("Cc", "Cs", "Zl", "Zp")


def _escape(char: str) -> str:
    code = ord(char)
    return f"\\x{code:02x}" if code <= 0xFF else f"\\u{code:04x}"


def size(count: int) -> str:
    """Write a number of bytes for people, in powers of 1024: `0 B`, `7.5 KiB`, `1.0 GiB`."""
    if count < 1024:
        return f"{count} B"
    value = float(count)
    unit = 0
    while value >= 1023.95 and unit < len(_UNITS) - 1:  # 1023.95 would round to 1024.0
        value /= 1024
        unit += 1
    return f"{value:.1f} {_UNITS[unit]}"


def count(number: int, noun: str) -> str:
    """Write a number with its noun: `1 blob`, `3 blobs`, `2 archives`."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def moment(when: dt.datetime | None) -> str:
    """Write a time in UTC to the second, RFC 3339; nothing for None."""
    if when is None:
        return ""
    return when.astimezone(dt.UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def short(digest: str) -> str:
    """Give enough of a digest for a person: the algorithm and twelve digits."""
    algorithm, colon, encoded = digest.partition(":")
    return f"{algorithm}{colon}{encoded[:12]}"


def seconds(value: float) -> str:
    """Write a duration for people: `10 s`, `0.5 s`."""
    return f"{value:g} s"

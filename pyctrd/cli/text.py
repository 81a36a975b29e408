"""Text for people and for pipes: sizes, ages, control characters made harmless. No rich in here."""

from __future__ import annotations

import datetime as dt
from typing import Final

from pyctrd.amounts import count, size

__all__ = ["count", "is_visible", "moment", "sanitize", "seconds", "short", "size"]

# What Unicode calls default ignorable, or shows as blank, although Python calls it printable.
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
    """Escape what steers a terminal or cannot be seen, so that no name or label shows as another one.

    `keep` are the characters that may stay as they are.
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(char if char in keep or is_visible(char) else _escape(char) for char in text)


def is_visible(char: str) -> bool:
    """Whether a character is a plain space, or leaves a mark of its own: no control, format or blank."""
    return char.isprintable() and char not in _BLANK


def _escape(char: str) -> str:
    code = ord(char)
    if code <= 0xFF:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code <= 0xFFFF else f"\\U{code:08x}"


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

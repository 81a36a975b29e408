"""Format sizes and counts for messages and tables."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

_UNITS: Final = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")


def size(count: int) -> str:
    """Format a number of bytes in powers of 1024: `0 B`, `7.5 KiB`, `1.0 GiB`."""
    if count < 1024:
        return f"{count} B"
    value = float(count)
    unit = 0
    while value >= 1023.95 and unit < len(_UNITS) - 1:  # 1023.95 would round to 1024.0
        value /= 1024
        unit += 1
    return f"{value:.1f} {_UNITS[unit]}"


def count(number: int, noun: str) -> str:
    """Format a number with its noun: `1 blob`, `3 blobs`."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


# An image may list thousands of platforms.
MOST_LISTED: Final = 8


def listed(names: Sequence[str]) -> str:
    """Join names with commas: the first few, and how many more there are."""
    shown = ", ".join(names[:MOST_LISTED])
    return shown if len(names) <= MOST_LISTED else f"{shown} and {len(names) - MOST_LISTED} more"

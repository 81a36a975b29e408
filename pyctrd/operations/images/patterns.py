"""Patterns of names as docker has them: those of Go's path.Match.

`*` matches any text without a slash, `?` one character but a slash, `[a-z]` and `[^a-z]` one of a set, and a
backslash makes the next character literal.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final

from pyctrd.errors import InvalidInput

_WILD: Final = {"*": "[^/]*", "?": "[^/]"}


def matcher(pattern: str) -> Callable[[str], bool]:
    """Return a test of names.

    Raises InvalidInput for a pattern that Go refuses (`syntax error in pattern`).
    """
    parts: list[str] = []
    left = list(reversed(pattern))
    while left:
        char = left.pop()
        if char in _WILD:
            if char != "*" or parts[-1:] != [_WILD["*"]]:
                parts.append(_WILD[char])
        elif char == "[":
            parts.append(_set(pattern, left))
        else:
            parts.append(re.escape(_literal(pattern, left) if char == "\\" else char))
    compiled = re.compile("".join(parts), re.DOTALL)
    return lambda name: compiled.fullmatch(name) is not None


def _set(pattern: str, left: list[str]) -> str:
    """Return the regular expression of a set after its opening bracket."""
    negated = bool(left) and left[-1] == "^"
    if negated:
        left.pop()
    ranges: list[str] = []
    while not (ranges and left and left[-1] == "]"):
        first = last = _member(pattern, left)
        if left and left[-1] == "-":
            left.pop()
            last = _member(pattern, left)
        # For Go, a range whose end comes before its start is valid and empty.
        ranges.append(f"{re.escape(first)}-{re.escape(last)}" if first <= last else "")
    left.pop()
    inside = "".join(ranges)
    if not inside:
        return "[\\s\\S]" if negated else "(?!)"
    return f"[{'^' if negated else ''}{inside}]"


def _member(pattern: str, left: list[str]) -> str:
    """Return one end of a range."""
    if not left or left[-1] in "-]":
        raise _invalid(pattern)
    char = left.pop()
    char = _literal(pattern, left) if char == "\\" else char
    if not left:
        raise _invalid(pattern)
    return char


def _literal(pattern: str, left: list[str]) -> str:
    if not left:
        raise _invalid(pattern)
    return left.pop()


def _invalid(pattern: str) -> InvalidInput:
    return InvalidInput(f"invalid pattern {pattern!r}: syntax error in pattern")

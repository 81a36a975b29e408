"""Parse the WWW-Authenticate header. No IO, and never raises.

Source: RFC 9110 section 11.6.1; one field may hold several challenges, and a value may be quoted or not.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Final

import msgspec

MAX_HEADER_CHARACTERS: Final = 1 << 14

_SCHEME = re.compile(r"[\s,]*([!#$%&'*+.^_`|~0-9A-Za-z-]+)(?=\s|,|$)")
_PARAMETER = re.compile(
    r"""[\s,]*([!#$%&'*+.^_`|~0-9A-Za-z-]+)[ \t]*=[ \t]*(?:"((?:[^"\\]|\\.)*)"|([^\s,"]*))(?=[\s,]|$)""",
    re.DOTALL,
)


class Challenge(msgspec.Struct, frozen=True):
    """One challenge: the scheme in lower case (`bearer`, `basic`), and its parameters by lower-case name."""

    scheme: str
    parameters: Mapping[str, str] = msgspec.field(default_factory=dict)

    def __getitem__(self, name: str) -> str:
        """Return the value of a parameter; "" if it is absent."""
        return self.parameters.get(name, "")


def parse(headers: Iterable[str]) -> tuple[Challenge, ...]:
    """Parse the challenges of all header lines, in order; the rest of a malformed line is ignored."""
    found: list[Challenge] = []
    for header in headers:
        # A lone surrogate could not be sent to a token server.
        text = header[:MAX_HEADER_CHARACTERS].encode("utf-8", "replace").decode("utf-8")
        found += _parse_line(text)
    return tuple(found)


def choose(challenges: Iterable[Challenge]) -> Challenge | None:
    """Return the challenge to answer, preferably Bearer, else Basic; None if there is neither.

    Basic is preferred to a Bearer challenge that names no token server.
    """
    known = {challenge.scheme: challenge for challenge in reversed(tuple(challenges))}
    bearer, basic = known.get("bearer"), known.get("basic")
    return basic if bearer is not None and basic is not None and not bearer["realm"] else bearer or basic


def _parse_line(line: str) -> list[Challenge]:
    found: list[Challenge] = []
    position = 0
    while scheme := _SCHEME.match(line, position):
        position = scheme.end()
        parameters: dict[str, str] = {}
        while parameter := _PARAMETER.match(line, position):
            position = parameter.end()
            name, quoted, plain = parameter.groups()
            value = plain if quoted is None else re.sub(r"\\(.)", r"\1", quoted, flags=re.DOTALL)
            parameters.setdefault(name.lower(), value)
        found.append(Challenge(scheme[1].lower(), parameters))
    return found

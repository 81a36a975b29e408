"""Warning headers of a registry: each is logged once, and never acted upon.

Source: OCI distribution-spec 1.1, "Warnings"; the form is that of RFC 7234 section 5.5.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

from pyctrd import redact

# The spec allows 4096 bytes of warnings in one response; more than a few of them are not logged.
MAX_CHARACTERS: Final = 4096
MAX_WARNINGS: Final = 10

_ITEM: Final = r'299 - "((?:[^"\\]|\\.)*+)"'
_FIRST: Final = _ITEM
_LIST: Final = rf"{_ITEM}(?:[ \t]*+,[ \t]*+{_ITEM})*+"

_log = redact.logger("pyctrd.registry")


def texts_of(values: Iterable[str]) -> list[str]:
    """Return the texts of Warning headers; by the spec, only the form `299 - "..."` counts."""
    found = []
    for value in values:
        if len(value) <= MAX_CHARACTERS and re.fullmatch(_LIST, value.strip()):
            found += [re.sub(r"\\(.)", r"\1", text) for text in re.findall(_FIRST, value)]
    return [text for text in found if text.strip()]


class WarningLog:
    """Logs each warning of one repository once, and at most MAX_WARNINGS of them."""

    def __init__(self) -> None:
        self._logged: set[str] = set()

    def log(self, host: str, values: Iterable[str]) -> None:
        """Log the values of Warning headers as warnings of the host (host[:port])."""
        for text in texts_of(values):
            if text not in self._logged and len(self._logged) < MAX_WARNINGS:
                self._logged.add(text)
                _log.warning("%s says: %s", host, text, extra={"host": host})

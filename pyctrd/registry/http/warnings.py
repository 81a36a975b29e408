"""What a registry wants the user to know: its Warning headers, told once each and never acted upon.

Source: OCI distribution-spec 1.1, "Warnings"; the form is that of RFC 7234 section 5.5.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

from pyctrd import redact

# Whoever floods us is not listened to any longer: the spec allows 4096 bytes of warnings in one answer.
MAX_CHARACTERS: Final = 4096
MAX_NOTICES: Final = 10

_ITEM: Final = r'299 - "((?:[^"\\]|\\.)*+)"'
_FIRST: Final = re.compile(_ITEM)
_LIST: Final = re.compile(rf"{_ITEM}(?:[ \t]*+,[ \t]*+{_ITEM})*+")

_log = redact.logger(__name__)


def texts_of(values: Iterable[str]) -> list[str]:
    """Give the texts of Warning headers; of other codes and agents, or another form, the spec wants none."""
    found = []
    for value in values:
        if len(value) <= MAX_CHARACTERS and _LIST.fullmatch(value.strip()):
            found += [re.sub(r"\\(.)", r"\1", text) for text in _FIRST.findall(value)]
    return [text for text in found if text.strip()]


class Notices:
    """Tells each text of one repository once, and not more than MAX_NOTICES of them."""

    def __init__(self) -> None:
        self._told: set[str] = set()

    def tell(self, host: str, values: Iterable[str]) -> None:
        """Log what the Warning headers of an answer say, as warnings of the host's (host[:port])."""
        for text in texts_of(values):
            if text not in self._told and len(self._told) < MAX_NOTICES:
                self._told.add(text)
                _log.warning("%s says: %s", host, text)

"""The bytes of one blob from an offset on, across as many connections as it takes."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from pyctrd import redact
from pyctrd.errors import RegistryContentError, RegistryUnreachable
from pyctrd.registry.http.response import LIVELY_BYTES, Response
from pyctrd.registry.http.retry import Budget, seconds_to_wait

# Re-opening goes on for as long as it gets anywhere; this many times in a row for next to nothing is the end.
MAX_FRUITLESS: Final = 3

_log = redact.logger(__name__)


@dataclass(frozen=True)
class Opened:
    """A response whose body begins at byte `start` of the blob (before the wanted one: Range was ignored)."""

    response: Response
    start: int


class ResumingBody:
    """Reads a blob of `size` bytes from `offset`; `reopen(position)` gives a response for the rest of it.

    The first connection is opened at once, so that its errors come before any byte is asked for. `fail`
    makes the error for content that is not what was promised. Pauses come out of `budget`. A document is to
    be there within `seconds`: it is small, and nobody sees it come.
    """

    def __init__(
        self,
        reopen: Callable[[int], Opened],
        *,
        offset: int,
        size: int,
        fail: Callable[[str], RegistryContentError],
        sleep: Callable[[float], None],
        budget: Budget,
        seconds: float | None = None,
    ) -> None:
        self._reopen = reopen
        self._position = offset
        self._size = size
        self._fail = fail
        self._sleep = sleep
        self._budget = budget
        self._deadline = None if seconds is None else time.monotonic() + seconds
        self._opened: Opened | None = reopen(offset) if offset < size else None

    def close(self) -> None:
        """Let go of the connection."""
        if self._opened is not None:
            self._opened.response.close()
            self._opened = None

    def chunks(self) -> Iterator[bytes]:
        """Yield the bytes; raises RegistryContentError when they end early or do not end."""
        fruitless = 0
        while self._position < self._size:
            before = self._position
            cut: RegistryUnreachable | None = None
            try:
                yield from self._one_connection()
            except RegistryUnreachable as error:
                cut = error
            if self._position >= self._size:
                return
            fruitless = fruitless + 1 if self._position - before < LIVELY_BYTES else 0
            pause = seconds_to_wait(fruitless + 1, "", now=0.0)
            if fruitless >= MAX_FRUITLESS or not self._budget.spend(pause):
                raise self._short(cut)
            self._resume(pause, cut)

    def _short(self, cut: RegistryUnreachable | None) -> RegistryContentError:
        because = f" ({cut.message})" if cut else ""
        error = self._fail(f"short read: expected {self._size} bytes but got {self._position}{because}")
        error.__cause__ = cut
        return error

    def _resume(self, pause: float, cut: RegistryUnreachable | None) -> None:
        _log.info(
            "%s; going on at byte %d of %d", cut or "the connection ended early", self._position, self._size
        )
        self.close()
        self._sleep(pause)
        self._opened = self._reopen(self._position)

    def _one_connection(self) -> Iterator[bytes]:
        assert self._opened is not None
        response = self._opened.response
        discard = self._position - self._opened.start
        for received in response.chunks():
            chunk = received
            if discard:
                chunk = received[discard:]
                discard -= len(received) - len(chunk)
            if self._position + len(chunk) > self._size:
                raise self._fail(f"more than the expected {self._size} bytes")
            if chunk:
                self._position += len(chunk)
                yield chunk
            if self._deadline is not None and time.monotonic() > self._deadline:
                raise self._fail(f"too slow: {self._position} of {self._size} bytes when time was up")

"""Download a blob from an offset, over as many connections as necessary."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator

from pyctrd import redact
from pyctrd.errors import RegistryContentError, RegistryUnreachable
from pyctrd.registry.fetch import BlobRequests, Opened
from pyctrd.registry.hosts import kind_of
from pyctrd.registry.http.retry import (
    DOCUMENT_STALLS,
    MAX_FRUITLESS_DOWNLOADS,
    MIN_BYTES_PER_STALL,
    seconds_to_wait,
)

_log = redact.logger("pyctrd.registry")


class ResumingBody:
    """Reads a blob from `offset`, on one connection after the other.

    The first connection is opened at once, so that its errors are raised before any byte is read. Pauses are
    charged to the budget of the transport. A manifest or index has a time limit: it is small, and its
    progress is not shown.
    """

    def __init__(self, requests: BlobRequests, offset: int) -> None:
        self._requests = requests
        self._transport = requests.repository.transport
        self._error = requests.content_error
        self._position = offset
        self._size = requests.descriptor.size
        self._deadline = math.inf
        if kind_of(requests.descriptor) == "manifests":
            self._deadline = time.monotonic() + DOCUMENT_STALLS * self._transport.stall_timeout
        self._opened: Opened | None = requests.open(offset) if offset < self._size else None

    def close(self) -> None:
        """Close the connection."""
        if self._opened is not None:
            self._opened.response.close()
            self._opened = None

    def chunks(self) -> Iterator[bytes]:
        """Yield the bytes. Raises RegistryContentError for too few or too many of them."""
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
            fruitless = fruitless + 1 if self._position - before < MIN_BYTES_PER_STALL else 0
            pause = seconds_to_wait(fruitless + 1)
            if fruitless >= MAX_FRUITLESS_DOWNLOADS or not self._transport.budget.spend(pause):
                raise self._short(cut)
            self._resume(pause, cut)

    def _short(self, cut: RegistryUnreachable | None) -> RegistryContentError:
        because = f" ({cut.message})" if cut else ""
        error = self._error(f"short read: expected {self._size} bytes but got {self._position}{because}")
        error.__cause__ = cut
        return error

    def _resume(self, pause: float, cut: RegistryUnreachable | None) -> None:
        _log.info(
            "%s; resuming at byte %d of %d",
            cut or "the connection ended early",
            self._position,
            self._size,
            extra={"host": cut.host if cut else "", "bytes": self._position, "pause": pause},
        )
        self.close()
        self._transport.sleep(pause)
        self._opened = self._requests.open(self._position)

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
                raise self._error(f"more than the expected {self._size} bytes")
            if chunk:
                self._position += len(chunk)
                yield chunk
            if time.monotonic() > self._deadline:
                raise self._error(f"too slow: {self._position} of {self._size} bytes within the time limit")

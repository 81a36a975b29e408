"""HTTP responses with limits of time and size for the head and for the framing of the body.

http.client loops within one call as long as bytes arrive: over interim responses, header lines, chunk sizes
and trailers. Here every step has a time limit and a size limit. Sources: RFC 9112 (which does not limit the
head or the framing), RFC 9110 section 15.2 (a client must read past interim responses that it does not
know); Go net/http/internal/chunked.go for limiting the framing in proportion to the data.
"""

from __future__ import annotations

import http.client
import io
import socket
import time
from typing import Any, Final

MAX_HEAD_BYTES: Final = 1 << 20
# The bytes of chunk sizes, extensions and trailers, and of read-ahead, beyond their share of the data.
MAX_FRAMING_BYTES: Final = 1 << 20
# Chunks of one byte have five bytes of framing each.
_FAIR_FRAMING: Final = 8


class LimitedResponse(http.client.HTTPResponse):
    """A response whose head must arrive within `head_seconds`, and each piece within `stall_seconds`.

    Also reads the response to CONNECT, which has a head only. Raises TimeoutError, or HTTPException for one
    that is too large.
    """

    def __init__(
        self, link: socket.socket, *args: Any, head_seconds: float, stall_seconds: float, **kwargs: Any
    ) -> None:
        super().__init__(link, *args, **kwargs)
        self._stall_seconds = stall_seconds
        self._framing = 0
        self._wire = _Limited(self.fp.detach(), link)
        self.fp = io.BufferedReader(self._wire)
        self._wire.allow(head_seconds, MAX_HEAD_BYTES, "the head of the response")

    def begin(self, **limits: Any) -> None:
        """Read the head of the final response: 102 and 103 come before it, as 100 does.

        `limits` are http.client's own, from Python 3.15 on.
        """
        super().begin(**limits)
        while 100 <= self.status < 200 and self.status != http.client.SWITCHING_PROTOCOLS:
            self.headers = None  # type: ignore[assignment]  # else http.client reads nothing more
            super().begin(**limits)

    def read1(self, n: int = -1) -> bytes:
        """Read what has arrived, waiting for the first byte."""
        room = MAX_FRAMING_BYTES - self._framing + max(n, 0)
        before = self._wire.received
        self._wire.allow(self._stall_seconds, room, "the framing of the body")
        data = super().read1(n)
        framing = self._wire.received - before - len(data)
        self._framing = max(0, self._framing + framing - _FAIR_FRAMING * len(data))
        return data


class _Limited(io.RawIOBase):
    """The bytes of a connection, limited in number and time for each step."""

    def __init__(self, raw: io.RawIOBase, link: socket.socket) -> None:
        self._raw = raw
        self._link = link
        self._deadline = 0.0
        self._end = 0
        self._what = ""
        self.received = 0

    def allow(self, seconds: float, size: int, what: str) -> None:
        """Begin a step; `what` names it in errors."""
        self._deadline = time.monotonic() + seconds
        self._end = self.received + size
        self._what = what

    def readable(self) -> bool:
        """Return True, as io.BufferedReader requires."""
        return True

    def fileno(self) -> int:
        """Return the socket's descriptor."""
        return self._raw.fileno()

    def close(self) -> None:
        """Close the reader of the socket."""
        self._raw.close()
        super().close()

    def readinto(self, buffer: Any) -> int | None:
        """Read from the socket within the time that is left of the step."""
        seconds = self._deadline - time.monotonic()
        if self.received >= self._end:
            raise http.client.HTTPException(f"{self._what} does not end")
        if seconds <= 0:
            raise TimeoutError(f"{self._what} did not end in time")
        usual = self._link.gettimeout()
        if usual is not None and usual <= seconds:
            count = self._raw.readinto(buffer)
        else:
            self._link.settimeout(seconds)
            try:
                count = self._raw.readinto(buffer)
            finally:
                self._link.settimeout(usual)
        self.received += count or 0
        return count

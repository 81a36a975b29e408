"""Responses: the body as bytes, never decoded, with limits for those that stall.

The exceptions of urllib3 become ours here (`unreachable`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from contextlib import closing
from typing import Final
from urllib.parse import urlsplit

import urllib3
from urllib3.exceptions import (
    ConnectTimeoutError,
    HTTPError,
    NameResolutionError,
    NewConnectionError,
    ReadTimeoutError,
)

from pyctrd import redact
from pyctrd.errors import PyctrdError, RegistryContentError, RegistryUnreachable
from pyctrd.registry.config.proxy import without_secrets
from pyctrd.registry.http import errors
from pyctrd.registry.http.retry import DOCUMENT_STALLS, MIN_BYTES_PER_STALL, STALL_TIMEOUT_SECONDS

CHUNK_BYTES: Final = 1 << 20

# What has arrived is yielded at least this often, so that the reader can stop, and show progress.
_YIELD_SECONDS: Final = 1.0
# To keep a connection, the rest of a small body is read, with hardly any waiting.
_MAX_DRAINED_BYTES: Final = 1 << 16
_DRAIN_SECONDS: Final = 0.2

_log = redact.logger("pyctrd.registry")


class Response:
    """A response whose body has not been read yet: read it or close it, on one thread. A context manager.

    `waited` is called with the time since when the body of an error was waited for; `ended` returns the
    error that explains why all requests were ended, if they were. `finished` is called with the size of what
    was read of the body, at its end or when it breaks, and when the response is closed.
    """

    def __init__(
        self,
        raw: urllib3.HTTPResponse,
        url: str,
        *,
        proxy: str | None = None,
        stall_seconds: float = STALL_TIMEOUT_SECONDS,
        ended: Callable[[], PyctrdError | None] = lambda: None,
        waited: Callable[[float], None] = lambda _since: None,
        finished: Callable[[int, BaseException | None], None] = lambda _size, _error: None,
    ) -> None:
        self._raw = raw
        self._ended = ended
        self._stall_seconds = stall_seconds
        self._waited = waited
        self._finished = finished
        self.url = url
        self.proxy = proxy
        self.host = urlsplit(url).netloc
        self.status = raw.status

    def __enter__(self) -> Response:
        """Return the response itself."""
        return self

    def __exit__(self, *_exc: object) -> None:
        """Close it."""
        self.close()

    def header(self, name: str) -> str:
        """Return the value of a header; "" if it is absent."""
        return self._raw.headers.get(name, "")

    def header_values(self, name: str) -> list[str]:
        """Return the values of a header that may occur on several lines."""
        return list(self._raw.headers.getlist(name))

    @property
    def length(self) -> int | None:
        """The size of the body in bytes as stated by the server, or None."""
        text = self.header("Content-Length").strip()
        return int(text) if text.isascii() and text.isdigit() and len(text) < 19 else None

    def chunks(self) -> Generator[bytes, None, None]:
        """Yield the body in chunks of at most CHUNK_BYTES, never decoded.

        What arrived before a connection broke is yielded before RegistryUnreachable is raised; a connection
        with fewer than MIN_BYTES_PER_STALL bytes in a stall timeout counts as broken. If all requests were
        ended, the error that explains why is raised.
        """
        progress = BodyProgress(self._stall_seconds)
        while True:
            pieces: list[bytes] = []
            broken: Exception | None = None
            ended = False
            room = CHUNK_BYTES
            while room and not (pieces and progress.is_due()):
                try:
                    piece = self._raw.read1(room, decode_content=False)
                    ended = not piece
                    progress.add(len(piece))
                except (HTTPError, OSError, ValueError) as error:
                    broken = error
                    break
                if ended:
                    break
                pieces.append(piece)
                room -= len(piece)
            if pieces:
                yield pieces[0] if len(pieces) == 1 else b"".join(pieces)
            if broken is not None or ended:
                self._finished(self._raw.tell(), broken)
            if broken is not None:
                raise self._ended() or unreachable(broken, self.url, self.proxy)
            if ended:
                return

    def read(self, limit: int) -> bytes:
        """Read the whole body of a document.

        Raises RegistryContentError if it has more than `limit` bytes, or takes longer than
        DOCUMENT_STALLS stall timeouts.
        """
        parts: list[bytes] = []
        size = 0
        deadline = time.monotonic() + DOCUMENT_STALLS * self._stall_seconds
        with closing(self.chunks()) as chunks:
            for chunk in chunks:
                parts.append(chunk)
                size += len(chunk)
                if size > limit:
                    raise self._refused(f"more than {limit} bytes")
                if time.monotonic() > deadline:
                    raise self._refused(f"too slow: {size} bytes within the time limit")
        return b"".join(parts)

    def _refused(self, text: str) -> RegistryContentError:
        self.close()
        return RegistryContentError(
            f"{without_secrets(self.url)}: {text}", host=self.host, status=self.status
        )

    def excerpt(self) -> bytes:
        """Return the beginning of an error's body (b"" if it cannot be read), and close the response."""
        started = time.monotonic()
        try:
            return next(self.chunks(), b"")
        except RegistryUnreachable:
            return b""
        finally:
            self._waited(started)
            self.close()

    def close(self) -> None:
        """Keep the connection if the body was read to its end, close it otherwise."""
        remaining = self._raw.length_remaining
        if remaining is not None and remaining <= _MAX_DRAINED_BYTES:
            try:
                self._drain()
            except (HTTPError, OSError, ValueError):
                _log.debug(
                    "%s: the connection broke near the end of a body",
                    without_secrets(self.url),
                    extra={"host": self.host},
                )
        self._finished(self._raw.tell(), None)
        self._raw.close()
        self._raw.release_conn()

    def _drain(self) -> None:
        """Read the rest of a small body, if it has arrived: keeping a connection is not worth waiting for."""
        link = getattr(getattr(self._raw, "connection", None), "sock", None)
        if link is not None:
            link.settimeout(_DRAIN_SECONDS)
        deadline = time.monotonic() + _DRAIN_SECONDS
        while time.monotonic() < deadline and self._raw.read1(_MAX_DRAINED_BYTES, decode_content=False):
            pass


class BodyProgress:
    """Watches the bytes that arrive: raises TimeoutError for too few of them, and says when to yield them."""

    def __init__(self, stall_seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._stall_seconds = stall_seconds
        self._clock = clock
        self._since = self._yielded = clock()
        self._bytes = 0

    def add(self, count: int) -> None:
        """Count bytes; 0 is the end of the body, which may come late."""
        now = self._clock()
        self._bytes += count
        if self._bytes >= MIN_BYTES_PER_STALL or not count:
            self._since, self._bytes = now, 0
        elif now - self._since > self._stall_seconds:
            raise TimeoutError(f"only {self._bytes} bytes in {self._stall_seconds:g} s")

    def is_due(self) -> bool:
        """Whether the bytes so far are to be yielded."""
        now = self._clock()
        if now - self._yielded < _YIELD_SECONDS:
            return False
        self._yielded = now
        return True


def unreachable(error: BaseException, url: str, proxy: str | None) -> RegistryUnreachable:
    """Return the error for a failed request, without the query and user of the URL."""
    kind: errors.Kind | None = None
    for cause in errors.chain(error):
        if isinstance(cause, NameResolutionError):
            kind = errors.Kind.NO_SUCH_NAME
        elif isinstance(cause, ConnectTimeoutError) and not isinstance(cause, NewConnectionError):
            kind = errors.Kind.CONNECT_TIMEOUT
        elif isinstance(cause, ReadTimeoutError):
            kind = errors.Kind.READ_TIMEOUT
        if kind is not None:
            break
    return errors.unreachable(error, url, proxy=proxy and without_secrets(proxy), kind=kind)

"""The body of an answer: bytes as they come, never decoded, and an end to those that never end.

urllib3's exceptions become ours here (`unreachable`).
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

# One recv fills at most this much; larger pieces only cost memory that is never filled.
_PIECE_BYTES: Final = 1 << 18
# What has arrived is handed on at least this often, so that whoever reads can stop, and can show it.
_GATHER_SECONDS: Final = 1.0
# A kept connection is worth reading the rest of a small body, but not waiting for it.
_MAX_DRAINED_BYTES: Final = 1 << 16
_DRAIN_SECONDS: Final = 0.2

_log = redact.logger(__name__)


class Response:
    """An answer whose body is still on the wire: read it or close it, on one thread. A context manager.

    `waited` is told since when the body of an error was waited for.
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
    ) -> None:
        self._raw = raw
        self._ended = ended
        self._stall_seconds = stall_seconds
        self._waited = waited
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
        """Give a header's value, "" when it is absent."""
        return self._raw.headers.get(name, "")

    def header_values(self, name: str) -> list[str]:
        """Give the values of a header that may occur on several lines."""
        return list(self._raw.headers.getlist(name))

    @property
    def length(self) -> int | None:
        """The body's size in bytes as the server states it, None when it does not."""
        text = self.header("Content-Length").strip()
        return int(text) if text.isascii() and text.isdigit() and len(text) < 19 else None

    def chunks(self) -> Generator[bytes, None, None]:
        """Yield the body in chunks of at most CHUNK_BYTES, never decoded.

        What arrived before a connection broke is yielded before RegistryUnreachable is raised; fewer than
        MIN_BYTES_PER_STALL in a whole stall time-out count as broken. When all requests were ended, the error
        that says why is raised.
        """
        gathered = Gathering(self._stall_seconds)
        while True:
            pieces: list[bytes] = []
            broken: Exception | None = None
            ended = False
            room = CHUNK_BYTES
            while room and not (pieces and gathered.is_due()):
                try:
                    piece = self._raw.read1(min(room, _PIECE_BYTES), decode_content=False)
                    ended = not piece
                    gathered.add(len(piece))
                except (HTTPError, OSError, ValueError) as error:
                    broken = error
                    break
                if ended:
                    break
                pieces.append(piece)
                room -= len(piece)
            if pieces:
                yield pieces[0] if len(pieces) == 1 else b"".join(pieces)
            if broken is not None:
                raise self._ended() or unreachable(broken, self.url, self.proxy)
            if ended:
                return

    def read(self, limit: int) -> bytes:
        """Read the whole body of a document.

        Raises RegistryContentError when it has more than `limit` bytes, or takes longer than
        DOCUMENT_STALLS stall time-outs.
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
                    raise self._refused(f"too slow: {size} bytes when time was up")
        return b"".join(parts)

    def _refused(self, text: str) -> RegistryContentError:
        self.close()
        return RegistryContentError(
            f"{without_secrets(self.url)}: {text}", host=self.host, status=self.status
        )

    def excerpt(self) -> bytes:
        """Read the beginning of an error's body, whatever happens, and be done with the response."""
        started = time.monotonic()
        try:
            return next(self.chunks(), b"")
        except RegistryUnreachable:
            return b""
        finally:
            self._waited(started)
            self.close()

    def close(self) -> None:
        """Give the connection back if the body was read to its end, drop it otherwise."""
        remaining = self._raw.length_remaining
        if remaining is not None and remaining <= _MAX_DRAINED_BYTES:
            try:
                self._drain()
            except (HTTPError, OSError, ValueError):
                _log.debug("%s: the connection broke while it was being emptied", without_secrets(self.url))
        self._raw.close()
        self._raw.release_conn()

    def _drain(self) -> None:
        """Read what is left of a small body, if it comes at once: a kept connection is not worth a wait."""
        link = getattr(getattr(self._raw, "connection", None), "sock", None)
        if link is not None:
            link.settimeout(_DRAIN_SECONDS)
        deadline = time.monotonic() + _DRAIN_SECONDS
        while time.monotonic() < deadline and self._raw.read1(_PIECE_BYTES, decode_content=False):
            pass


class Gathering:
    """Watches what arrives: raises TimeoutError for a drip, and tells when to hand on what is there."""

    def __init__(self, stall_seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._stall_seconds = stall_seconds
        self._clock = clock
        self._since = self._handed_on = clock()
        self._bytes = 0

    def add(self, count: int) -> None:
        """Count bytes; 0 is the end, which is never too slow."""
        now = self._clock()
        self._bytes += count
        if self._bytes >= MIN_BYTES_PER_STALL or not count:
            self._since, self._bytes = now, 0
        elif now - self._since > self._stall_seconds:
            raise TimeoutError(f"only {self._bytes} bytes in {self._stall_seconds:g} s")

    def is_due(self) -> bool:
        """Tell whether the bytes so far are to be handed on."""
        now = self._clock()
        if now - self._handed_on < _GATHER_SECONDS:
            return False
        self._handed_on = now
        return True


def unreachable(error: BaseException, url: str, proxy: str | None) -> RegistryUnreachable:
    """Say what stood between us and the host; the URL's query and user stay out of it."""
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

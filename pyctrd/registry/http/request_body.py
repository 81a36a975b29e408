"""Bodies of requests that are read while they are sent, and a blob reader that verifies its digest."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Generator, Iterator
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager, nullcontext
from typing import Any, Final

import msgspec

from pyctrd.errors import PyctrdError
from pyctrd.oci.model import Descriptor
from pyctrd.ports import BlobSource, Chunk

# A piece must be sent within the connection's timeout; larger ones would fail on a slow network.
PIECE_BYTES: Final = 1 << 16


class Stream(msgspec.Struct, frozen=True):
    """A body of `length` bytes, opened from its start each time it is sent.

    It is content, never a secret, so it may be sent again after a redirect that keeps the method.
    """

    length: int
    open: Callable[[], AbstractContextManager[Iterator[Chunk]]]

    @classmethod
    def of(cls, data: bytes) -> Stream:
        """Return a body of bytes."""
        return cls(len(data), lambda: nullcontext(iter([data] if data else [])))


def opened(body: bytes | Stream | None) -> AbstractContextManager[Any]:
    """Open a body for sending it once; bytes and None are passed as they are."""
    return body.open() if isinstance(body, Stream) else nullcontext(body)


def length_header(body: bytes | Stream | None) -> dict[str, str]:
    """Return the header for the length of a stream, which otherwise would be sent in chunks."""
    return {"Content-Length": str(body.length)} if isinstance(body, Stream) else {}


class BlobReader:
    """Reads a blob in pieces for an upload; each byte is hashed once, even if it is sent again.

    Parts are read one after another from one opened source; only going back opens it again. The last byte of
    the blob is yielded only if size and digest match. `failure` is the error of the source itself, as
    opposed to one of the registry. A context manager.
    """

    def __init__(self, descriptor: Descriptor, source: BlobSource, report: Callable[[int], None]) -> None:
        self._descriptor = descriptor
        self._source = source
        self._report = report
        self._hash = hashlib.new(descriptor.digest.algorithm)
        self._hashed = 0
        self._position = 0
        self._chunks: Iterator[Chunk] | None = None
        self._left = memoryview(b"")
        self._open = ExitStack()
        self.failure: BaseException | None = None

    def __enter__(self) -> BlobReader:
        """Return the reader; the source is opened when the first part is read."""
        return self

    def __exit__(self, *_exc: object) -> None:
        """Close the source."""
        self.close()

    def close(self) -> None:
        """Close the source; a later part opens it again."""
        self._chunks = None
        self._open.close()

    @property
    def hashed(self) -> int:
        """The number of bytes read so far; no part can begin after them."""
        return self._hashed

    def part(self, start: int, length: int) -> Stream:
        """Return the `length` bytes from `start` as a body."""
        return Stream(length, lambda: self._part(start, length))

    @contextmanager
    def _part(self, start: int, length: int) -> Iterator[Iterator[Chunk]]:
        with closing(self._pieces(start, length)) as pieces:  # the next part must not find an open iterator
            yield pieces

    def _pieces(self, start: int, length: int) -> Generator[Chunk]:
        end = start + length
        try:
            self._seek(start)
            if not self._descriptor.size:
                self._check_end()
            while self._position < end:
                piece = self._next(end - self._position)
                self._position += len(piece)
                if self._position == self._descriptor.size:
                    self._check_end()
                yield piece
                self._report(self._position)
        except GeneratorExit:  # sending was interrupted: the position of the source is unknown
            self.close()
            raise
        except BaseException as error:
            self.failure = error
            self.close()
            raise

    def _seek(self, start: int) -> None:
        assert start <= self._hashed, "a part must not begin after the hashed bytes"
        if self._chunks is None or start != self._position:
            self.close()
            self._chunks = self._open.enter_context(self._source.open(start))
            self._left = memoryview(b"")
            self._position = start

    def _next(self, room: int) -> memoryview:
        """Return the next piece, and hash the part of it that was not read before."""
        assert self._chunks is not None
        while not self._left:
            chunk = next(self._chunks, b"")
            if not chunk:
                raise self._wrong(f"has {self._position} bytes, expected {self._descriptor.size}")
            self._left = memoryview(chunk)
        size = min(room, PIECE_BYTES, len(self._left))
        piece, self._left = self._left[:size], self._left[size:]
        fresh = self._position + size - self._hashed
        if fresh > 0:
            self._hash.update(piece[size - fresh :])
            self._hashed += fresh
        return piece

    def _check_end(self) -> None:
        assert self._chunks is not None
        more: Chunk = next(self._chunks, b"")
        if self._left or more:
            raise self._wrong(f"has more than {self._descriptor.size} bytes")
        actual = f"{self._descriptor.digest.algorithm}:{self._hash.hexdigest()}"
        if actual != self._descriptor.digest:
            raise self._wrong(f"its bytes have the digest {actual}")

    def _wrong(self, text: str) -> PyctrdError:
        return self._source.wrong(f"content {self._descriptor.digest}: {text}")

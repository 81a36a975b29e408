"""Write a layout as a tar stream; blobs are checked against their digests on the way.

Three threads are connected by short queues: one reads from the store, one hashes, and the caller's thread
writes. Hashing and writing release the interpreter lock. Only a few chunks are in memory.

Source: containerd core/images/archive/exporter.go writeTar, blobRecord.
"""

from __future__ import annotations

import errno
import hashlib
import io
import queue
import select
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import IO, Final, TypeAlias

from pyctrd.archive.layout import Entry, Layout
from pyctrd.archive.tar_header import END, header, padding
from pyctrd.errors import REPAIR, REPAIR_HINT, ArchiveError, DigestMismatch, NotFound
from pyctrd.oci.model import Digest
from pyctrd.ports import Chunk

# Opens a blob's bytes, in chunks of at most 1 MiB; raises NotFound.
Reader: TypeAlias = Callable[[Digest], AbstractContextManager[Iterator[Chunk]]]

_QUEUED_CHUNKS: Final = 8
_POLL_SECONDS: Final = 0.1
# How long to wait at the end for a reading thread that is blocked by the store's connection.
_JOIN_SECONDS: Final = 2.0
_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


class _Stopped(Exception):
    """Stops the reading thread after a failed write; never raised to a caller."""


def size(layout: Layout) -> int:
    """Return the size of the archive in bytes."""
    return len(END) + sum(
        len(header(item.name, item.mode, item.size)) + item.size + len(padding(item.size))
        for item in layout.entries
    )


def write(
    layout: Layout,
    read: Reader,
    output: IO[bytes],
    *,
    progress: Callable[[Entry, int], None] = lambda _entry, _written: None,
    check: Callable[[], None] = lambda: None,
) -> int:
    """Write an archive and return its size in bytes. Checks the digest and size of every blob.

    `progress` is called with the number of bytes of a blob that are written. `check` is called regularly
    while a non-blocking pipe is full, and may raise. `output` is neither closed nor synced, and is incomplete
    after an error. Raises DigestMismatch (`unexpected digest ... copied`), ArchiveError (a wrong size, no
    space, a closed pipe), NotFound (`failed to get reader: content digest ...: not found`).
    """
    expected = size(layout)
    sink = _Sink(output, expected, check)
    with _reading(layout, read) as stream:
        _copy(layout, stream, sink, progress)
    sink.write(END)
    sink.flush()
    if sink.written != expected:
        raise ArchiveError(f"archive/tar: wrote {sink.written} bytes, expected {expected}")
    return sink.written


def _copy(
    layout: Layout, stream: Iterator[Chunk], sink: _Sink, progress: Callable[[Entry, int], None]
) -> None:
    with _Hasher() as hasher:
        for entry in layout.entries:
            sink.write(header(entry.name, entry.mode, entry.size))
            if isinstance(entry.source, Digest):
                hasher.start(entry.source)
                written = 0
                for chunk in _exactly(entry, stream):
                    hasher.feed(chunk)
                    sink.write(chunk)
                    written += len(chunk)
                    progress(entry, written)
                _compare(entry, entry.source, hasher.finish())
            else:
                sink.write(entry.source)
            sink.write(padding(entry.size))


def _exactly(entry: Entry, stream: Iterator[Chunk]) -> Iterator[Chunk]:
    """Yield the chunks of one blob, up to the empty chunk at its end."""
    rest = entry.size
    for chunk in stream:
        if not chunk:
            break
        rest -= len(chunk)
        if rest < 0:
            raise ArchiveError(f"archive/tar: write too long: {entry.name} has more than {entry.size} bytes")
        yield chunk
    if rest:
        raise ArchiveError(
            f"unexpected copy size for {entry.name}: {entry.size - rest} bytes instead of {entry.size}",
            hint=REPAIR_HINT,
            remedy=REPAIR,
        )


def _compare(entry: Entry, expected: Digest, actual: str) -> None:
    if actual != expected:
        raise DigestMismatch(
            f"unexpected digest {actual} copied: the content store's {entry.name} is corrupt",
            expected=expected,
            actual=actual,
            hint=REPAIR_HINT,
            remedy=REPAIR,
        )


# --- the reading thread -----------------------------------------------------------------------------------


@contextmanager
def _reading(layout: Layout, read: Reader) -> Iterator[Iterator[Chunk]]:
    """Read the blobs of a layout ahead, in order; an empty chunk follows each."""
    chunks: queue.Queue[Chunk | BaseException | None] = queue.Queue(_QUEUED_CHUNKS)
    stop = threading.Event()

    def put(item: Chunk | BaseException | None) -> None:
        while not stop.is_set():
            try:
                return chunks.put(item, timeout=_POLL_SECONDS)
            except queue.Full:
                continue
        raise _Stopped

    thread = threading.Thread(target=_read_all, args=(layout, read, put), name="pyctrd-read", daemon=True)
    thread.start()
    try:
        yield _taken(chunks)
    finally:
        stop.set()
        thread.join(_JOIN_SECONDS)


def _read_all(layout: Layout, read: Reader, put: Callable[[Chunk | BaseException | None], None]) -> None:
    try:
        for digest in layout.blobs:
            with read(digest) as blob:
                for chunk in blob:
                    if chunk:
                        put(chunk)
            put(b"")
        put(None)
    except _Stopped:
        return
    except BaseException as error:  # noqa: BLE001 - raised again in the caller's thread
        _put_last(error, put)


def _put_last(error: BaseException, put: Callable[[Chunk | BaseException | None], None]) -> None:
    try:
        put(error)
    except _Stopped:
        return


def _without_reader(error: NotFound) -> NotFound:
    message = f"failed to get reader: {error.message}"
    return NotFound(
        message,
        kind=error.kind,
        name=error.name,
        hint=error.hint or REPAIR_HINT,
        remedy=error.remedy or REPAIR,
    )


def _taken(chunks: queue.Queue[Chunk | BaseException | None]) -> Iterator[Chunk]:
    while (item := chunks.get()) is not None:
        if isinstance(item, NotFound):
            raise _without_reader(item) from item
        if isinstance(item, BaseException):
            raise item
        yield item


# --- the hashing thread -----------------------------------------------------------------------------------


class _Hasher:
    """Computes the digests of blobs, one after the other, in a separate thread."""

    def __init__(self) -> None:
        self._queue: queue.Queue[Chunk | None] = queue.Queue(_QUEUED_CHUNKS)
        self._hash = hashlib.sha256()
        self._algorithm = ""
        self._thread = threading.Thread(target=self._run, name="pyctrd-hash", daemon=True)

    def __enter__(self) -> _Hasher:
        self._thread.start()
        return self

    def __exit__(self, *_exc: object) -> None:
        self._queue.put(None)
        self._thread.join()

    def start(self, expected: Digest) -> None:
        """Start a new blob, with the algorithm of its digest."""
        self._algorithm = expected.algorithm
        self._hash = hashlib.new(expected.algorithm)

    def feed(self, chunk: Chunk) -> None:
        """Add bytes; blocks while the thread is behind."""
        self._queue.put(chunk)

    def finish(self) -> str:
        """Return the digest of the bytes since `start`."""
        self._queue.join()
        return f"{self._algorithm}:{self._hash.hexdigest()}"

    def _run(self) -> None:
        while (chunk := self._queue.get()) is not None:
            self._hash.update(chunk)
            self._queue.task_done()


# --- the writing side -------------------------------------------------------------------------------------


class _Sink:
    """Writes to the output, buffered or not, counts the bytes, and explains errors."""

    def __init__(self, output: IO[bytes], needed: int, check: Callable[[], None]) -> None:
        self._output = output
        self._needed = needed
        self._check = check
        self.written = 0

    def write(self, data: Chunk) -> None:
        view = memoryview(data)
        try:
            while view:
                view = view[self._write(view) :]
        except OSError as error:
            raise self._explained(error) from error
        self.written += len(data)

    def _write(self, view: memoryview) -> int:
        """Write some of the bytes and return how many: 0 after waiting for a full pipe."""
        count: int | None = self._output.write(view)
        if count is None and isinstance(self._output, io.RawIOBase):  # it would block
            while not select.select([], [self._output], [], _POLL_SECONDS)[1]:
                self._check()
            return 0
        if not isinstance(count, int) or not 0 < count <= len(view):
            raise ArchiveError(
                f"cannot write the archive: write() of the output returned {count!r} for {len(view)} bytes",
                hint="it has to return the number of bytes written, as files do",
            )
        return count

    def flush(self) -> None:
        try:
            self._output.flush()
        except OSError as error:
            raise self._explained(error) from error

    def _explained(self, error: OSError) -> ArchiveError:
        reason = error.strerror or str(error)
        if error.errno in _FULL:
            return ArchiveError(
                f"cannot write the archive: {reason}: {self._needed} bytes are needed",
                hint="free some space, or choose another file as `output`",
            )
        if isinstance(error, BrokenPipeError):
            return ArchiveError(
                f"cannot write the archive: {reason}: the reader closed the pipe after {self.written} of "
                f"{self._needed} bytes"
            )
        return ArchiveError(f"cannot write the archive: {reason}")

"""Copy the members of a layout to where they are written; blobs are checked against their digests on the way.

Three threads are connected by short queues: one reads from the store, one hashes, and the caller's thread
writes. Hashing and writing release the interpreter lock. Only a few chunks are in memory. The store is asked
for the next blobs early, so that no blob waits for its first bytes. Small blobs are handed over together, and
hashed where they are written: a switch of threads for each would take longer than all the rest.

Source: containerd core/images/archive/exporter.go writeTar, blobRecord.
"""

from __future__ import annotations

import hashlib
import queue
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager, suppress
from contextvars import copy_context
from itertools import islice
from typing import Final, Protocol, TypeAlias

from pyctrd.archive.layout import Entry, Layout
from pyctrd.errors import REPAIR, REPAIR_HINT, ArchiveError, DigestMismatch, NotFound
from pyctrd.oci.model import Digest
from pyctrd.ports import Chunk

# Opens a blob's bytes, in chunks of at most 1 MiB; raises NotFound.
Reader: TypeAlias = Callable[[Digest], AbstractContextManager[Iterator[Chunk]]]
# Chunks that were read, the error that has ended the reading, or None at the end.
_Read: TypeAlias = list[Chunk] | BaseException | None
# Called with the number of bytes of a blob that are written.
Report: TypeAlias = Callable[[Entry, int], None]

# Measured: longer queues are not faster.
_QUEUED_CHUNKS: Final = 4
# Blobs up to this size are small, and so much of them is handed over together.
_SMALL_BYTES: Final = 64 << 10
# How many blobs are open at once. Two halve the time for many small layers; three take a little less.
_OPEN_BLOBS: Final = 3
_POLL_SECONDS: Final = 0.1
# How long to wait at the end for a reading thread that is blocked by the store's connection.
_JOIN_SECONDS: Final = 2.0


class Target(Protocol):
    """Where members are written to, one after the other."""

    def start(self, entry: Entry) -> None:
        """Start a member."""

    def write(self, data: Chunk) -> None:
        """Write the next bytes of the member. Raises ArchiveError."""

    def finish(self, entry: Entry) -> None:
        """Finish the member, of which all bytes are written."""


class _Stopped(Exception):
    """Stops the reading thread after a failed write; never raised to a caller."""


def no_report(_entry: Entry, _written: int) -> None:
    """Ignore progress."""


def copy(layout: Layout, read: Reader, target: Target, progress: Report = no_report) -> None:
    """Write all members to a target. Checks the digest and size of every blob.

    Raises DigestMismatch (`unexpected digest ... copied`), ArchiveError for a wrong size, NotFound (`failed
    to get reader: content digest ...: not found`), and what the target raises.
    """
    with _reading(layout, read) as stream, _Hasher() as hasher:
        for entry in layout.entries:
            target.start(entry)
            if isinstance(entry.source, Digest):
                hasher.start(entry.source, entry.size)
                written = 0
                for chunk in _exactly(entry, stream):
                    hasher.feed(chunk)
                    target.write(chunk)
                    written += len(chunk)
                    progress(entry, written)
                _compare(entry, entry.source, hasher.finish())
            elif not entry.is_directory:
                target.write(entry.source)
            target.finish(entry)


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
    read_ahead: queue.Queue[_Read] = queue.Queue(_QUEUED_CHUNKS)
    stop = threading.Event()

    def put(item: _Read) -> None:
        while not stop.is_set():
            try:
                return read_ahead.put(item, timeout=_POLL_SECONDS)
            except queue.Full:
                continue
        raise _Stopped

    thread = threading.Thread(
        target=copy_context().run, args=(_read_all, layout, read, put), name="pyctrd-read", daemon=True
    )
    thread.start()
    try:
        yield _taken(read_ahead)
    finally:
        stop.set()
        thread.join(_JOIN_SECONDS)


def _read_all(layout: Layout, read: Reader, put: Callable[[_Read], None]) -> None:
    held: list[Chunk] = []
    size = 0
    last: BaseException | None = None
    try:
        with closing(_opened(layout.blobs, read)) as blobs:
            for blob in blobs:
                for chunk in blob:
                    if chunk:
                        held.append(chunk)
                        size += len(chunk)
                    if size >= _SMALL_BYTES:
                        put(held)
                        held, size = [], 0
                held.append(b"")
    except _Stopped:
        return
    except BaseException as error:  # noqa: BLE001 - raised again in the caller's thread
        last = error
    with suppress(_Stopped):
        put(held)
        put(last)


def _opened(digests: Iterable[Digest], read: Reader) -> Generator[Iterator[Chunk]]:
    """Yield the chunks of each blob; the next blobs are already open, so that the store sends them, too."""
    rest = iter(digests)
    opened = deque[tuple[ExitStack, Iterator[Chunk]]]()
    try:
        while True:
            for digest in islice(rest, _OPEN_BLOBS - len(opened)):
                stack = ExitStack()
                opened.append((stack, stack.enter_context(read(digest))))
            if not opened:
                return
            stack, chunks = opened.popleft()
            with stack:
                yield chunks
    finally:
        for stack, _chunks in opened:
            stack.close()


def _without_reader(error: NotFound) -> NotFound:
    message = f"failed to get reader: {error.message}"
    return NotFound(
        message,
        kind=error.kind,
        name=error.name,
        hint=error.hint or REPAIR_HINT,
        remedy=error.remedy or REPAIR,
    )


def _taken(read_ahead: queue.Queue[_Read]) -> Iterator[Chunk]:
    while (item := read_ahead.get()) is not None:
        if isinstance(item, NotFound):
            raise _without_reader(item) from item
        if isinstance(item, BaseException):
            raise item
        yield from item


# --- the hashing thread -----------------------------------------------------------------------------------


class _Hasher:
    """Computes the digests of blobs, one after the other; those of large blobs in a separate thread."""

    def __init__(self) -> None:
        self._is_small = True
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

    def start(self, expected: Digest, size: int) -> None:
        """Start a new blob, with the algorithm of its digest."""
        self._is_small = size <= _SMALL_BYTES
        self._algorithm = expected.algorithm
        self._hash = hashlib.new(expected.algorithm)

    def feed(self, chunk: Chunk) -> None:
        """Add bytes; blocks while the thread is behind."""
        if self._is_small:
            self._hash.update(chunk)
        else:
            self._queue.put(chunk)

    def finish(self) -> str:
        """Return the digest of the bytes since `start`."""
        self._queue.join()
        return f"{self._algorithm}:{self._hash.hexdigest()}"

    def _run(self) -> None:
        while (chunk := self._queue.get()) is not None:
            self._hash.update(chunk)
            self._queue.task_done()

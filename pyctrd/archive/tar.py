"""Write a layout as a tar stream.

Source: containerd core/images/archive/exporter.go writeTar, blobRecord.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import IO, Final

from pyctrd.archive.compress import Compression, compressed
from pyctrd.archive.copying import Reader, Report, copy, no_report
from pyctrd.archive.layout import Entry, Layout
from pyctrd.archive.sink import Sink
from pyctrd.archive.tar_header import END, header, padding
from pyctrd.errors import ArchiveError
from pyctrd.ports import Chunk

_BUFFER_BYTES: Final = 64 << 10


def size(layout: Layout) -> int:
    """Return the size of the archive in bytes, before compression."""
    return len(END) + sum(
        len(header(item.name, item.mode, item.size)) + item.size + len(padding(item.size))
        for item in layout.entries
    )


def write(
    layout: Layout,
    read: Reader,
    output: IO[bytes],
    *,
    compression: Compression = "none",
    progress: Report = no_report,
    check: Callable[[], None] = lambda: None,
) -> int:
    """Write an archive and return its size in bytes. Checks the digest and size of every blob.

    `progress` is called with the number of bytes of a blob that are written. `check` is called regularly
    while a non-blocking pipe is full, and may raise. `output` is neither closed nor synced, and is incomplete
    after an error. Raises DigestMismatch (`unexpected digest ... copied`), ArchiveError (a wrong size, no
    space, a closed pipe), NotFound (`failed to get reader: content digest ...: not found`).
    """
    expected = size(layout)
    sink = Sink(output, expected if compression == "none" else None, check)
    with compressed(sink.write, compression, expected) as write_plain:
        members = _Members(write_plain)
        copy(layout, read, members, progress)
        members.write(END)
        members.flush()
    sink.flush()
    if members.written != expected:
        raise ArchiveError(f"archive/tar: wrote {members.written} bytes, expected {expected}")
    return sink.written


class _Members:
    """Writes members with their headers and padding, and counts the bytes. Implements copying.Target.

    What is small is written together.
    """

    def __init__(self, write_plain: Callable[[Chunk], object]) -> None:
        self._write = write_plain
        self._held: list[Chunk] = []
        self._held_bytes = 0
        self.written = 0

    def start(self, entry: Entry) -> None:
        self.write(header(entry.name, entry.mode, entry.size))

    def write(self, data: Chunk) -> None:
        self.written += len(data)
        if len(data) >= _BUFFER_BYTES:
            self.flush()
            self._write(data)
            return
        self._held.append(data)
        self._held_bytes += len(data)
        if self._held_bytes >= _BUFFER_BYTES:
            self.flush()

    def flush(self) -> None:
        if self._held_bytes:
            self._write(b"".join(self._held))
        self._held, self._held_bytes = [], 0

    def finish(self, entry: Entry) -> None:
        self.write(padding(entry.size))

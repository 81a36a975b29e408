"""Open the output of a save: a file, which appears only when it is complete, or a stream."""

from __future__ import annotations

import io
import os
import re
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, BinaryIO, Final, cast

from pyctrd.archive.location import Location, failure, found_at
from pyctrd.archive.partial import replacing
from pyctrd.errors import InvalidInput

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

_STANDARD: Final = {"/dev/stdin": 0, "/dev/stdout": 1, "/dev/stderr": 2}
_DESCRIPTOR: Final = re.compile(r"/(?:dev|proc/self)/fd/([0-9]+)")
_WRITE_BACK_BYTES: Final = 32 << 20
_MODE: Final = 0o666  # minus the umask, as for files of any program


@contextmanager
def open_output(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """Open the output of a save; `-` means stdout.

    A regular file gets its name when the context is left without an error: until then, an existing file stays
    as it is, and after an error (including KeyboardInterrupt) no partial file is left behind. The new file
    has the mode, owner, group and ACL of the one it replaces. Symbolic links are followed. Pipes, devices and
    `/dev/stdout` are written directly. In a world-writable directory, links, pipes and files of other users
    are not used.
    Raises InvalidInput for a terminal or a directory, ArchiveError if the output cannot be opened.
    """
    name = "/dev/stdout" if path == "-" else os.fspath(path)
    number = _descriptor_number(name)
    if number is not None:
        with _opened(name, partial(os.dup, number)) as stream:
            yield stream
        return
    with found_at(name) as location:
        kind = location.kind
        if kind == stat.S_IFDIR:
            raise InvalidInput(
                f"{name}: is a directory",
                hint=f"pass a file as `output`, e.g. {name.rstrip('/')}/image.tar, or use `format=dir`",
            )
        opening = _new_file(location) if kind in (0, stat.S_IFREG) else _opened(name, location.open)
        with opening as stream:
            yield stream


def _descriptor_number(name: str) -> int | None:
    """Return the file descriptor that a name like `/dev/fd/3` refers to, None for any other name.

    Renaming a file to such a name would not reach the reader.
    """
    found = _DESCRIPTOR.fullmatch(name)
    return int(found.group(1)) if found else _STANDARD.get(name)


@contextmanager
def _opened(name: str, open_it: Callable[[], int]) -> Iterator[BinaryIO]:
    """Open a stream that is written from its current position."""
    try:
        opened = open_it()
    except OSError as error:
        raise failure(name, error) from error
    with os.fdopen(_own_pipe(opened), "wb", buffering=0) as stream:
        if stream.isatty():
            raise InvalidInput(
                "cowardly refusing to save to a terminal", hint="redirect stdout, or pass a file as `output`"
            )
        yield stream


def _own_pipe(number: int) -> int:
    """Reopen a pipe in non-blocking mode, which does not affect others who have it open.

    Otherwise, a write to a pipe that is not read could not be cancelled. Other files are returned unchanged.
    """
    if not stat.S_ISFIFO(os.fstat(number).st_mode):
        return number
    try:
        own = os.open(f"/proc/self/fd/{number}", os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:  # no /proc, or a pipe without a reader, which the first write will report
        return number
    os.close(number)
    return own


# --- write a file -------------------------------------------------------------------------------------------


@contextmanager
def _new_file(location: Location) -> Iterator[BinaryIO]:
    """Open a new file in the directory, which gets its name at the end."""
    with (
        replacing(location, _create, _MODE) as number,
        WrittenBack(number, "wb", closefd=False) as stream,
    ):
        yield cast("BinaryIO", stream)


def _create(name: str, mode: int, directory: int) -> int:
    return os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode, dir_fd=directory)


class WrittenBack(io.FileIO):
    """A file that is written back to disk continuously, so that the final fsync is fast."""

    _pending = 0
    _start = 0

    def write(self, data: ReadableBuffer, /) -> int:
        """Write, and start writing back what has accumulated."""
        count = super().write(data) or 0
        self._pending += count
        if self._pending >= _WRITE_BACK_BYTES:
            # For dirty pages that are no longer needed, the kernel starts to write back and returns.
            os.posix_fadvise(self.fileno(), self._start, self._pending, os.POSIX_FADV_DONTNEED)
            self._start, self._pending = self._start + self._pending, 0
        return count

"""Where an archive goes: a file that appears whole or not at all, or a stream that is written straight."""

from __future__ import annotations

import fcntl
import io
import os
import re
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Final, cast

from pyctrd.errors import ArchiveError, InvalidInput

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

_STANDARD: Final = {"/dev/stdin": 0, "/dev/stdout": 1, "/dev/stderr": 2}
_DESCRIPTOR: Final = re.compile(r"/(?:dev|proc/self)/fd/([0-9]+)")
_WRITE_BACK_BYTES: Final = 32 << 20
_MODE: Final = 0o666  # less the umask, as any program's file

# Files of this process that have no name of their own yet.
_unfinished = set[Path]()


def remove_unfinished() -> None:
    """Remove what is half-written, for a process that ends at once."""
    for part in tuple(_unfinished):
        with suppress(OSError):
            part.unlink()


@contextmanager
def open_output(path: str | os.PathLike[str] | None) -> Iterator[BinaryIO]:
    """Open the place that an archive is to be written to; None and `-` are stdout.

    A regular file gets its name only when the context is left without an error: until then an existing one
    stays as it is, and after an error (KeyboardInterrupt too) nothing new is left. A symbolic link is
    followed. Pipes, devices and `/dev/stdout` are written straight.
    Raises InvalidInput for a terminal or a directory, ArchiveError when the place cannot be written.
    """
    name = "/dev/stdout" if path is None or path == "-" else os.fspath(path)
    number = _descriptor_number(name)
    if number is not None:
        with _opened(name, number) as stream:
            yield stream
    elif _is_special(name):
        with _opened(name) as stream:
            yield stream
    else:
        with _replacing(Path(os.path.realpath(name))) as stream:
            yield stream


def _descriptor_number(name: str) -> int | None:
    """Tell which open file a name stands for: renaming onto it would not reach who reads from it."""
    found = _DESCRIPTOR.fullmatch(name)
    return int(found.group(1)) if found else _STANDARD.get(name)


@contextmanager
def _opened(name: str, number: int | None = None) -> Iterator[BinaryIO]:
    """Open a stream by name, or as another descriptor of an open file; both go on where that stands."""
    try:
        flags = os.O_WRONLY | os.O_CLOEXEC
        opened = os.open(name, flags) if number is None else os.dup(number)
    except OSError as error:
        raise _failure(name, error) from error
    with os.fdopen(_own_pipe(opened), "wb", buffering=0) as stream:
        yield _no_terminal(stream)


def _own_pipe(number: int) -> int:
    """Open a pipe once more, so that it can be written without blocking; others who have it open still block.

    Whoever waits for a reader who stands still could not be woken up otherwise. Anything else stays as it is.
    """
    if not stat.S_ISFIFO(os.fstat(number).st_mode):
        return number
    try:
        own = os.open(f"/proc/self/fd/{number}", os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:  # no /proc, or the pipe of another user
        return number
    os.close(number)
    return own


def _no_terminal(stream: BinaryIO) -> BinaryIO:
    if stream.isatty():
        raise InvalidInput("cowardly refusing to save to a terminal. Use the -o flag or redirect")
    return stream


def _is_special(name: str) -> bool:
    try:
        mode = Path(name).stat().st_mode
    except FileNotFoundError:
        return False
    except OSError as error:
        raise _failure(name, error) from error
    if stat.S_ISDIR(mode):
        raise InvalidInput(
            f"{name}: is a directory", hint=f"name a file, e.g. -o {name.rstrip('/')}/image.tar"
        )
    return not stat.S_ISREG(mode)


@contextmanager
def _replacing(path: Path) -> Iterator[BinaryIO]:
    """Give a new file beside `path`, which takes that name at the end."""
    try:
        _remove_orphans(path)
        part, number = _new_part(path)
    except OSError as error:
        raise _failure(str(path), error) from error
    try:
        with _WrittenBack(number, "wb") as stream:
            yield cast("BinaryIO", stream)
            _sync(path, number)
        _rename(part, path)
    except BaseException:
        with suppress(FileNotFoundError):
            part.unlink()
        raise
    finally:
        _unfinished.discard(part)


def _new_part(path: Path) -> tuple[Path, int]:
    """Make a file beside `path`, locked for as long as it is open: so everybody sees that it is in use."""
    while True:
        part = path.with_name(f".{path.name[:200]}.{secrets.token_hex(4)}.part")
        _unfinished.add(part)
        number = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, _MODE)
        with suppress(OSError):  # a file system without locks: then nobody removes it either
            fcntl.flock(number, fcntl.LOCK_EX)
        if part.exists():
            return part, number
        os.close(number)  # taken for an orphan before it was locked


def _remove_orphans(path: Path) -> None:
    """Remove what a save that was killed (SIGKILL, a power cut) left beside `path`: nobody holds its lock."""
    form = re.compile(re.escape(f".{path.name[:200]}.") + "[0-9a-f]{8}[.]part")
    with suppress(OSError):  # a folder that cannot be listed
        for place in path.parent.iterdir():
            if form.fullmatch(place.name):
                _remove_unlocked(place)


def _remove_unlocked(place: Path) -> None:
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    with suppress(OSError), os.fdopen(os.open(place, flags), "rb") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        place.unlink()


class _WrittenBack(io.FileIO):
    """A file that goes to the disk while it is written, so that the last sync has little to wait for."""

    _pending = 0
    _start = 0

    def write(self, data: ReadableBuffer, /) -> int:
        """Write, and begin to write back what has piled up."""
        count = super().write(data) or 0
        self._pending += count
        if self._pending >= _WRITE_BACK_BYTES:
            # The kernel starts the write-back of dirty pages that are not needed any more, and goes on.
            os.posix_fadvise(self.fileno(), self._start, self._pending, os.POSIX_FADV_DONTNEED)
            self._start, self._pending = self._start + self._pending, 0
        return count


def _sync(path: Path, number: int) -> None:
    try:
        os.fsync(number)
    except OSError as error:
        raise _failure(str(path), error) from error


def _rename(part: Path, path: Path) -> None:
    try:
        part.replace(path)
    except OSError as error:
        raise _failure(str(path), error) from error
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    except OSError:  # some file systems cannot; the file itself is safe
        pass
    finally:
        os.close(folder)


def _failure(name: str, error: OSError) -> ArchiveError:
    hint = "make the folder first" if isinstance(error, FileNotFoundError) else None
    return ArchiveError(f"cannot write {name}: {error.strerror or error}", hint=hint)

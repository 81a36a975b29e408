"""Open the output of a save: a file, which appears only when it is complete, or a stream."""

from __future__ import annotations

import errno
import fcntl
import io
import os
import re
import secrets
import stat
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING, BinaryIO, Final, cast

from pyctrd.errors import ArchiveError, InvalidInput

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

_STANDARD: Final = {"/dev/stdin": 0, "/dev/stdout": 1, "/dev/stderr": 2}
_DESCRIPTOR: Final = re.compile(r"/(?:dev|proc/self)/fd/([0-9]+)")
_MAGIC: Final = re.compile(r"(?:pipe|socket|anon_inode):.*")
_MAX_LINKS: Final = 40  # the limit of Linux
_ACL: Final = "system.posix_acl_access"
_WRITE_BACK_BYTES: Final = 32 << 20
_MODE: Final = 0o666  # minus the umask, as for files of any program

# Partial files of this process: directory and name.
_unfinished = set[tuple[int, str]]()


def remove_unfinished() -> None:
    """Remove partial files, for a process that is about to exit."""
    for directory, part in tuple(_unfinished):
        with suppress(OSError):
            os.unlink(part, dir_fd=directory)


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
    with _found(name) as location:
        kind = location.kind
        if kind == stat.S_IFDIR:
            raise InvalidInput(
                f"{name}: is a directory",
                hint=f"pass a file as `output`, e.g. {name.rstrip('/')}/image.tar",
            )
        opening = _replacing(location) if kind in (0, stat.S_IFREG) else _opened(name, location.open)
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
        raise _failure(name, error) from error
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


# --- resolve a path -----------------------------------------------------------------------------------------


class _Location:
    """A name in an open directory, so that the directory cannot be exchanged in the meantime.

    `given` is the caller's path; `found` is the existing file with that name, or None.
    """

    def __init__(self, given: str, directory: int, name: str, found: os.stat_result | None) -> None:
        self.given = given
        self.directory = directory
        self.name = name
        self.found = found

    @property
    def kind(self) -> int:
        """The type of the existing file (stat.S_IFREG ...), 0 if there is none."""
        return stat.S_IFMT(self.found.st_mode) if self.found else 0

    def open(self) -> int:
        """Open the file that was found; fails if another one has its name now."""
        flags = os.O_WRONLY | os.O_CLOEXEC | os.O_NOCTTY
        magic = self.kind == stat.S_IFLNK
        number = os.open(self.name, flags | (0 if magic else os.O_NOFOLLOW), dir_fd=self.directory)
        if not magic and not _same(os.fstat(number), self.found):
            os.close(number)
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
        return number


def _same(one: os.stat_result, other: os.stat_result | None) -> bool:
    return other is not None and (one.st_dev, one.st_ino) == (other.st_dev, other.st_ino)


@contextmanager
def _found(path: str) -> Iterator[_Location]:
    """Resolve a path component by component; the kernel's protection (fs.protected_symlinks) may be off."""
    with ExitStack() as stack:
        try:
            location = _follow(path, stack)
        except OSError as error:
            raise _failure(path, error) from error
        yield location


def _follow(path: str, stack: ExitStack) -> _Location:
    def opened(name: str, flags: int, directory: int | None = None) -> int:
        number = os.open(name, flags | os.O_PATH | os.O_CLOEXEC, dir_fd=directory)
        stack.callback(os.close, number)
        return number

    directory = opened("/" if path.startswith("/") else ".", os.O_DIRECTORY)
    parts = _parts(path)
    links = 0
    while parts:
        name = parts.pop()
        try:
            number = opened(name, os.O_NOFOLLOW, directory)
        except FileNotFoundError:
            if parts:
                raise
            return _Location(path, directory, name, None)
        found = os.fstat(number)
        if stat.S_ISLNK(found.st_mode):
            _refuse_foreign(path, directory, found)
            target = os.readlink("", dir_fd=number)
            if _MAGIC.fullmatch(target):  # in /proc/PID/fd: the target has no path
                return _Location(path, directory, name, found)
            links += 1
            if links > _MAX_LINKS:
                raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
            directory = opened("/", os.O_DIRECTORY) if target.startswith("/") else directory
            parts += _parts(target)
        elif parts:
            directory = opened(name, os.O_DIRECTORY | os.O_NOFOLLOW, directory)
        else:
            if not stat.S_ISDIR(found.st_mode):
                _refuse_foreign(path, directory, found)
            return _Location(path, directory, name, found)
    return _Location(path, directory, ".", os.fstat(directory))


def _parts(path: str) -> list[str]:
    """Return the components of a path, the last one first."""
    return [part for part in reversed(path.split("/")) if part not in ("", ".")]


def _refuse_foreign(path: str, directory: int, found: os.stat_result) -> None:
    """Refuse links, pipes and files of other users in a world-writable directory.

    An archive may contain secrets, which the owner of the file could read. This is what Linux does with
    fs.protected_symlinks, protected_fifos and protected_regular, whatever they are set to.
    """
    around = os.fstat(directory)
    if around.st_mode & stat.S_IWOTH and found.st_uid not in (os.geteuid(), around.st_uid):
        raise ArchiveError(
            f"cannot write {path}: part of the path belongs to another user (uid {found.st_uid}), in a "
            "world-writable directory",
            hint="choose another directory",
        )


# --- write a file -------------------------------------------------------------------------------------------


@contextmanager
def _replacing(location: _Location) -> Iterator[BinaryIO]:
    """Open a new file in the directory, which gets its name at the end."""
    try:
        _remove_orphans(location)
        part, number = _new_part(location)
    except OSError as error:
        raise _failure(location.given, error) from error
    try:
        with _WrittenBack(number, "wb") as stream:
            if location.found is not None:
                _keep_rights(number, location, location.found)
            yield cast("BinaryIO", stream)
            _finish(location, part, number)
    except BaseException:
        with suppress(FileNotFoundError):
            os.unlink(part, dir_fd=location.directory)
        raise
    finally:
        _unfinished.discard((location.directory, part))
    _sync_folder(location)


def _new_part(location: _Location) -> tuple[str, int]:
    """Create a file, locked while it is open, which shows others that it is in use."""
    mode = _MODE if location.found is None else 0o600
    while True:
        part = f".{location.name[:200]}.{secrets.token_hex(4)}.part"
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        _unfinished.add((location.directory, part))
        number = os.open(part, flags, mode, dir_fd=location.directory)
        with suppress(OSError):  # without support for locks, other processes do not remove it either
            fcntl.flock(number, fcntl.LOCK_EX)
        if _is_named(number, part, location):
            return part, number
        os.close(number)  # removed as an orphan before it was locked


def _is_named(number: int, name: str, location: _Location) -> bool:
    try:
        return _same(os.fstat(number), os.stat(name, dir_fd=location.directory, follow_symlinks=False))
    except FileNotFoundError:
        return False


def _keep_rights(number: int, location: _Location, old: os.stat_result) -> None:
    """Copy owner, group, mode and ACL of the file that is replaced, as far as permitted.

    Before anything is written, so that no one can read the new file who could not read the old one.
    """
    mode = stat.S_IMODE(old.st_mode) & 0o777
    try:
        os.fchown(number, -1, old.st_gid)
    except OSError:
        mode &= ~stat.S_IRWXG  # the group's permissions were for another group
    with suppress(OSError):
        os.fchown(number, old.st_uid, -1)
    with suppress(OSError):  # remove what comes from the directory's default ACL
        os.removexattr(number, _ACL)
    try:
        os.fchmod(number, mode)
        with suppress(OSError):  # no ACL, or not supported by the file system
            acl = os.getxattr(
                f"/proc/self/fd/{location.directory}/{location.name}", _ACL, follow_symlinks=False
            )
            os.fchmod(number, mode & ~stat.S_IRWXG)  # with an ACL these bits are its mask
            os.setxattr(number, _ACL, acl)
    except OSError as error:
        raise _failure(location.given, error) from error


def _remove_orphans(location: _Location) -> None:
    """Remove partial files of saves that were killed (SIGKILL, a power cut): they are not locked."""
    form = re.compile(re.escape(f".{location.name[:200]}.") + "[0-9a-f]{8}[.]part")
    with suppress(OSError):  # a directory that cannot be listed
        listing = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=location.directory)
        try:
            with os.scandir(listing) as entries:
                names = [entry.name for entry in entries]
        finally:
            os.close(listing)
        for name in filter(form.fullmatch, names):
            _remove_unlocked(location.directory, name)


def _remove_unlocked(directory: int, name: str) -> None:
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    with suppress(OSError), os.fdopen(os.open(name, flags, dir_fd=directory), "rb") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.unlink(name, dir_fd=directory)


class _WrittenBack(io.FileIO):
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


def _finish(location: _Location, part: str, number: int) -> None:
    """Sync the file to disk and rename it."""
    try:
        os.fsync(number)
        if not _is_named(number, part, location):
            raise OSError(errno.ESTALE, "another process removed it while it was being written")
        os.rename(part, location.name, src_dir_fd=location.directory, dst_dir_fd=location.directory)
    except OSError as error:
        raise _failure(location.given, error) from error


def _sync_folder(location: _Location) -> None:
    with suppress(OSError):  # not supported, or the directory is not readable; the file is safe
        number = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=location.directory)
        try:
            os.fsync(number)
        finally:
            os.close(number)


def _failure(name: str, error: OSError) -> ArchiveError:
    hint = "create the directory first" if isinstance(error, FileNotFoundError) else None
    return ArchiveError(f"cannot write {name}: {error.strerror or error}", hint=hint)

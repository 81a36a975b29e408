"""Where an archive goes: a file that appears whole or not at all, or a stream that is written straight."""

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
_MAX_LINKS: Final = 40  # as many as Linux follows
_ACL: Final = "system.posix_acl_access"
_WRITE_BACK_BYTES: Final = 32 << 20
_MODE: Final = 0o666  # less the umask, as any program's file

# Files of this process that have not got their name yet: folder and name.
_unfinished = set[tuple[int, str]]()


def remove_unfinished() -> None:
    """Remove what is half-written, for a process that ends at once."""
    for folder, part in tuple(_unfinished):
        with suppress(OSError):
            os.unlink(part, dir_fd=folder)


@contextmanager
def open_output(path: str | os.PathLike[str] | None) -> Iterator[BinaryIO]:
    """Open the place that an archive is to be written to; None and `-` are stdout.

    A regular file gets its name only when the context is left without an error: until then an existing one
    stays as it is, and after an error (KeyboardInterrupt too) nothing new is left. The new one has the mode,
    owner, group and ACL of the one that it replaces. A symbolic link is followed. Pipes, devices and
    `/dev/stdout` are written straight. In a folder that everybody may write to, what belongs to another user
    is neither followed nor written nor replaced.
    Raises InvalidInput for a terminal or a directory, ArchiveError when the place cannot be written.
    """
    name = "/dev/stdout" if path is None or path == "-" else os.fspath(path)
    number = _descriptor_number(name)
    if number is not None:
        with _opened(name, partial(os.dup, number)) as stream:
            yield stream
        return
    with _found(name) as place:
        kind = place.kind
        if kind == stat.S_IFDIR:
            raise InvalidInput(
                f"{name}: is a directory", hint=f"name a file, e.g. -o {name.rstrip('/')}/image.tar"
            )
        opening = _replacing(place) if kind in (0, stat.S_IFREG) else _opened(name, place.open)
        with opening as stream:
            yield stream


def _descriptor_number(name: str) -> int | None:
    """Return which open file a name stands for: renaming onto it would not reach who reads from it."""
    found = _DESCRIPTOR.fullmatch(name)
    return int(found.group(1)) if found else _STANDARD.get(name)


@contextmanager
def _opened(name: str, open_it: Callable[[], int]) -> Iterator[BinaryIO]:
    """Open a stream that is written from where it stands."""
    try:
        opened = open_it()
    except OSError as error:
        raise _failure(name, error) from error
    with os.fdopen(_own_pipe(opened), "wb", buffering=0) as stream:
        if stream.isatty():
            raise InvalidInput("cowardly refusing to save to a terminal. Use the -o flag or redirect")
        yield stream


def _own_pipe(number: int) -> int:
    """Open a pipe once more, so that it can be written without blocking; others who have it open still block.

    Whoever waits for a reader who stands still could not be woken up otherwise. Anything else stays as it is.
    """
    if not stat.S_ISFIFO(os.fstat(number).st_mode):
        return number
    try:
        own = os.open(f"/proc/self/fd/{number}", os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:  # no /proc, or a pipe without a reader, which the first write finds out
        return number
    os.close(number)
    return own


# --- where a path leads -------------------------------------------------------------------------------------


class _Place:
    """A name in a folder that is open, so that nobody can put another folder there meanwhile.

    `given` is the path as the caller has it; `found` is what has the name now, None where there is nothing.
    """

    def __init__(self, given: str, folder: int, name: str, found: os.stat_result | None) -> None:
        self.given = given
        self.folder = folder
        self.name = name
        self.found = found

    @property
    def kind(self) -> int:
        """The type of the file that is there (stat.S_IFREG ...), 0 for none."""
        return stat.S_IFMT(self.found.st_mode) if self.found else 0

    def open(self) -> int:
        """Open what was found, and nothing that has its name since."""
        flags = os.O_WRONLY | os.O_CLOEXEC | os.O_NOCTTY
        magic = self.kind == stat.S_IFLNK
        number = os.open(self.name, flags | (0 if magic else os.O_NOFOLLOW), dir_fd=self.folder)
        if not magic and not _same(os.fstat(number), self.found):
            os.close(number)
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
        return number


def _same(one: os.stat_result, other: os.stat_result | None) -> bool:
    return other is not None and (one.st_dev, one.st_ino) == (other.st_dev, other.st_ino)


@contextmanager
def _found(path: str) -> Iterator[_Place]:
    """Follow a path part by part; the kernel's own protection (fs.protected_symlinks) may be off."""
    with ExitStack() as stack:
        try:
            place = _follow(path, stack)
        except OSError as error:
            raise _failure(path, error) from error
        yield place


def _follow(path: str, stack: ExitStack) -> _Place:
    def opened(name: str, flags: int, folder: int | None = None) -> int:
        number = os.open(name, flags | os.O_PATH | os.O_CLOEXEC, dir_fd=folder)
        stack.callback(os.close, number)
        return number

    folder = opened("/" if path.startswith("/") else ".", os.O_DIRECTORY)
    parts = _parts(path)
    links = 0
    while parts:
        name = parts.pop()
        try:
            number = opened(name, os.O_NOFOLLOW, folder)
        except FileNotFoundError:
            if parts:
                raise
            return _Place(path, folder, name, None)
        found = os.fstat(number)
        if stat.S_ISLNK(found.st_mode):
            _refuse_foreign(path, folder, found)
            target = os.readlink("", dir_fd=number)
            if _MAGIC.fullmatch(target):  # of /proc/PID/fd: there is no path that leads there
                return _Place(path, folder, name, found)
            links += 1
            if links > _MAX_LINKS:
                raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
            folder = opened("/", os.O_DIRECTORY) if target.startswith("/") else folder
            parts += _parts(target)
        elif parts:
            folder = opened(name, os.O_DIRECTORY | os.O_NOFOLLOW, folder)
        else:
            if not stat.S_ISDIR(found.st_mode):
                _refuse_foreign(path, folder, found)
            return _Place(path, folder, name, found)
    return _Place(path, folder, ".", os.fstat(folder))


def _parts(path: str) -> list[str]:
    """Split a path, its last part first."""
    return [part for part in reversed(path.split("/")) if part not in ("", ".")]


def _refuse_foreign(path: str, folder: int, found: os.stat_result) -> None:
    """Refuse what another user has put into a folder that everybody may write to.

    An archive may hold secrets, and whose it is decides who reads it. Links, pipes and files are treated as
    Linux does with fs.protected_symlinks, protected_fifos and protected_regular, whatever those are set to.
    """
    around = os.fstat(folder)
    if around.st_mode & stat.S_IWOTH and found.st_uid not in (os.geteuid(), around.st_uid):
        raise ArchiveError(
            f"cannot write {path}: it leads by way of something that belongs to another user (uid "
            f"{found.st_uid}), in a folder that everybody may write to",
            hint="choose a folder of your own",
        )


# --- a file that appears whole ------------------------------------------------------------------------------


@contextmanager
def _replacing(place: _Place) -> Iterator[BinaryIO]:
    """Open a new file in the folder, which takes the name at the end."""
    try:
        _remove_orphans(place)
        part, number = _new_part(place)
    except OSError as error:
        raise _failure(place.given, error) from error
    try:
        with _WrittenBack(number, "wb") as stream:
            if place.found is not None:
                _keep_rights(number, place, place.found)
            yield cast("BinaryIO", stream)
            _finish(place, part, number)
    except BaseException:
        with suppress(FileNotFoundError):
            os.unlink(part, dir_fd=place.folder)
        raise
    finally:
        _unfinished.discard((place.folder, part))
    _sync_folder(place)


def _new_part(place: _Place) -> tuple[str, int]:
    """Make a file, locked for as long as it is open: so everybody sees that it is in use."""
    mode = _MODE if place.found is None else 0o600
    while True:
        part = f".{place.name[:200]}.{secrets.token_hex(4)}.part"
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        _unfinished.add((place.folder, part))
        number = os.open(part, flags, mode, dir_fd=place.folder)
        with suppress(OSError):  # a file system without locks: then nobody removes it either
            fcntl.flock(number, fcntl.LOCK_EX)
        if _is_named(number, part, place):
            return part, number
        os.close(number)  # taken for an orphan before it was locked


def _is_named(number: int, name: str, place: _Place) -> bool:
    try:
        return _same(os.fstat(number), os.stat(name, dir_fd=place.folder, follow_symlinks=False))
    except FileNotFoundError:
        return False


def _keep_rights(number: int, place: _Place, old: os.stat_result) -> None:
    """Give a new file the owner, group, mode and ACL of the one that it replaces, as far as we may.

    Before its first byte is written: what only some may read is never open to others.
    """
    mode = stat.S_IMODE(old.st_mode) & 0o777
    try:
        os.fchown(number, -1, old.st_gid)
    except OSError:
        mode &= ~stat.S_IRWXG  # it was said about another group
    with suppress(OSError):
        os.fchown(number, old.st_uid, -1)
    with suppress(OSError):  # what the folder's default ACL says was not said about this file
        os.removexattr(number, _ACL)
    try:
        os.fchmod(number, mode)
        with suppress(OSError):  # it has none, or the file system knows none
            acl = os.getxattr(f"/proc/self/fd/{place.folder}/{place.name}", _ACL, follow_symlinks=False)
            os.fchmod(number, mode & ~stat.S_IRWXG)  # with an ACL these bits are its mask
            os.setxattr(number, _ACL, acl)
    except OSError as error:
        raise _failure(place.given, error) from error


def _remove_orphans(place: _Place) -> None:
    """Remove what a save that was killed (SIGKILL, a power cut) left there: nobody holds its lock."""
    form = re.compile(re.escape(f".{place.name[:200]}.") + "[0-9a-f]{8}[.]part")
    with suppress(OSError):  # a folder that cannot be listed
        listing = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=place.folder)
        try:
            with os.scandir(listing) as entries:
                names = [entry.name for entry in entries]
        finally:
            os.close(listing)
        for name in filter(form.fullmatch, names):
            _remove_unlocked(place.folder, name)


def _remove_unlocked(folder: int, name: str) -> None:
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    with suppress(OSError), os.fdopen(os.open(name, flags, dir_fd=folder), "rb") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.unlink(name, dir_fd=folder)


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


def _finish(place: _Place, part: str, number: int) -> None:
    """Bring the file to the disk, and give it its name."""
    try:
        os.fsync(number)
        if not _is_named(number, part, place):
            raise OSError(errno.ESTALE, "somebody else removed it while it was written")
        os.rename(part, place.name, src_dir_fd=place.folder, dst_dir_fd=place.folder)
    except OSError as error:
        raise _failure(place.given, error) from error


def _sync_folder(place: _Place) -> None:
    with suppress(OSError):  # some file systems cannot, some folders may not be read; the file is safe
        number = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=place.folder)
        try:
            os.fsync(number)
        finally:
            os.close(number)


def _failure(name: str, error: OSError) -> ArchiveError:
    hint = "make the folder first" if isinstance(error, FileNotFoundError) else None
    return ArchiveError(f"cannot write {name}: {error.strerror or error}", hint=hint)

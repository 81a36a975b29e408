"""Resolve the path of an output, without being redirected by other users."""

from __future__ import annotations

import errno
import os
import re
import stat
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Final

from pyctrd.errors import ArchiveError

_MAGIC: Final = re.compile(r"(?:pipe|socket|anon_inode):.*")
_MAX_LINKS: Final = 40  # the limit of Linux


class Location:
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
        if not magic and not is_same(os.fstat(number), self.found):
            os.close(number)
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
        return number


def is_same(one: os.stat_result, other: os.stat_result | None) -> bool:
    """Whether both are the same file."""
    return other is not None and (one.st_dev, one.st_ino) == (other.st_dev, other.st_ino)


@contextmanager
def found_at(path: str) -> Iterator[Location]:
    """Resolve a path component by component; the kernel's protection (fs.protected_symlinks) may be off."""
    with ExitStack() as stack:
        try:
            location = _follow(path, stack)
        except OSError as error:
            raise failure(path, error) from error
        yield location


def _follow(path: str, stack: ExitStack) -> Location:
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
            return Location(path, directory, name, None)
        found = os.fstat(number)
        if stat.S_ISLNK(found.st_mode):
            _refuse_foreign(path, directory, found)
            target = os.readlink("", dir_fd=number)
            if _MAGIC.fullmatch(target):  # in /proc/PID/fd: the target has no path
                return Location(path, directory, name, found)
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
            return Location(path, directory, name, found)
    return Location(path, directory, ".", os.fstat(directory))


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


def failure(name: str, error: OSError) -> ArchiveError:
    """Return the error for an output that cannot be opened or finished."""
    hint = "create the directory first" if isinstance(error, FileNotFoundError) else None
    return ArchiveError(f"cannot write {name}: {error.strerror or error}", hint=hint)

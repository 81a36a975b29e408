"""Partial files and folders: written next to what gets their name in the end, and removed if nothing does."""

from __future__ import annotations

import errno
import fcntl
import os
import re
import secrets
import shutil
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Final, TypeAlias

from pyctrd.archive.location import Location, failure, is_same

# Creates a file or folder: its name, mode and directory; returns its descriptor.
Create: TypeAlias = Callable[[str, int, int], int]

_ACL: Final = "system.posix_acl_access"

# Partial files and folders of this process: directory and name.
_unfinished = set[tuple[int, str]]()


def remove_unfinished() -> None:
    """Remove partial files and folders, for a process that is about to exit."""
    for directory, part in tuple(_unfinished):
        _remove(directory, part)


@contextmanager
def replacing(location: Location, create: Create, mode: int) -> Iterator[int]:
    """Create a new file or folder, which gets the location's name when the context is left without an error.

    Until then, what has the name stays as it is; after an error, nothing new is left. What is new has `mode`,
    minus the umask, or the rights of what it replaces. Raises ArchiveError.
    """
    try:
        _remove_orphans(location)
        part, number = _new_part(location, create, mode)
    except OSError as error:
        raise failure(location.given, error) from error
    try:
        try:
            if location.found is not None:
                _keep_rights(number, location, location.found)
            yield number
            _finish(location, part, number)
        finally:
            os.close(number)
    except BaseException:
        _remove(location.directory, part)
        raise
    finally:
        _unfinished.discard((location.directory, part))
    _sync_directory(location)


def _new_part(location: Location, create: Create, mode: int) -> tuple[str, int]:
    """Create it, locked while it is open, which shows others that it is in use."""
    mode = mode if location.found is None else mode & 0o700
    while True:
        part = f".{location.name[:200]}.{secrets.token_hex(4)}.part"
        _unfinished.add((location.directory, part))
        number = create(part, mode, location.directory)
        with suppress(OSError):  # without support for locks, other processes do not remove it either
            fcntl.flock(number, fcntl.LOCK_EX)
        if _is_named(number, part, location):
            return part, number
        os.close(number)  # removed as an orphan before it was locked


def _is_named(number: int, name: str, location: Location) -> bool:
    try:
        return is_same(os.fstat(number), os.stat(name, dir_fd=location.directory, follow_symlinks=False))
    except FileNotFoundError:
        return False


def _keep_rights(number: int, location: Location, old: os.stat_result) -> None:
    """Copy owner, group, mode and ACL of what is replaced, as far as permitted.

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
        raise failure(location.given, error) from error


def _remove_orphans(location: Location) -> None:
    """Remove what saves have left that were killed (SIGKILL, a power cut): it is not locked."""
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
    with suppress(OSError):
        number = os.open(name, flags, dir_fd=directory)
        try:
            fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _remove(directory, name)
        finally:
            os.close(number)


def _remove(directory: int, name: str) -> None:
    """Remove a file, or a folder with its content."""
    try:
        os.unlink(name, dir_fd=directory)
    except IsADirectoryError:
        # A thread may still be creating files in it: then once more.
        for _attempt in range(3):
            with suppress(OSError):
                shutil.rmtree(name, dir_fd=directory)
                break
    except OSError:
        return


def _finish(location: Location, part: str, number: int) -> None:
    """Sync it to disk and rename it."""
    try:
        os.fsync(number)
        if not _is_named(number, part, location):
            raise OSError(errno.ESTALE, "another process removed it while it was being written")
        os.rename(part, location.name, src_dir_fd=location.directory, dst_dir_fd=location.directory)
    except OSError as error:
        raise failure(location.given, error) from error


def _sync_directory(location: Location) -> None:
    with suppress(OSError):  # not supported, or the directory is not readable; the file is safe
        number = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=location.directory)
        try:
            os.fsync(number)
        finally:
            os.close(number)

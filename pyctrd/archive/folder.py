"""Write a layout as a folder, which appears only when it is complete."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, Final, cast

from pyctrd.archive.copying import Reader, Report, copy, no_report
from pyctrd.archive.layout import Entry, Layout
from pyctrd.archive.location import Location, failure, found_at
from pyctrd.archive.output import WrittenBack
from pyctrd.archive.partial import replacing
from pyctrd.archive.sink import Sink, explained
from pyctrd.errors import ArchiveError, InvalidInput
from pyctrd.ports import Chunk

_FOLDER_MODE: Final = 0o777  # minus the umask
_FILE_MODE: Final = 0o666


class Folder:
    """An empty folder to write a layout into; `number` is its open descriptor."""

    def __init__(self, number: int) -> None:
        self.number = number

    def write(
        self,
        layout: Layout,
        read: Reader,
        *,
        progress: Report = no_report,
        check: Callable[[], None] = lambda: None,
    ) -> int:
        """Write the members as files, and return the sum of their sizes in bytes.

        The arguments and errors are those of tar.write.
        """
        files = _Files(self.number, layout.size, check)
        try:
            copy(layout, read, files, progress)
        finally:
            files.close()
        for name in (*files.folders, "."):
            _sync(self.number, name)
        return files.written


@contextmanager
def open_folder(path: str) -> Iterator[Folder]:
    """Open the output of a save to a folder, which must not exist yet, or be empty.

    The folder gets its name when the context is left without an error; otherwise nothing is left behind. An
    empty folder that is replaced keeps its mode, owner, group and ACL. Symbolic links are followed, but not
    those of other users in a world-writable directory. Raises InvalidInput if it is not empty, or no folder,
    ArchiveError.
    """
    with found_at(path) as location:
        _require_empty(location)
        with replacing(location, _create, _FOLDER_MODE) as number:
            yield Folder(number)


def _create(name: str, mode: int, directory: int) -> int:
    os.mkdir(name, mode, dir_fd=directory)
    return os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)


def _require_empty(location: Location) -> None:
    """Raise InvalidInput for what a new folder cannot replace."""
    path = location.given
    inside = f"choose a new folder, e.g. {path.rstrip('/')}/image"
    if location.kind == 0:
        return
    if location.kind != stat.S_IFDIR:
        raise InvalidInput(f"{path}: is not a folder", hint="choose a new folder as `output`")
    if location.name in (".", ".."):
        raise InvalidInput(f"{path}: this folder cannot be replaced", hint=inside)
    try:
        number = os.open(
            location.name,
            os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC,
            dir_fd=location.directory,
        )
        try:
            with os.scandir(number) as entries:
                empty = next(entries, None) is None
            mounted = _mount_of(number) != _mount_of(location.directory)
        finally:
            os.close(number)
    except OSError as error:
        raise failure(path, error) from error
    if not empty:
        raise InvalidInput(f"{path}: the folder is not empty", hint=inside)
    if mounted:
        raise InvalidInput(f"{path}: a mount point cannot be replaced", hint=inside)


def _mount_of(number: int) -> str:
    """Return the id of the mount that an open file is on; bind mounts have the same device number."""
    with suppress(OSError):
        lines = Path(f"/proc/self/fdinfo/{number}").read_text(encoding="ascii").splitlines()
        return next((line for line in lines if line.startswith("mnt_id:")), "")
    return ""


class _Files:
    """Writes members as files, and counts the bytes. Implements copying.Target."""

    def __init__(self, folder: int, needed: int, check: Callable[[], None]) -> None:
        self._folder = folder
        self._needed = needed
        self._check = check
        self._file: WrittenBack | None = None
        self._sink: Sink | None = None
        self.folders: list[str] = []
        self.written = 0

    def start(self, entry: Entry) -> None:
        try:
            self._make_folders(entry.name)
            if entry.is_directory:
                return
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
            number = os.open(entry.name, flags, _FILE_MODE, dir_fd=self._folder)
        except OSError as error:
            raise self._explained(error) from error
        self._file = WrittenBack(number, "wb")
        self._sink = Sink(cast("BinaryIO", self._file), self._needed, self._check)

    def _make_folders(self, name: str) -> None:
        """Create the folders of a member; an archive does not list them all (see layout.build)."""
        for end in (at for at, char in enumerate(name) if char == "/"):
            if name[:end] not in self.folders:
                os.mkdir(name[:end], _FOLDER_MODE, dir_fd=self._folder)
                self.folders.append(name[:end])

    def write(self, data: Chunk) -> None:
        assert self._sink is not None
        self._sink.write(data)
        self.written += len(data)

    def finish(self, _entry: Entry) -> None:
        if self._file is not None:
            try:
                os.fsync(self._file.fileno())
            except OSError as error:
                raise self._explained(error) from error
        self.close()

    def close(self) -> None:
        """Close the file that is open after an error."""
        if self._file is not None:
            self._file.close()
        self._file = self._sink = None

    def _explained(self, error: OSError) -> ArchiveError:
        return explained(error, needed=self._needed, written=self.written)


def _sync(folder: int, name: str) -> None:
    number = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=folder)
    try:
        os.fsync(number)
    except OSError as error:
        if error.errno != errno.EINVAL:  # not supported by the file system
            raise explained(error, needed=None, written=0) from error
    finally:
        os.close(number)

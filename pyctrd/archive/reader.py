"""Read an image archive: a tar (a file or a pipe, compressed or not), or the folder of an OCI layout.

Nothing is extracted: members are yielded with clean names, and their bytes in chunks. From an uncompressed
file or a folder they can be read in any order and several at once; from anything else only once, one after
the other. What no image archive has is refused: names or links that lead out of the archive, devices, sparse
files, one name with two contents, and an excessive number of members.
"""

from __future__ import annotations

import io
import os
import posixpath
import re
import select
import stat
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import IO, Final, Protocol, TypeAlias

import msgspec

from pyctrd.archive.decompress import MAGIC_BYTES, Decompressed, compression_of
from pyctrd.archive.presumed import PRESUMED
from pyctrd.archive.tar_reader import MAX_MEMBERS, Header, HeaderReader, truncated
from pyctrd.errors import ArchiveError, InvalidInput, InvalidReference
from pyctrd.oci.model import Digest

Source: TypeAlias = str | os.PathLike[str] | IO[bytes]

CHUNK_BYTES: Final = 1 << 20
_POLL_SECONDS: Final = 0.1
# Ctrl-C ends all programs of a pipeline: the end of the pipe may be seen before the signal is handled.
_SIGNAL_SECONDS: Final = 0.2
# What may follow the end-of-archive marker is read, so that the program at the other end of a pipe can end.
_MAX_TRAILING_BYTES: Final = 1 << 20
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f]")
_BLOB: Final = re.compile(r"blobs/([^/]+)/([^/]+)")
_LAYOUT_FILES: Final = (PRESUMED, "oci-layout", "index.json", "manifest.json")


class Member(msgspec.Struct, frozen=True, kw_only=True):
    """A file in an archive, or a link to one.

    `name` has neither `./` nor `..` parts, and `target`, empty for a file, is the clean name that a link
    leads to. `size` is in bytes; `offset` is where the data begins, in the archive or its decompressed form.
    """

    name: str
    size: int = 0
    offset: int = 0
    target: str = ""

    @property
    def digest(self) -> Digest | None:
        """The digest that the name of a blob states; None for other names."""
        return digest_in(self.name)


def digest_in(name: str) -> Digest | None:
    """Return the digest in the name of a blob in an OCI layout, None for any other name."""
    found = _BLOB.fullmatch(name)
    if not found:
        return None
    try:
        return Digest(f"{found.group(1)}:{found.group(2)}")
    except InvalidReference:
        return None


class Archive(Protocol):
    """An open image archive."""

    @property
    def name(self) -> str:
        """What the archive is called in messages."""

    @property
    def is_folder(self) -> bool:
        """Whether this is a folder, not a tar."""

    @property
    def compression(self) -> str:
        """The compression of the tar: gzip, zstd, xz or bzip2; "" for none."""

    @property
    def is_seekable(self) -> bool:
        """Whether members can be read in any order, several at once, and more than once."""

    @property
    def is_terminated(self) -> bool:
        """Whether the end of the archive was found. Without, it may be truncated between two members."""

    def members(self) -> Iterator[Member]:
        """Yield the members in their order; only once if the archive is not seekable. Raises ArchiveError."""

    def chunks(self, member: Member, start: int = 0, end: int | None = None) -> Iterator[bytes]:
        """Yield the bytes of a file from `start` to `end` or its own end, in chunks of at most 1 MiB.

        If the archive is not seekable, this has to be the latest member, which is read only once. Raises
        ArchiveError, also if the file is shorter than the archive says.
        """


def read_member(archive: Archive, member: Member, *, limit: int) -> bytes:
    """Return the bytes of a file. Raises ArchiveError if there are more than `limit`."""
    if member.size > limit:
        raise ArchiveError(
            f"{member.name} in the archive has {member.size} bytes: more than {limit} are not read"
        )
    buffer = io.BytesIO()
    buffer.writelines(archive.chunks(member))
    return buffer.getvalue()


def resolve_links(name: str, links: Mapping[str, str]) -> str:
    """Follow links from a name to one that is none. Raises ArchiveError for a cycle."""
    seen = {name}
    found = name
    while found in links:
        found = links[found]
        if found in seen:
            raise ArchiveError(f"the link {name!r} in the archive leads back to itself")
        seen.add(found)
    return found


def _end(member: Member, end: int | None) -> int:
    return member.size if end is None else min(end, member.size)


@contextmanager
def open_archive(source: Source, *, check: Callable[[], None] = lambda: None) -> Iterator[Archive]:
    """Open an archive: a path (`-` means stdin) or a binary stream, which is read from its position.

    `check` is called regularly while a pipe is empty, and may raise. Raises ArchiveError if the source cannot
    be opened or is no archive, InvalidInput for a terminal.
    """
    if isinstance(source, str | os.PathLike):
        path = os.fspath(source)
        if path != "-" and Path(path).is_dir():
            yield _Folder(Path(path))
            return
        opening: AbstractContextManager[IO[bytes]] = _opened(path)
        name = "stdin" if path == "-" else Path(path).name
    else:
        if not hasattr(source, "read") or hasattr(source, "encoding"):
            raise InvalidInput(f"source={source!r}: must be a path or a binary stream")
        opening = nullcontext(source)
        name = str(getattr(source, "name", "the stream"))
    with opening as stream:
        yield _archive(stream, name, check)


def _opened(path: str) -> IO[bytes]:
    try:
        number = os.dup(0) if path == "-" else os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise _unreadable(path, error) from error
    if os.isatty(number):
        os.close(number)
        raise InvalidInput(
            "cowardly refusing to read an archive from a terminal",
            hint="pass a file, or pipe an archive into stdin",
        )
    return os.fdopen(number, "rb", buffering=0)


def _archive(stream: IO[bytes], name: str, check: Callable[[], None]) -> Archive:
    seekable = _SeekableInput.of(stream, name)
    if seekable is not None:
        if not compression_of(seekable.read_at(0, MAGIC_BYTES)):
            return _TarFile(seekable, name)
        seekable.rewind()
    read = _reading(stream, name, check)
    head = b""
    while len(head) < MAGIC_BYTES and (more := read(MAGIC_BYTES - len(head))):
        head += more
    compression = compression_of(head)

    def replay(size: int) -> bytes:
        nonlocal head
        if head:
            given, head = head[:size], head[size:]
            return given
        return read(size)

    def ended() -> None:
        """Wait a moment for the signal that may have ended the other program, too."""
        time.sleep(_SIGNAL_SECONDS)
        check()

    if compression:
        return _TarStream(Decompressed(replay, compression, ended).read, name, compression, ended)
    return _TarStream(replay, name, "", ended)


def _reading(stream: IO[bytes], name: str, check: Callable[[], None]) -> Callable[[int], bytes]:
    """Return a function that reads some bytes of a stream, and calls `check` while there are none."""
    try:
        number = stream.fileno() if isinstance(stream, io.RawIOBase) else -1
    except (OSError, ValueError):
        number = -1

    def read(size: int) -> bytes:
        try:
            check()
            while number >= 0 and not select.select([number], [], [], _POLL_SECONDS)[0]:
                check()
            data: object = stream.read(size)
        except OSError as error:
            raise _unreadable(name, error) from error
        if not isinstance(data, bytes) or len(data) > size:
            raise InvalidInput(f"read({size}) of the source did not return up to {size} bytes")
        return data

    return read


def _unreadable(name: str, error: OSError) -> ArchiveError:
    return ArchiveError(f"cannot read {name}: {error.strerror or error}")


# --- members ----------------------------------------------------------------------------------------------


def _checked(headers: Iterator[Header]) -> Iterator[Member]:
    """Yield files and links with clean names, without blobs that are there twice."""
    sizes: dict[str, int] = {}
    for header in headers:
        name = _clean(header.name, "name")
        if header.kind == "directory":
            continue
        if not name:
            raise ArchiveError(f"the name {header.name[:200]!r} in the archive is that of a directory")
        target = ""
        if header.kind != "file":
            folder = posixpath.dirname(name) if header.kind == "symlink" else ""
            target = _clean(header.target, "target of the link", folder)
            if not target:
                raise ArchiveError(f"the link {name!r} in the archive leads to a directory")
        if name in sizes:
            if target or sizes[name] != header.size or digest_in(name) is None:
                raise ArchiveError(f"{name!r} is in the archive twice, with different content")
            continue  # both have the content that the name states, or the one that is read fails
        sizes[name] = -1 if target else header.size
        yield Member(name=name, size=header.size, offset=header.offset, target=target)


def _clean(name: str, what: str, folder: str = "") -> str:
    """Return a name without `.` and empty parts, "" for the root. Raises ArchiveError if it leads outside."""
    if name.startswith("/"):
        raise ArchiveError(f"the {what} {name[:200]!r} in the archive is absolute")
    if _CONTROL.search(name):
        raise ArchiveError(f"the {what} {name[:200]!r} in the archive has control characters")
    parts = folder.split("/") if folder else []
    for part in name.split("/"):
        if part == "..":
            if what == "name" or not parts:  # only links have a reason to go up
                raise ArchiveError(f"the {what} {name[:200]!r} leads out of the archive")
            parts.pop()
        elif part not in ("", "."):
            parts.append(part)
    return "/".join(parts)


# --- an uncompressed file ---------------------------------------------------------------------------------


class _SeekableInput:
    """A file or another seekable stream, for several threads. Implements TarInput."""

    def __init__(self, stream: IO[bytes], name: str, number: int, base: int, size: int) -> None:
        self._stream = stream
        self._name = name
        self._number = number
        self._base = base
        self._size = size
        self._lock = threading.Lock()
        self.position = 0

    @classmethod
    def of(cls, stream: IO[bytes], name: str) -> _SeekableInput | None:
        """Return the input for a stream, None if it is not seekable."""
        try:
            number = stream.fileno()
            if not stat.S_ISREG(os.fstat(number).st_mode):
                return None
        except (OSError, ValueError, AttributeError):
            number = -1
        try:
            if not stream.seekable():
                return None
            base = stream.tell()
            size = stream.seek(0, os.SEEK_END) - base
            stream.seek(base)
        except (OSError, ValueError, AttributeError):
            return None
        return cls(stream, name, number, base, max(size, 0))

    def rewind(self) -> None:
        """Return to where the archive begins, to read the stream itself."""
        self._stream.seek(self._base)

    def read(self, size: int) -> bytes:
        data = self.read_at(self.position, size)
        self.position += len(data)
        return data

    def skip(self, size: int) -> int:
        count = max(0, min(size, self._size - self.position))
        self.position += count
        return count

    def truncated(self) -> ArchiveError:
        return truncated(self.position)

    def read_at(self, offset: int, size: int) -> bytes:
        """Return the bytes at an offset; fewer than `size` only at the end."""
        found = io.BytesIO()
        try:
            while (missing := size - found.tell()) and (
                data := self._some(self._base + offset + found.tell(), missing)
            ):
                if not found.tell() and len(data) == size:
                    return data
                found.write(data)
        except OSError as error:
            raise _unreadable(self._name, error) from error
        return found.getvalue()

    def _some(self, offset: int, size: int) -> bytes:
        if self._number >= 0:
            return os.pread(self._number, size, offset)
        with self._lock:
            self._stream.seek(offset)
            return self._stream.read(size)


class _TarFile:
    """An uncompressed tar in a file. Implements Archive."""

    is_folder = False
    compression = ""
    is_seekable = True

    def __init__(self, source: _SeekableInput, name: str) -> None:
        self._source = source
        self.name = name
        self.is_terminated = False

    def members(self) -> Iterator[Member]:
        self._source.position = 0
        headers = HeaderReader(self._source)
        yield from _checked(iter(headers))
        self.is_terminated = headers.is_terminated

    def chunks(self, member: Member, start: int = 0, end: int | None = None) -> Iterator[bytes]:
        end = _end(member, end)
        for offset in range(start, end, CHUNK_BYTES):
            size = min(CHUNK_BYTES, end - offset)
            data = self._source.read_at(member.offset + offset, size)
            if len(data) < size:
                raise truncated(member.offset + offset + len(data))
            yield data


# --- a stream ---------------------------------------------------------------------------------------------


class _StreamInput:
    """A stream that is read once. Implements TarInput."""

    def __init__(self, read: Callable[[int], bytes], ended: Callable[[], None]) -> None:
        self._read = read
        self._ended = ended
        self.position = 0

    def truncated(self) -> ArchiveError:
        self._ended()
        return truncated(self.position)

    def some(self, size: int) -> bytes:
        """Return some of the next bytes, none at the end."""
        data = self._read(size)
        self.position += len(data)
        return data

    def read(self, size: int) -> bytes:
        found = io.BytesIO()
        while (missing := size - found.tell()) and (data := self.some(min(missing, CHUNK_BYTES))):
            if not found.tell() and len(data) == size:
                return data
            found.write(data)
        return found.getvalue()

    def skip(self, size: int) -> int:
        left = size
        while left and (data := self.some(min(left, CHUNK_BYTES))):
            left -= len(data)
        return size - left


class _TarStream:
    """A tar in a pipe, or a compressed one. Implements Archive."""

    is_folder = False
    is_seekable = False

    def __init__(
        self, read: Callable[[int], bytes], name: str, compression: str, ended: Callable[[], None]
    ) -> None:
        self._source = _StreamInput(read, ended)
        self.name = name
        self.compression = compression
        self.is_terminated = False

    def members(self) -> Iterator[Member]:
        headers = HeaderReader(self._source)
        yield from _checked(iter(headers))
        self.is_terminated = headers.is_terminated
        self._source.skip(_MAX_TRAILING_BYTES)

    def chunks(self, member: Member, start: int = 0, end: int | None = None) -> Iterator[bytes]:
        if self._source.position != member.offset:
            raise ArchiveError(f"{member.name} cannot be read a second time from {self.name}")
        self._source.skip(start)
        left = _end(member, end) - start
        while left:
            data = self._source.read(min(left, CHUNK_BYTES))
            if not data:
                raise self._source.truncated()
            left -= len(data)
            yield data


# --- a folder ---------------------------------------------------------------------------------------------


class _Folder:
    """The folder of an OCI layout. Implements Archive.

    Links are followed: the caller chose the folder, some build tools make layouts of links, and every blob is
    checked against its name.
    """

    is_folder = True
    compression = ""
    is_seekable = True
    is_terminated = True

    def __init__(self, path: Path) -> None:
        self._path = path
        self.name = path.name or str(path)

    def members(self) -> Iterator[Member]:
        for count, name in enumerate(self._names()):
            if count >= MAX_MEMBERS:
                raise ArchiveError(f"{self.name} has more than {MAX_MEMBERS} blobs")
            with self._open(name) as file:
                yield Member(name=name, size=os.fstat(file.fileno()).st_size)

    def _names(self) -> Iterator[str]:
        yield from (name for name in _LAYOUT_FILES if (self._path / name).exists())
        for algorithm in self._entries("blobs"):
            if _BLOB.fullmatch(f"blobs/{algorithm}/0"):
                for encoded in self._entries(f"blobs/{algorithm}"):
                    if digest_in(f"blobs/{algorithm}/{encoded}") is not None:
                        yield f"blobs/{algorithm}/{encoded}"

    def _entries(self, name: str) -> list[str]:
        try:
            return sorted(entry.name for entry in (self._path / name).iterdir())
        except (FileNotFoundError, NotADirectoryError):
            return []
        except OSError as error:
            raise _unreadable(f"{self.name}/{name}", error) from error

    def _open(self, name: str) -> IO[bytes]:
        """Open a regular file; O_NONBLOCK, or a named pipe would wait for a writer."""
        shown = f"{self.name}/{name}"
        try:
            number = os.open(self._path / name, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError as error:
            raise _unreadable(shown, error) from error
        if not stat.S_ISREG(os.fstat(number).st_mode):
            os.close(number)
            raise ArchiveError(f"{shown} is not a file")
        return os.fdopen(number, "rb", buffering=0)

    def chunks(self, member: Member, start: int = 0, end: int | None = None) -> Iterator[bytes]:
        with self._open(member.name) as file:
            file.seek(start)
            left = _end(member, end) - start
            while left:
                data = file.read(min(left, CHUNK_BYTES))
                if not data:
                    raise ArchiveError(f"{member.name} in {self.name} became shorter while it was read")
                left -= len(data)
                yield data

"""Read the headers of a tar: ustar, PAX, GNU and the oldest format. Bytes come from a `TarInput`.

The standard library's tarfile is not used: it treats a damaged header as the end of the archive, reads a PAX
header of any size into memory, and some of its releases need quadratic time, or never end, for headers made
for that purpose (CVE-2024-6232, CVE-2025-8194).

Sources: POSIX pax; GNU tar manual, "Basic Tar Format"; Go archive/tar reader.go, whose readings containerd
has.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from typing import Final, Literal, NamedTuple, Protocol

from pyctrd.archive.tar_header import BLOCK
from pyctrd.errors import ArchiveError

# 100 layers of 1000 images are as many; half a million empty members would be a bomb of 256 MiB.
MAX_MEMBERS: Final = 100_000
# Above the largest disks; a header can claim 8 EiB.
MAX_MEMBER_BYTES: Final = 1 << 44
_MAX_EXTENDED_BYTES: Final = 1 << 20
_MAX_EXTENDED: Final = 4
_MAX_NAME_BYTES: Final = 4096
_ZEROS: Final = bytes(BLOCK)
_CHECKSUM: Final = slice(148, 156)
_DAMAGED: Final = "it was damaged on the way, or is not an image archive: copy or save it again"

Kind = Literal["file", "directory", "link", "symlink"]
_KINDS: Final[Mapping[bytes, Kind]] = {
    b"0": "file",
    b"\0": "file",
    b"7": "file",
    b"1": "link",
    b"2": "symlink",
    b"5": "directory",
}
_REFUSED: Final = {
    b"3": "a character device",
    b"4": "a block device",
    b"6": "a named pipe",
    b"S": "a sparse file",
}


class TarInput(Protocol):
    """The bytes of an archive, from its beginning."""

    @property
    def position(self) -> int:
        """The offset of the next byte."""

    def read(self, size: int) -> bytes:
        """Return `size` bytes, fewer only at the end."""

    def skip(self, size: int) -> int:
        """Pass over bytes; return how many there were, fewer than `size` only at the end."""

    def truncated(self) -> ArchiveError:
        """Return the error for an archive that ends at the current position, in the middle of a member."""


class Header(NamedTuple):
    """A member: its name as written, its size in bytes, where its data begins; `target` of a link."""

    name: str
    kind: Kind
    size: int
    offset: int
    target: str


class HeaderReader:
    """Yields the headers of an archive; between two, the caller may read the data of the first.

    `is_terminated` says whether the end-of-archive marker was found, which some programs do not write.
    """

    def __init__(self, source: TarInput) -> None:
        self._source = source
        self.is_terminated = False

    def __iter__(self) -> Iterator[Header]:
        """Yield the headers. Raises ArchiveError."""
        for number, found in enumerate(self._members()):
            if number >= MAX_MEMBERS:
                raise ArchiveError(f"the archive has more than {MAX_MEMBERS} members")
            yield found
            end = found.offset + found.size + -found.size % BLOCK
            missing = end - self._source.position
            if self._source.skip(missing) < missing and self._source.position < found.offset + found.size:
                raise self._source.truncated()

    def _members(self) -> Iterator[Header]:
        extended: dict[str, str] = {}
        count = 0
        while True:
            start = self._source.position
            block = self._block()
            if block is None:
                if extended:
                    raise self._source.truncated()
                return
            kind = block[156:157]
            if kind in (b"x", b"g", b"L", b"K"):
                count += 1
                if count > _MAX_EXTENDED:
                    raise _damaged(start, "too many extended headers for one member")
                self._extend(extended, kind, block, start)
                continue
            yield _member(block, extended, start, self._source.position)
            extended, count = {}, 0

    def _block(self) -> bytes | None:
        """Return a header block whose checksum is right; None at the end of the archive."""
        start = self._source.position
        block = self._source.read(BLOCK)
        if not block:
            if start == 0:
                raise ArchiveError("the archive is empty", hint=_DAMAGED)
            return None
        if len(block) < BLOCK:
            raise _damaged(0, "too short for a header") if start == 0 else self._source.truncated()
        if block == _ZEROS:
            following = self._source.read(BLOCK)
            if following.strip(b"\0"):
                raise _damaged(start, "data after half of an end-of-archive marker")
            self.is_terminated = True
            return None
        if not _is_checked(block, start):
            raise _damaged(start, "wrong checksum")
        return block

    def _extend(self, extended: dict[str, str], kind: bytes, block: bytes, start: int) -> None:
        """Add what an extended header says about the member that follows it."""
        size = _number(block[124:136], start, "size")
        if size > _MAX_EXTENDED_BYTES:
            raise _damaged(start, f"an extended header of {size} bytes")
        data = self._source.read(size + -size % BLOCK)
        if len(data) < size:
            raise self._source.truncated()
        if kind == b"x":
            extended.update(_records(data[:size], start))
        elif kind != b"g":  # what holds for all members is comments in practice, and ignored by Go
            key = "path" if kind == b"L" else "linkpath"
            extended.setdefault(key, _text(data[:size].partition(b"\0")[0], start))


def truncated(position: int) -> ArchiveError:
    """Return the error for an archive that ends too early."""
    return ArchiveError(
        f"unexpected EOF: the archive ends after {position} bytes, in the middle of a member",
        hint="it was truncated on the way: copy or save it again",
    )


def _damaged(position: int, reason: str) -> ArchiveError:
    if position == 0:
        return ArchiveError(
            f"archive/tar: invalid tar header: {reason}: it is neither a tar nor a compressed tar",
            hint="pass an image archive, as `docker save`, `ctr images export` or `pyctrd save` write it",
        )
    return ArchiveError(f"archive/tar: invalid tar header at byte {position}: {reason}", hint=_DAMAGED)


def _is_checked(block: bytes, start: int) -> bool:
    """Whether the checksum is right; some old programs add up signed bytes."""
    stated = _number(block[_CHECKSUM], start, "checksum")
    rest = block[:148] + b" " * 8 + block[156:]
    return stated == sum(rest) or stated == sum(struct.unpack(f"{BLOCK}b", rest))


def _number(field: bytes, start: int, what: str) -> int:
    """Parse a number: octal digits, or a big-endian number after a byte 0x80 (GNU and star)."""
    if field[0] & 0x80:
        if field[0] != 0x80:
            raise _damaged(start, f"{what} out of range")
        return int.from_bytes(field[1:], "big")
    text = field.strip(b" \0")
    if not text:
        return 0
    if text.strip(b"01234567"):
        raise _damaged(start, f"the {what} is not a number")
    return int(text, 8)


def _records(data: bytes, start: int) -> Iterator[tuple[str, str]]:
    """Yield the records of a PAX header, `LENGTH KEY=VALUE\\n` each."""
    at = 0
    while at < len(data):
        space = data.find(b" ", at, at + 20)
        digits = data[at:space] if space > 0 else b""
        if not digits.isdigit():
            raise _damaged(start, "an invalid PAX record")
        end = at + int(digits)
        record = data[space + 1 : end]
        key, equals, value = record[:-1].partition(b"=")
        if end > len(data) or not equals or not key or record[-1:] != b"\n":
            raise _damaged(start, "an invalid PAX record")
        if key in (b"path", b"linkpath", b"size"):
            yield key.decode(), _text(value, start)
        elif key.startswith(b"GNU.sparse."):
            yield "sparse", "yes"
        at = end


def _member(block: bytes, extended: Mapping[str, str], start: int, offset: int) -> Header:
    name = extended.get("path") or _name(block, start)
    letter = block[156:157]
    refused = "a sparse file" if "sparse" in extended else _REFUSED.get(letter, "")
    if refused:
        raise ArchiveError(f"{_shown(name)} in the archive is {refused}: no image archive has any")
    kind = _KINDS.get(letter)
    if kind is None:
        raise ArchiveError(f"{_shown(name)} in the archive is of the unknown type {letter!r}")
    if kind == "file" and name.endswith("/"):
        kind = "directory"  # the oldest format has no other sign
    size = _size(block, extended, start) if kind == "file" else 0
    target = extended.get("linkpath") or _text(block[157:257].partition(b"\0")[0], start)
    return Header(name=name, kind=kind, size=size, offset=offset, target=target)


def _size(block: bytes, extended: Mapping[str, str], start: int) -> int:
    stated = extended.get("size", "")
    if stated and not (stated.isascii() and stated.isdigit() and len(stated) < 20):
        raise _damaged(start, "the size is not a number")
    size = int(stated) if stated else _number(block[124:136], start, "size")
    if size > MAX_MEMBER_BYTES:
        raise _damaged(start, f"a member of {size} bytes")
    return size


def _name(block: bytes, start: int) -> str:
    name = block[:100].partition(b"\0")[0]
    prefix = block[345:500].partition(b"\0")[0] if block[257:263] == b"ustar\0" else b""
    return _text(prefix + b"/" + name if prefix else name, start)


def _text(data: bytes, start: int) -> str:
    if len(data) > _MAX_NAME_BYTES or b"\0" in data:
        raise _damaged(start, "an invalid name")
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise _damaged(start, f"the name {data[:100]!r} is not UTF-8") from None


def _shown(name: str) -> str:
    return repr(name[:200])

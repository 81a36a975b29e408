"""The reader of archives with made-up headers, and the decompressor with damaged data.

Whatever the bytes are: the result is the same for a file and a pipe, there is no other error than a
PyctrdError, and no name leads out of the archive.
"""

from __future__ import annotations

import io
import re
import tarfile
from contextlib import suppress
from typing import IO, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyctrd.archive.decompress import Decompressed
from pyctrd.archive.reader import Member, open_archive
from pyctrd.errors import ArchiveError, PyctrdError
from tests.support.tars import COMPRESSORS, Pipe, member, tar

COMPRESSED = sorted(name for name in COMPRESSORS if name)
PAX, LONG_NAME, LONG_LINK = tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK

# --- headers ----------------------------------------------------------------------------------------------

PARTS = st.sampled_from(["a", "blobs", "sha256", "f" * 64, "..", ".", "", "é", "a\tb", "x" * 90])
NAMES = st.lists(PARTS, min_size=1, max_size=4).map("/".join)
KINDS = st.sampled_from([b"0", b"\0", b"1", b"2", b"3", b"5", b"6", b"7", b"S", b"g", b"Z"])
DATA = st.binary(max_size=1500)


@st.composite
def pax_headers(draw: st.DrawFn) -> bytes:
    """An extended header whose records are right, or nearly."""
    data = b""
    for _ in range(draw(st.integers(1, 3))):
        key = draw(st.sampled_from(["path", "linkpath", "size", "mtime", "GNU.sparse.major", "SCHILY.x", ""]))
        value = draw(st.one_of(NAMES, st.integers(-9, 1 << 70).map(str)))
        rest = f" {key}={value}\n".encode()
        data += str(len(rest) + 2 + draw(st.sampled_from([0, 0, 0, -1, 1, 100]))).encode() + rest
    return member("pax", data, kind=draw(st.sampled_from([PAX, PAX, tarfile.XGLTYPE])))


@st.composite
def changed_headers(draw: st.DrawFn) -> bytes:
    """A header with other bytes somewhere, and the checksum of them."""
    header = bytearray(member(draw(NAMES), draw(DATA)))
    for _ in range(draw(st.integers(1, 3))):
        header[draw(st.integers(0, 511))] = draw(st.integers(0, 255))
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header[:512])
    return bytes(header)


MEMBERS = st.one_of(
    st.builds(member, NAMES, DATA),
    st.builds(lambda name, kind, target: member(name, kind=kind, target=target), NAMES, KINDS, NAMES),
    st.builds(lambda name, size: member(name, b"data", size=size), NAMES, st.integers(0, 1 << 40)),
    st.builds(
        lambda name, kind: member("long", name.encode() + b"\0", kind=kind),
        NAMES,
        st.sampled_from([LONG_NAME, LONG_LINK]),
    ),
    pax_headers(),
    changed_headers(),
)
ENDS = st.sampled_from([bytes(1024), bytes(1024), bytes(512), b"", bytes(10240), b"garbage" * 100])


def attempt(source: IO[bytes]) -> list[tuple[Member, bytes]] | str:
    """Read everything; return the members and their data, or the error."""
    try:
        with open_archive(source) as archive:
            return [
                (found, b"" if found.target else b"".join(archive.chunks(found)))
                for found in archive.members()
            ]
    except PyctrdError as error:
        return str(error)


@given(st.lists(MEMBERS, max_size=5), ENDS, st.integers(1, 3000))
def test_made_up_headers(members: list[bytes], end: bytes, step: int) -> None:
    data = tar(*members, end=end)
    found = attempt(io.BytesIO(data))
    assert attempt(cast("IO[bytes]", Pipe(data, step))) == found
    if isinstance(found, str):
        return
    names = [one.name for one, _ in found]
    assert len(set(names)) == len(names)
    for path in (*names, *(one.target for one, _ in found if one.target)):
        assert path
        assert not set(path.split("/")) & {"", ".", ".."}
        assert not re.search(r"[\x00-\x1f\x7f]", path)
    for one, content in found:
        assert len(content) == one.size
        assert content == data[one.offset : one.offset + one.size] or one.target


# A slash at the end makes a directory, of whatever type the header says it is.
FILE_NAMES = NAMES.filter(lambda name: not name.endswith("/"))


@given(st.lists(st.tuples(FILE_NAMES, DATA), max_size=5), st.sampled_from(COMPRESSED), st.integers(1, 700))
def test_what_is_read_is_what_the_standard_library_reads(
    files: list[tuple[str, bytes]], compression: str, step: int
) -> None:
    data = tar(*(member(name, content) for name, content in files))
    found = attempt(cast("IO[bytes]", Pipe(COMPRESSORS[compression](data), step)))
    if isinstance(found, str):
        return
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        read = {
            one.name: cast("IO[bytes]", archive.extractfile(one)).read() for one in archive if one.isfile()
        }
    cleaned = {
        "/".join(part for part in name.split("/") if part not in ("", ".")): one for name, one in read.items()
    }
    assert {one.name: content for one, content in found} == cleaned


# --- compression ------------------------------------------------------------------------------------------


def decompressed(data: bytes, compression: str, *, step: int = 1000, size: int = 1000) -> bytes:
    source = Decompressed(lambda count: stream.read(min(count, step)), compression)
    stream = io.BytesIO(data)
    parts = []
    while part := source.read(size):
        assert len(part) <= size
        parts.append(part)
    return b"".join(parts)


CONTENT = st.one_of(st.binary(max_size=3000), st.binary(max_size=30).map(lambda data: data * 1000))
FORMATS = pytest.mark.parametrize("compression", COMPRESSED)


@FORMATS
@given(st.lists(CONTENT, min_size=1, max_size=3), st.integers(1, 4000), st.integers(1, 4000))
def test_frames_are_joined(compression: str, parts: list[bytes], step: int, size: int) -> None:
    data = b"".join(map(COMPRESSORS[compression], parts))
    for padding in (b"", bytes(700)):
        assert decompressed(data + padding, compression, step=step, size=size) == b"".join(parts)


@FORMATS
@given(CONTENT, st.floats(0, 1, exclude_max=True))
def test_truncated_data_is_an_error(compression: str, content: bytes, share: float) -> None:
    data = COMPRESSORS[compression](content)
    with pytest.raises(ArchiveError, match="unexpected EOF"):
        decompressed(data[: int(share * len(data))], compression)


@FORMATS
@given(CONTENT, st.floats(0, 1, exclude_max=True), st.integers(0, 255))
def test_a_changed_byte_is_an_error_or_makes_no_difference(
    compression: str, content: bytes, share: float, value: int
) -> None:
    data = bytearray(COMPRESSORS[compression](content))
    data[int(share * len(data))] = value
    try:
        found = decompressed(bytes(data), compression)
    except ArchiveError:
        return
    assert found == content


@FORMATS
@given(st.binary(max_size=2000), CONTENT)
def test_any_data_after_the_beginning_ends_in_an_archive_error_or_is_read(
    compression: str, rest: bytes, content: bytes
) -> None:
    head = COMPRESSORS[compression](content)
    for data in (head[:12] + rest, head + rest, rest):
        with suppress(ArchiveError):
            decompressed(data, compression)

"""The reader of archives: formats, sources, and what it refuses."""

from __future__ import annotations

import hashlib
import io
import os
import tarfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyctrd.archive import decompress, tar_reader
from pyctrd.archive.reader import Archive, open_archive, read_member, resolve_links
from pyctrd.errors import ArchiveError, Cancelled, InvalidInput, PyctrdError
from tests.support.tars import COMPRESSORS, Pipe, member, tar, tar_of

BIG = bytes(range(256)) * 5000
HEX = hashlib.sha256(BIG).hexdigest()
FILES = {"oci-layout": b"{}", f"blobs/sha256/{HEX}": BIG, "empty": b"", "index.json": b"[]"}


def pipe(data: bytes, step: int = 1000) -> IO[bytes]:
    return cast("IO[bytes]", Pipe(data, step))


def source(data: bytes, *, pipe: bool) -> IO[bytes]:
    return cast("IO[bytes]", Pipe(data)) if pipe else io.BytesIO(data)


def contents(archive: Archive) -> dict[str, bytes]:
    return {
        found.name: b"->" + found.target.encode() if found.target else b"".join(archive.chunks(found))
        for found in archive.members()
    }


def read(data: bytes, *, pipe: bool) -> dict[str, bytes]:
    with open_archive(source(data, pipe=pipe)) as archive:
        return contents(archive)


@pytest.mark.parametrize("pipe", [False, True])
@pytest.mark.parametrize("compression", COMPRESSORS)
@pytest.mark.parametrize("layout", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_every_format_and_compression_is_read(layout: int, compression: str, pipe: bool) -> None:
    data = COMPRESSORS[compression](tar_of(FILES, layout=layout))
    with open_archive(source(data, pipe=pipe)) as archive:
        assert archive.is_seekable == (not pipe and not compression)
        assert contents(archive) == FILES
        assert archive.is_terminated


@pytest.mark.parametrize("compression", [name for name in COMPRESSORS if name])
def test_compressed_parts_that_follow_each_other_are_one_archive(compression: str) -> None:
    data = tar_of(FILES)
    parts = [COMPRESSORS[compression](part) for part in (data[:3000], data[3000:], b"")]
    assert read(b"".join(parts) + bytes(512), pipe=True) == FILES


def test_long_names_are_read() -> None:
    name = f"blobs/sha512/{hashlib.sha512(b'x').hexdigest()}"
    deep = "/".join(["folder" * 10] * 8)
    for layout in (tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        assert read(tar_of({name: b"x", deep: b"y"}, layout=layout), pipe=True) == {name: b"x", deep: b"y"}


def test_a_member_of_nine_gigabytes_is_not_read_to_find_the_next(tmp_path: Path) -> None:
    path = tmp_path / "large.tar"
    with path.open("wb") as file:
        file.write(member("large", size=9 << 30))
        file.seek(9 << 30, os.SEEK_CUR)
        file.write(member("small", b"data") + bytes(1024))
    with open_archive(path) as archive:
        found = {item.name: item for item in archive.members()}
        assert found["large"].size == 9 << 30
        assert read_member(archive, found["small"], limit=10) == b"data"


def test_a_file_is_read_from_its_position(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    path.write_bytes(b"something else" + tar_of(FILES))
    with path.open("rb") as stream:
        stream.seek(len(b"something else"))
        with open_archive(stream) as archive:
            assert contents(archive) == FILES


def test_members_of_a_file_are_read_by_several_threads() -> None:
    data = tar_of({"a": BIG, "b": BIG[::-1]})
    with open_archive(io.BytesIO(data)) as archive:
        members = list(archive.members())
        found: list[bytes] = []
        threads = [
            threading.Thread(target=lambda one=one: found.append(b"".join(archive.chunks(one))))
            for one in members * 4
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(found) == sorted([BIG, BIG[::-1]] * 4)
        assert b"".join(archive.chunks(members[0], 1000)) == BIG[1000:]


def test_a_member_of_a_pipe_is_read_only_once() -> None:
    with open_archive(pipe(tar_of({"a": BIG, "b": b"b"}))) as archive:
        members = archive.members()
        first = next(members)
        assert b"".join(archive.chunks(first)) == BIG
        with pytest.raises(ArchiveError, match="second time"):
            next(archive.chunks(first))
        assert b"".join(archive.chunks(next(members))) == b"b"


def test_a_folder_is_read_through_links(tmp_path: Path) -> None:
    blobs = tmp_path / "layout/blobs/sha256"
    blobs.mkdir(parents=True)
    (tmp_path / "layout/oci-layout").write_bytes(b"{}")
    (tmp_path / "blob").write_bytes(BIG)
    (blobs / HEX).symlink_to(tmp_path / "blob")
    (blobs / ".partial").write_bytes(b"not a blob")
    with open_archive(tmp_path / "layout") as archive:
        assert contents(archive) == {"oci-layout": b"{}", f"blobs/sha256/{HEX}": BIG}
        blob = next(item for item in archive.members() if item.digest)
        assert b"".join(archive.chunks(blob, 7)) == BIG[7:]


def test_a_folder_with_a_pipe_does_not_wait(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "index.json")
    with open_archive(tmp_path) as archive, pytest.raises(ArchiveError, match="is not a file"):
        list(archive.members())


def test_links_are_resolved() -> None:
    found = read(
        tar(
            member("a/layer.tar", b"x"),
            member("b/layer.tar", kind=tarfile.SYMTYPE, target="../a/layer.tar"),
            member("c", kind=tarfile.LNKTYPE, target="./a/layer.tar"),
        ),
        pipe=True,
    )
    assert found == {"a/layer.tar": b"x", "b/layer.tar": b"->a/layer.tar", "c": b"->a/layer.tar"}
    assert resolve_links("c", {"c": "b", "b": "a"}) == "a"
    with pytest.raises(ArchiveError, match="leads back to itself"):
        resolve_links("c", {"c": "b", "b": "c"})


GOOD = member("good", b"data")
PAX = tarfile.XHDTYPE

REFUSED: dict[str, tuple[bytes, str]] = {
    "nothing": (b"", "empty"),
    "text": (b"<html>" + bytes(600), "neither a tar nor a compressed tar"),
    "a short text": (b"<html>", "too short"),
    "a name that leads out": (tar(member("../x")), "leads out of the archive"),
    "a name that leads out later": (tar(member("a/../../x")), "leads out of the archive"),
    "an absolute name": (tar(member("/etc/passwd")), "absolute"),
    "a name with a control character": (tar(member("a\nb")), "control characters"),
    "a name that is not UTF-8": (tar(member("x").replace(b"x", b"\xff", 1)), "checksum"),
    "a file without a name": (tar(member("x").replace(b"x", b"\0", 1)), "checksum"),
    "the name of the root": (tar(member("./.")), "that of a directory"),
    "a link that leads out": (tar(member("a", kind=tarfile.SYMTYPE, target="../b")), "leads out"),
    "a hard link that leads out": (tar(member("d/a", kind=tarfile.LNKTYPE, target="../b")), "leads out"),
    "an absolute link": (tar(member("a", kind=tarfile.SYMTYPE, target="/etc/passwd")), "absolute"),
    "a link to the root": (tar(member("a", kind=tarfile.SYMTYPE, target=".")), "leads to a directory"),
    "a character device": (tar(member("a", kind=tarfile.CHRTYPE)), "a character device"),
    "a block device": (tar(member("a", kind=tarfile.BLKTYPE)), "a block device"),
    "a named pipe": (tar(member("a", kind=tarfile.FIFOTYPE)), "a named pipe"),
    "a sparse file of GNU": (tar(member("a", kind=tarfile.GNUTYPE_SPARSE)), "a sparse file"),
    "a sparse file of PAX": (tar(member("x", b"22 GNU.sparse.major=1\n", kind=PAX), GOOD), "a sparse file"),
    "an unknown type": (tar(member("a", kind=b"Q")), "unknown type"),
    "two contents": (tar(member("a", b"1"), member("./a", b"2")), "twice"),
    "a blob with two sizes": (
        tar(member(f"blobs/sha256/{HEX}", b"1"), member(f"blobs/sha256/{HEX}", b"12")),
        "twice",
    ),
    "a huge member": (tar(member("a", size=1 << 60)), "a member of"),
    "a huge extended header": (tar(member("a", size=1 << 30, kind=PAX)), "an extended header of"),
    "a huge name": (tar(member("a", b"b" * 5000, kind=tarfile.GNUTYPE_LONGNAME), GOOD), "an invalid name"),
    "a chain of extended headers": (tar(*[member("a", b"9 path=a\n", kind=PAX)] * 9, GOOD), "too many"),
    "a record without a length": (tar(member("a", b"path=a\n", kind=PAX), GOOD), "invalid PAX record"),
    "a record that is too long": (tar(member("a", b"99 path=a\n", kind=PAX), GOOD), "invalid PAX record"),
    "a record of length 0": (tar(member("a", b"0 path=a\n", kind=PAX), GOOD), "invalid PAX record"),
    "a negative size": (tar(member("a", b"11 size=-1\n", kind=PAX), GOOD), "the size is not a number"),
    "garbage after a member": (tar(GOOD, b"garbage!" * 64), "at byte 1024: the checksum is not a number"),
    "half an end": (tar(GOOD, bytes(512), GOOD), "half of an end-of-archive marker"),
    "a truncated member": (tar(member("a", BIG))[:99999], "unexpected EOF"),
    "a truncated header": (tar(GOOD, GOOD[:100], end=b""), "unexpected EOF"),
    "a lone extended header": (tar(member("a", b"9 path=a\n", kind=PAX), end=b""), "unexpected EOF"),
}


@pytest.mark.parametrize("pipe", [False, True])
@pytest.mark.parametrize("case", REFUSED)
def test_it_is_refused(case: str, pipe: bool) -> None:
    data, message = REFUSED[case]
    with pytest.raises(ArchiveError, match=message):
        read(data, pipe=pipe)


def test_a_header_without_a_name_is_refused() -> None:
    block = bytearray(member("x")[:512])
    block[0] = 0
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    with pytest.raises(ArchiveError, match="that of a directory"):
        read(tar(bytes(block)), pipe=True)


def test_an_excessive_number_of_members_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tar_reader, "MAX_MEMBERS", 3)
    assert len(read(tar(*[member(str(number)) for number in range(3)]), pipe=True)) == 3
    with pytest.raises(ArchiveError, match="more than 3 members"):
        read(tar(*[member(str(number)) for number in range(4)]), pipe=True)


@pytest.mark.parametrize("compression", [name for name in COMPRESSORS if name])
def test_truncated_and_damaged_compression_is_reported(compression: str) -> None:
    data = COMPRESSORS[compression](tar_of(FILES))
    with pytest.raises(ArchiveError, match="unexpected EOF"):
        read(data[: len(data) // 2], pipe=True)
    damaged = bytearray(data)
    for at in range(len(data) // 3, len(data) // 3 + 40):
        damaged[at] ^= 0x55
    with pytest.raises(ArchiveError):
        read(bytes(damaged), pipe=False)


def test_a_decompression_bomb_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decompress, "_ALWAYS_ALLOWED_BYTES", 1 << 20)
    data = COMPRESSORS["gzip"](tar_of({"a": bytes(8 << 20)}))
    with pytest.raises(ArchiveError, match="decompression bomb") as caught:
        read(data, pipe=True)
    assert "decompress it with gzip" in str(caught.value.hint)


def test_an_archive_without_an_end_is_read_but_known() -> None:
    with open_archive(pipe(tar(GOOD, end=b""))) as archive:
        assert contents(archive) == {"good": b"data"}
        assert not archive.is_terminated


def test_a_large_document_is_refused() -> None:
    with open_archive(io.BytesIO(tar_of({"a": BIG}))) as archive:
        found = next(archive.members())
        with pytest.raises(ArchiveError, match="more than 100 are not read"):
            read_member(archive, found, limit=100)


@pytest.mark.parametrize("source", [io.StringIO("x"), 7, None, b"data"])
def test_other_sources_are_refused(source: object) -> None:
    with pytest.raises(InvalidInput, match="must be a path or a binary stream"), open_archive(source):  # type: ignore[arg-type]
        pass


def test_a_path_that_cannot_be_opened_is_reported(tmp_path: Path) -> None:
    with pytest.raises(ArchiveError, match="No such file"), open_archive(tmp_path / "missing.tar"):
        pass


def test_waiting_for_an_empty_pipe_can_be_ended() -> None:
    reading, writing = os.pipe()
    begun = time.monotonic()

    def check() -> None:
        if time.monotonic() - begun > 0.3:
            raise Cancelled("stop")

    with os.fdopen(reading, "rb", buffering=0) as stream, os.fdopen(writing, "wb"):  # noqa: SIM117
        with pytest.raises(Cancelled), open_archive(stream, check=check) as archive:
            list(archive.members())


@pytest.mark.parametrize("compression", ["", "gzip"])
def test_a_signal_that_ended_both_programs_of_a_pipe_is_seen_first(compression: str) -> None:
    data = Pipe(COMPRESSORS[compression](tar_of({"a": BIG}))[:2000])
    over = threading.Event()
    read = data.read

    def watched(size: int = -1) -> bytes:
        found = read(size)
        if not found:  # the other program ends, and the signal arrives a little later
            threading.Timer(0.05, over.set).start()
        return found

    data.read = watched  # type: ignore[method-assign]

    def check() -> None:
        if over.is_set():
            raise Cancelled("stop")

    with open_archive(cast("IO[bytes]", data), check=check) as archive, pytest.raises(Cancelled):
        contents(archive)


# --- anything at all --------------------------------------------------------------------------------------

NAMES = st.lists(st.sampled_from(["a", "b", "blobs", "sha256", "index.json", "x" * 120]), min_size=1).map(
    "/".join
)
TREES = st.dictionaries(NAMES, st.binary(max_size=2000), max_size=6)


@given(TREES, st.sampled_from(sorted(COMPRESSORS)), st.integers(1, 5000), st.booleans())
def test_what_was_written_is_read(files: dict[str, bytes], compression: str, step: int, pax: bool) -> None:
    data = tar_of(files, layout=tarfile.PAX_FORMAT if pax else tarfile.GNU_FORMAT)
    with open_archive(pipe(COMPRESSORS[compression](data), step)) as archive:
        assert contents(archive) == files


def attempt(opened: Callable[[], IO[bytes]]) -> dict[str, bytes] | str:
    try:
        with open_archive(opened()) as archive:
            return contents(archive)
    except PyctrdError as error:
        return str(error)


@given(TREES, st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), max_size=4), st.floats(0, 1))
def test_a_damaged_archive_is_read_the_same_from_a_file_and_a_pipe(
    files: dict[str, bytes], changes: list[tuple[float, int]], end: float
) -> None:
    data = bytearray(tar_of(files))
    for where, value in changes:
        data[int(where * (len(data) - 1))] = value
    cut = bytes(data[: int(end * len(data)) + 1])
    assert attempt(lambda: io.BytesIO(cut)) == attempt(lambda: pipe(cut))


@given(st.sampled_from(sorted(COMPRESSORS)), st.binary(max_size=3000))
def test_bytes_that_are_no_archive_never_end_in_another_error(compression: str, data: bytes) -> None:
    head = COMPRESSORS[compression](b"")[:6] if compression else b""
    attempt(lambda: pipe(head + data))

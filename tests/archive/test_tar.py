"""The writer: what it writes is a whole archive, and what is wrong stops it."""

from __future__ import annotations

import errno
import io
import os
import tarfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyctrd.archive import tar
from pyctrd.archive.layout import Entry, Layout
from pyctrd.archive.output import open_output
from pyctrd.errors import ArchiveError, DaemonUnreachable, DigestMismatch, NotFound
from pyctrd.oci.model import Digest, blob_path


def layout_of(blobs: Mapping[Digest, bytes]) -> Layout:
    entries = [
        Entry(name=blob_path(digest), mode=0o444, size=len(data), source=digest)
        for digest, data in blobs.items()
    ]
    entries += [
        Entry(name="blobs/", mode=0o755, size=0, source=b""),
        Entry(name="index.json", mode=0o644, size=2, source=b"{}"),
    ]
    return Layout(entries=tuple(sorted(entries, key=lambda item: item.name)))


def reader(
    blobs: Mapping[Digest, bytes], chunk: int = 1000
) -> Callable[[Digest], AbstractContextManager[Iterator[bytes]]]:
    @contextmanager
    def read(digest: Digest) -> Iterator[Iterator[bytes]]:
        def chunks() -> Iterator[bytes]:
            if digest not in blobs:
                raise NotFound(f"content digest {digest}: not found", kind="content", name=digest)
            for start in range(0, len(blobs[digest]), chunk):
                yield blobs[digest][start : start + chunk]

        yield chunks()

    return read


def by_digest(*contents: bytes) -> dict[Digest, bytes]:
    return {Digest.of(data): data for data in contents}


def helpers() -> list[threading.Thread]:
    return [item for item in threading.enumerate() if item.name in ("pyctrd-read", "pyctrd-hash")]


@given(st.lists(st.binary(max_size=3000), max_size=8), st.sampled_from([1, 100, 512, 4096]))
def test_any_blobs_make_an_archive_that_the_standard_library_reads(contents: list[bytes], chunk: int) -> None:
    blobs = by_digest(*contents)
    layout, output = layout_of(blobs), io.BytesIO()
    written = tar.write(layout, reader(blobs, chunk), output)
    archive = output.getvalue()
    assert written == len(archive) == tar.size(layout)
    assert len(archive) % 512 == 0
    assert archive.endswith(bytes(1024))
    with tarfile.open(fileobj=io.BytesIO(archive)) as found:
        members = found.getmembers()
        data = {
            item.name: (found.extractfile(item) or io.BytesIO()).read() for item in members if item.isfile()
        }
    names = [item.name + "/" * item.isdir() for item in members]
    assert names == sorted(names)
    assert data == {"index.json": b"{}", **{blob_path(digest): raw for digest, raw in blobs.items()}}


def test_other_algorithms() -> None:
    blobs = {Digest.of(b"x" * 5000, name): b"x" * 5000 for name in ("sha384", "sha512")}
    output = io.BytesIO()
    tar.write(layout_of(blobs), reader(blobs), output)
    with tarfile.open(fileobj=io.BytesIO(output.getvalue())) as found:
        assert {blob_path(digest) for digest in blobs} <= set(found.getnames())


def test_a_blob_of_other_bytes_is_refused() -> None:
    digest = Digest.of(b"right")
    layout = layout_of({digest: b"right"})
    with pytest.raises(DigestMismatch, match=r"unexpected digest sha256:.* copied") as caught:
        tar.write(layout, reader({digest: b"wrong"}), io.BytesIO())
    assert (caught.value.expected, caught.value.actual) == (digest, Digest.of(b"wrong"))


@pytest.mark.parametrize(
    ("stored", "words"),
    [
        (b"shor", "unexpected copy size for blobs/sha256/.*4 bytes instead of 5"),
        (b"longer", "write too long"),
    ],
)
def test_a_blob_of_another_size_is_refused(stored: bytes, words: str) -> None:
    digest = Digest.of(b"right")
    with pytest.raises(ArchiveError, match=words):
        tar.write(layout_of({digest: b"right"}), reader({digest: stored}), io.BytesIO())


def test_a_blob_that_is_gone_meanwhile() -> None:
    blobs = by_digest(b"one", b"two")
    gone = Digest.of(b"two")
    with pytest.raises(NotFound, match=f"failed to get reader: content digest {gone}: not found") as caught:
        tar.write(layout_of(blobs), reader({Digest.of(b"one"): b"one"}), io.BytesIO())
    assert caught.value.name == gone


def test_a_store_that_fails_in_the_middle_ends_all_threads() -> None:
    @contextmanager
    def read(_digest: Digest) -> Iterator[Iterator[bytes]]:
        def chunks() -> Iterator[bytes]:
            yield b"some"
            raise DaemonUnreachable("connection reset")

        yield chunks()

    with pytest.raises(DaemonUnreachable, match="connection reset"):
        tar.write(layout_of(by_digest(b"something")), read, io.BytesIO())
    assert helpers() == []


class Failing(io.BytesIO):
    """An output that fails after so many bytes."""

    def __init__(self, error: BaseException, after: int) -> None:
        super().__init__()
        self._error = error
        self._after = after

    def write(self, data: object) -> int:
        if self.tell() >= self._after:
            raise self._error
        return super().write(data)  # type: ignore[arg-type]


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_a_full_disk_tells_how_much_is_needed(code: int) -> None:
    blobs = by_digest(b"x" * 100_000)
    layout = layout_of(blobs)
    with pytest.raises(ArchiveError, match=f"{os.strerror(code)}: {tar.size(layout)} bytes are needed"):
        tar.write(layout, reader(blobs), Failing(OSError(code, os.strerror(code)), 5000))
    assert helpers() == []


def test_a_reader_that_went_away() -> None:
    blobs = by_digest(b"x" * 100_000)
    failing = Failing(BrokenPipeError(errno.EPIPE, "Broken pipe"), 2048)
    with pytest.raises(ArchiveError, match="Broken pipe: the reader closed the pipe after"):
        tar.write(layout_of(blobs), reader(blobs), failing)


def test_another_failure_keeps_its_reason() -> None:
    with pytest.raises(ArchiveError, match="cannot write the archive: Input/output error"):
        tar.write(layout_of({}), reader({}), Failing(OSError(errno.EIO, "Input/output error"), 0))


def test_an_interrupt_ends_all_threads_at_once() -> None:
    blobs = by_digest(b"x" * 1_000_000)
    before = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        tar.write(layout_of(blobs), reader(blobs, 100), Failing(KeyboardInterrupt(), 10_000))
    assert helpers() == []
    assert time.monotonic() - before < 1.5


def test_partial_writes_of_a_pipe_lose_nothing() -> None:
    blobs = by_digest(os.urandom(300_000), b"small")
    layout = layout_of(blobs)
    end, start = os.pipe()
    os.set_blocking(start, False)
    received: list[bytes] = []

    def drain() -> None:
        with os.fdopen(end, "rb") as pipe:
            while data := pipe.read(7000):
                received.append(data)

    thread = threading.Thread(target=drain)
    thread.start()
    with os.fdopen(start, "wb", buffering=0) as output:
        written = tar.write(layout, reader(blobs), output)
    thread.join()
    expected = io.BytesIO()
    tar.write(layout, reader(blobs), expected)
    assert b"".join(received) == expected.getvalue()
    assert written == len(expected.getvalue())


def test_little_is_read_ahead() -> None:
    """A slow output holds the reading back: memory is a few chunks, whatever the image's size."""
    size, chunk = 100 << 16, 1 << 16
    read_bytes = 0
    most_ahead = 0

    @contextmanager
    def read(_digest: Digest) -> Iterator[Iterator[bytes]]:
        def chunks() -> Iterator[bytes]:
            nonlocal read_bytes
            for _ in range(0, size, chunk):
                read_bytes += chunk
                yield b"x" * chunk

        yield chunks()

    def watch(_entry: Entry, written: int) -> None:
        nonlocal most_ahead
        most_ahead = max(most_ahead, read_bytes - written)

    tar.write(layout_of(by_digest(b"x" * size)), read, io.BytesIO(), progress=watch)
    assert most_ahead <= 8 * chunk


def test_small_blobs_are_written_together() -> None:
    blobs = by_digest(*(number.to_bytes(2, "big") * 50 for number in range(500)), b"x" * 300_000)
    sizes: list[int] = []

    class Counting(io.BytesIO):
        def write(self, data: Any, /) -> int:
            sizes.append(len(data))
            return super().write(data)

    layout = layout_of(blobs)
    tar.write(layout, reader(blobs), Counting())
    assert sum(sizes) == tar.size(layout)
    assert len(sizes) <= sum(sizes) // (64 << 10) + 3  # before and after the large blob, and at the end


@pytest.mark.parametrize("failing", [None, 5])
def test_the_next_blobs_are_open_before_they_are_needed_and_all_are_closed(failing: int | None) -> None:
    blobs = by_digest(*(bytes([number]) * 10 for number in range(9)))
    order = [item.source for item in layout_of(blobs).entries if isinstance(item.source, Digest)]
    opened: set[Digest] = set()
    seen: list[set[Digest]] = []

    @contextmanager
    def read(digest: Digest) -> Iterator[Iterator[bytes]]:
        def chunks() -> Iterator[bytes]:
            seen.append(set(opened))
            if order.index(digest) == failing:
                raise DaemonUnreachable("connection reset")
            yield blobs[digest]

        opened.add(digest)
        try:
            yield chunks()
        finally:
            opened.remove(digest)

    with pytest.raises(DaemonUnreachable) if failing else nullcontext():
        tar.write(layout_of(blobs), read, io.BytesIO())
    last = len(order) if failing is None else failing + 1
    assert seen == [set(order[at : at + 3]) for at in range(last)]
    assert opened == set()


def test_progress_ends_at_each_blobs_size() -> None:
    blobs = by_digest(b"x" * 2500, b"y" * 10)
    seen: dict[str, list[int]] = {}
    tar.write(
        layout_of(blobs),
        reader(blobs),
        io.BytesIO(),
        progress=lambda entry, written: seen.setdefault(entry.name, []).append(written),
    )
    assert seen == {
        blob_path(Digest.of(b"x" * 2500)): [1000, 2000, 2500],
        blob_path(Digest.of(b"y" * 10)): [10],
    }


def test_a_device_that_is_always_full() -> None:
    blobs = by_digest(b"x" * 5000)
    with open_output("/dev/full") as output, pytest.raises(ArchiveError, match="No space left on device"):
        tar.write(layout_of(blobs), reader(blobs), output)


class Answering(io.BytesIO):
    """An output whose `write` returns what it likes."""

    def __init__(self, answer: object) -> None:
        super().__init__()
        self._answer = answer

    def write(self, data: object) -> int:
        super().write(data)  # type: ignore[arg-type]
        return self._answer  # type: ignore[return-value]


@pytest.mark.parametrize("answer", [None, 0, -1, 1 << 30, "3", 1.5])
def test_an_output_that_does_not_say_what_it_has_taken_is_an_error(answer: object) -> None:
    """None of a stream that is not raw, and 0, were tried for ever."""
    blobs = by_digest(b"some bytes")
    with pytest.raises(ArchiveError, match=r"write\(\) of the output returned ") as caught:
        tar.write(layout_of(blobs), reader(blobs, 100), Answering(answer))
    assert repr(answer) in caught.value.message
    assert "the number of bytes" in (caught.value.hint or "")


def test_a_full_pipe_is_waited_for_until_there_is_no_more_use() -> None:
    """Its reader stands still: nobody but `check` can end that."""
    blobs = by_digest(bytes(1 << 20))
    reading, writing = os.pipe()

    class Enough(Exception):
        pass

    def check() -> None:
        raise Enough

    with os.fdopen(reading, "rb"), os.fdopen(writing, "wb", buffering=0) as output:
        with pytest.raises(Enough), open_output(f"/proc/self/fd/{output.fileno()}") as stream:
            tar.write(layout_of(blobs), reader(blobs, 1 << 16), stream, check=check)
        assert os.get_blocking(output.fileno()), "the pipe of others stays as it was"

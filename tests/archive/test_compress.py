"""Compression: other programs read it, and the same archive gives the same bytes on any number of cores."""

from __future__ import annotations

import gzip
import io
import os
import random
import shutil
import subprocess
import threading
import zlib
from collections.abc import Iterator

import pytest

from pyctrd.archive import compress, tar
from pyctrd.archive.compress import Compression, compressed, compression_for
from pyctrd.archive.decompress import Decompressed
from pyctrd.errors import ArchiveError
from pyctrd.ports import Chunk
from tests.archive.test_tar import Failing, by_digest, helpers, layout_of, reader

KINDS: tuple[Compression, ...] = ("gzip", "zstd")
PROGRAMS = {"gzip": ["gzip", "-dc"], "zstd": ["zstd", "-dqc"]}


def packed(data: bytes, kind: Compression, *, piece: int = 1 << 20) -> bytes:
    output = io.BytesIO()
    with compressed(output.write, kind, len(data)) as write:
        for start in range(0, len(data), piece):
            write(data[start : start + piece])
    return output.getvalue()


def samples() -> Iterator[bytes]:
    """Nothing, text, what cannot be compressed, zeros, and all that around the size of a block."""
    noise = random.Random(7).randbytes(1 << 20)
    yield from (b"", b"x", b"text " * 500_000, noise, bytes(3 << 20))
    yield from (noise[:-1], noise + b"y", noise + b"text " * 400_000 + noise[:100])


SAMPLES = tuple(samples())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("number", range(len(SAMPLES)))
def test_other_programs_read_it(kind: Compression, number: int) -> None:
    if shutil.which(PROGRAMS[kind][0]) is None:
        pytest.skip(f"no {kind} on this machine")
    raw = packed(SAMPLES[number], kind)
    done = subprocess.run(PROGRAMS[kind], input=raw, capture_output=True, check=True)
    assert done.stdout == SAMPLES[number]
    assert unpacked(raw, kind) == SAMPLES[number]


def unpacked(raw: bytes, kind: Compression) -> bytes:
    stream, output = Decompressed(io.BytesIO(raw).read, kind), io.BytesIO()
    while chunk := stream.read(1 << 16):
        output.write(chunk)
    return output.getvalue()


def test_gzip_is_one_member_without_time_and_name() -> None:
    raw = packed(SAMPLES[-1], "gzip")
    assert raw[:10] == b"\x1f\x8b\x08" + bytes(6) + b"\xff"
    decoder = zlib.decompressobj(31)
    assert decoder.decompress(raw) == SAMPLES[-1]
    assert decoder.eof
    assert decoder.unused_data == b""


def test_text_shrinks_and_noise_hardly_grows() -> None:
    text, noise = SAMPLES[2], SAMPLES[3]
    for kind in KINDS:
        assert len(packed(text, kind)) < len(text) // 100
        assert len(packed(noise, kind)) < len(noise) + 500
    assert abs(len(packed(text, "gzip")) - len(gzip.compress(text, 6))) < len(text) // 1000


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("number", [0, 3, 7])
def test_the_bytes_do_not_depend_on_pieces_and_cores(
    kind: Compression, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = packed(SAMPLES[number], kind)
    for cores, piece in ((1, 1 << 20), (2, 999), (7, 123_456)):
        monkeypatch.setattr(compress, "_cores", lambda count=cores: count)
        assert packed(SAMPLES[number], kind, piece=piece) == expected


@pytest.mark.parametrize("kind", KINDS)
def test_little_is_held_back(kind: Compression, monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory is a few MiB for each core, whatever the size."""
    monkeypatch.setattr(compress, "_cores", lambda: 2)
    received = held_back = 0

    def take(data: Chunk) -> None:
        nonlocal received
        received += len(data)

    noise = random.Random(8).randbytes(1 << 20)
    with compressed(take, kind, 40 << 20) as write:
        for number in range(1, 41):
            write(noise)
            held_back = max(held_back, (number << 20) - received)
    assert held_back <= 16 << 20


@pytest.mark.parametrize("kind", KINDS)
def test_an_archive_is_what_it_is_without_compression(kind: Compression) -> None:
    blobs = by_digest(os.urandom(1_500_000), b"text" * 300_000)
    plain, output = io.BytesIO(), io.BytesIO()
    tar.write(layout_of(blobs), reader(blobs, 1 << 16), plain)
    written = tar.write(layout_of(blobs), reader(blobs, 1 << 16), output, compression=kind)
    assert written == len(output.getvalue()) < len(plain.getvalue())
    assert unpacked(output.getvalue(), kind) == plain.getvalue()


@pytest.mark.parametrize(("kind", "after"), [("gzip", 0), ("gzip", 1_000_000), ("zstd", 0)])
def test_a_full_disk_ends_all_threads_and_promises_no_size(kind: Compression, after: int) -> None:
    blobs = by_digest(os.urandom(5_000_000))
    with pytest.raises(ArchiveError) as caught:
        tar.write(
            layout_of(blobs),
            reader(blobs, 1 << 16),
            Failing(OSError(28, "No space left on device"), after),
            compression=kind,
        )
    assert caught.value.message == "cannot write the archive: No space left on device"
    assert helpers() == []
    assert [item.name for item in threading.enumerate() if item.name.startswith("pyctrd-gzip")] == []


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("image.tar", "none"),
        ("image.tar.gz", "gzip"),
        ("IMAGE.TGZ", "gzip"),
        ("a/b.tar.zst", "zstd"),
        ("b.tzst", "zstd"),
        ("image.tar.xz", "none"),
        ("a.gz/image.tar", "none"),
        (".gz", "none"),
        ("-", "none"),
    ],
)
def test_an_extension_stands_for_a_compression(path: str, kind: Compression) -> None:
    assert compression_for(path) == kind

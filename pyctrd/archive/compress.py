"""Compress an archive while it is written, on all cores.

The bytes depend only on the archive and the release of zlib or zstd, not on the number of cores or on how the
bytes arrive: gzip's blocks have a fixed size, and zstd's do not depend on the number of its workers.

Source: RFC 1951, RFC 1952; zstd's documentation of ZSTD_c_nbWorkers. Blocks that start with the end of the
one before as their dictionary are also what pigz writes.
"""

from __future__ import annotations

import os
import sys
import zlib
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import PurePath
from typing import Final, Literal, TypeAlias

from pyctrd.ports import Chunk

Compression: TypeAlias = Literal["none", "gzip", "zstd"]

_EXTENSIONS: Final[dict[str, Compression]] = {
    ".gz": "gzip",
    ".tgz": "gzip",
    ".zst": "zstd",
    ".tzst": "zstd",
}
_ZSTD_LEVEL: Final = 3
# The default, 8 MiB, takes 40 MiB of memory for each core; the archive is half a percent larger.
_ZSTD_JOB_BYTES: Final = 1 << 20
_GZIP_LEVEL: Final = 6
_BLOCK_BYTES: Final = 1 << 20
_WINDOW_BYTES: Final = 32 << 10
# What deflate does not shrink by at least this share is stored: layers are usually compressed already.
_SAMPLE_BYTES: Final = 32 << 10
_WORTHWHILE: Final = 0.97
# Method deflate; no name and no time, so that the bytes are the same every time; an unknown system.
_GZIP_HEADER: Final = b"\x1f\x8b\x08\x00" + bytes(5) + b"\xff"


def compression_for(path: str) -> Compression:
    """Return the compression that a file's extension stands for."""
    return _EXTENSIONS.get(PurePath(path).suffix.lower(), "none")


@contextmanager
def compressed(
    write: Callable[[Chunk], object], compression: Compression, size: int
) -> Iterator[Callable[[Chunk], object]]:
    """Return a function that compresses `size` bytes, and passes the result to `write`.

    The last bytes are written when the context is left without an error.
    """
    if compression == "none":
        yield write
    elif compression == "zstd":
        with _zstd(write, size) as stream:
            yield stream
    else:
        with ThreadPoolExecutor(_cores(), thread_name_prefix="pyctrd-gzip") as pool:
            gzip = _Gzip(pool, write)
            try:
                yield gzip.write
                gzip.finish()
            finally:
                pool.shutdown(wait=False, cancel_futures=True)


def _cores() -> int:
    return len(os.sched_getaffinity(0))


# --- zstd -------------------------------------------------------------------------------------------------


@contextmanager
def _zstd(write: Callable[[Chunk], object], size: int) -> Iterator[Callable[[Chunk], object]]:
    if sys.version_info >= (3, 14):
        from compression import zstd
    else:
        from backports import zstd
    # Without workers the bytes would be others. A zstd that was built without threads accepts only 0.
    workers = min(_cores(), zstd.CompressionParameter.nb_workers.bounds()[1])
    compressor = zstd.ZstdCompressor(
        options={
            zstd.CompressionParameter.compression_level: _ZSTD_LEVEL,
            zstd.CompressionParameter.checksum_flag: 1,
            zstd.CompressionParameter.nb_workers: workers,
            zstd.CompressionParameter.job_size: _ZSTD_JOB_BYTES if workers else 0,
        }
    )
    compressor.set_pledged_input_size(size)

    def stream(data: Chunk) -> None:
        if done := compressor.compress(data):
            write(done)

    yield stream
    write(compressor.flush())


# --- gzip -------------------------------------------------------------------------------------------------


class _Gzip:
    """Compresses blocks in a pool, and writes them in order, as one member."""

    def __init__(self, pool: ThreadPoolExecutor, write: Callable[[Chunk], object]) -> None:
        self._pool = pool
        self._write = write
        self._most_pending = 2 * _cores()
        self._pending = deque[Future[bytes]]()
        self._buffer = bytearray()
        self._before = b""
        self._crc = 0
        self._size = 0
        write(_GZIP_HEADER)

    def write(self, data: Chunk) -> None:
        """Add bytes; blocks while the pool is behind."""
        self._buffer += data
        while len(self._buffer) > _BLOCK_BYTES:
            block = bytes(self._buffer[:_BLOCK_BYTES])
            del self._buffer[:_BLOCK_BYTES]
            self._submit(block, last=False)
            while len(self._pending) > self._most_pending:
                self._write(self._pending.popleft().result())

    def finish(self) -> None:
        """Write what is left, and the checksum."""
        self._submit(bytes(self._buffer), last=True)
        while self._pending:
            self._write(self._pending.popleft().result())
        self._write(self._crc.to_bytes(4, "little") + (self._size % (1 << 32)).to_bytes(4, "little"))

    def _submit(self, block: bytes, *, last: bool) -> None:
        self._pending.append(self._pool.submit(_deflated, block, self._before, last))
        self._crc = zlib.crc32(block, self._crc)
        self._size += len(block)
        self._before = block[-_WINDOW_BYTES:]


def _deflated(block: bytes, before: bytes, last: bool) -> bytes:
    """Compress a block of a stream, which continues after the bytes `before`."""
    compressor = zlib.compressobj(
        _level(block), zlib.DEFLATED, -zlib.MAX_WBITS, zlib.DEF_MEM_LEVEL, zlib.Z_DEFAULT_STRATEGY, before
    )
    return compressor.compress(block) + compressor.flush(zlib.Z_FINISH if last else zlib.Z_SYNC_FLUSH)


def _level(block: bytes) -> int:
    """Return the level for a block: 0, which stores it, if its middle cannot be compressed."""
    start = max(0, (len(block) - _SAMPLE_BYTES) // 2)
    sample = block[start : start + _SAMPLE_BYTES]
    return _GZIP_LEVEL if len(zlib.compress(sample, 1)) < _WORTHWHILE * len(sample) else 0

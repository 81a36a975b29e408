"""Decompress archives while they are read: gzip, zstd, xz and bzip2, recognized by their first bytes.

Memory is bounded: output is produced in the pieces that the caller asks for, and the window that a zstd or xz
stream may ask for is limited.
"""

from __future__ import annotations

import bz2
import lzma
import sys
import zlib
from collections.abc import Callable
from typing import Any, Final, Protocol

from pyctrd.errors import ArchiveError

# As many bytes as `compression_of` needs.
MAGIC_BYTES: Final = 6
_MAGIC: Final = (
    (b"\x1f\x8b\x08", "gzip"),
    (b"\x28\xb5\x2f\xfd", "zstd"),
    (b"\xfd7zXZ\x00", "xz"),
    (b"BZh", "bzip2"),
)
# Skippable frames, with which pzstd starts its files, have sixteen magic numbers.
_SKIPPABLE: Final = b"\x2a\x4d\x18"
_INPUT_BYTES: Final = 256 << 10
# The window of `zstd -19` and of `xz -9` is smaller; `zstd --ultra --long=31` would need 2 GiB.
_ZSTD_WINDOW_LOG: Final = 27
_XZ_MEMORY_BYTES: Final = 256 << 20
# Real layers shrink to a tenth; one thousandth is what gzip makes of nothing but zeros.
_MAX_RATIO: Final = 500
_ALWAYS_ALLOWED_BYTES: Final = 1 << 30


class _Codec(Protocol):
    """A decompressor of the standard library (bz2, lzma, compression.zstd)."""

    @property
    def eof(self) -> bool: ...
    @property
    def needs_input(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, max_length: int) -> bytes: ...


class _Gzip:
    """zlib's decompressor, with the interface of the others."""

    def __init__(self) -> None:
        self._zlib = zlib.decompressobj(wbits=31)
        self.needs_input = True

    @property
    def eof(self) -> bool:
        return self._zlib.eof

    @property
    def unused_data(self) -> bytes:
        return self._zlib.unused_data

    def decompress(self, data: bytes, max_length: int) -> bytes:
        made = self._zlib.decompress(self._zlib.unconsumed_tail + data, max_length)
        self.needs_input = not self._zlib.unconsumed_tail and len(made) < max_length
        return made


def _zstd() -> _Codec:
    if sys.version_info >= (3, 14):
        from compression import zstd
    else:
        from backports import zstd
    options: dict[int, int] = {zstd.DecompressionParameter.window_log_max: _ZSTD_WINDOW_LOG}
    codec: _Codec = zstd.ZstdDecompressor(options=options)
    return codec


_CODECS: Final[dict[str, Callable[[], Any]]] = {
    "gzip": _Gzip,
    "zstd": _zstd,
    "xz": lambda: lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=_XZ_MEMORY_BYTES),
    "bzip2": bz2.BZ2Decompressor,
}


def compression_of(head: bytes) -> str:
    """Return the name of the compression that data starts with; "" for none of these."""
    if head[1:4] == _SKIPPABLE and head[:1] and 0x50 <= head[0] <= 0x5F:
        return "zstd"
    return next((name for magic, name in _MAGIC if head.startswith(magic)), "")


class Decompressed:
    """The decompressed bytes of a stream; frames and members that follow each other are one stream.

    `read` returns some bytes of the compressed stream, none at its end. Data after the last frame, e.g. the
    zeros with which a tape is padded, is ignored. `ended` is called before an early end is reported.
    """

    def __init__(
        self, read: Callable[[int], bytes], compression: str, ended: Callable[[], None] = lambda: None
    ) -> None:
        self._input = read
        self._ended = ended
        self._compression = compression
        self._codec: _Codec = _CODECS[compression]()
        self._given = b""  # read, but not passed to the codec yet
        self._consumed = 0
        self._produced = 0
        self._is_over = False

    def read(self, size: int) -> bytes:
        """Return some of the next `size` bytes, none at the end. Raises ArchiveError."""
        while not self._is_over:
            made = self._decompress(size)
            self._produced += len(made)
            self._check_ratio()
            if self._codec.eof:
                self._next_frame()
            if made:
                return made
        return b""

    def _decompress(self, size: int) -> bytes:
        data = b""
        if self._codec.needs_input:
            data, self._given = self._given or self._more(), b""
            if not data:
                self._ended()
                raise ArchiveError(
                    f"unexpected EOF: the {self._compression} data ends after {self._consumed} bytes, in the "
                    "middle of the archive",
                    hint="it was truncated on the way: copy or save it again",
                )
        try:
            return self._codec.decompress(data, size)
        except Exception as error:  # each module has its own class
            if "emory" in str(error):
                hint = "decompress it with that program first"
            else:
                hint = "it was damaged on the way: copy or save it again"
            raise ArchiveError(f"damaged {self._compression} data: {error}", hint=hint) from error

    def _more(self) -> bytes:
        data = self._input(_INPUT_BYTES)
        self._consumed += len(data)
        return data

    def _next_frame(self) -> None:
        rest = self._codec.unused_data
        while not rest.strip(b"\0"):
            rest = self._more()
            if not rest:
                self._is_over = True
                return
        rest = rest.lstrip(b"\0")
        while len(rest) < MAGIC_BYTES and (more := self._more()):
            rest += more
        if compression_of(rest) == self._compression:
            self._codec, self._given = _CODECS[self._compression](), rest
        else:
            self._is_over = True

    def _check_ratio(self) -> None:
        if self._produced > max(_ALWAYS_ALLOWED_BYTES, self._consumed * _MAX_RATIO):
            raise ArchiveError(
                f"refusing to decompress more than {_MAX_RATIO} times the {self._consumed} bytes of "
                f"{self._compression} data: it may be a decompression bomb",
                hint=f"if you trust the archive, decompress it with {self._compression} and load the result",
            )

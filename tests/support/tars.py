"""Tars for tests of the reader, also ones that no program would write."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import sys
import tarfile
from collections.abc import Callable, Mapping

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd


def _zstd(data: bytes) -> bytes:
    """Compress as the zstd program does, with a checksum."""
    return zstd.compress(data, options={zstd.CompressionParameter.checksum_flag: 1})


COMPRESSORS: Mapping[str, Callable[[bytes], bytes]] = {
    "": bytes,
    "gzip": gzip.compress,
    "zstd": _zstd,
    "xz": lzma.compress,
    "bzip2": bz2.compress,
}


def member(
    name: str, data: bytes = b"", *, kind: bytes = tarfile.REGTYPE, target: str = "", size: int | None = None
) -> bytes:
    """A member with its padding; `size` is what the header claims."""
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    info.size = len(data) if size is None else size
    return info.tobuf(tarfile.GNU_FORMAT) + data + bytes(-len(data) % 512)


def tar(*members: bytes, end: bytes = bytes(1024)) -> bytes:
    """An archive of members."""
    return b"".join(members) + end


def tar_of(files: Mapping[str, bytes], *, layout: int = tarfile.PAX_FORMAT) -> bytes:
    """An archive of files as the standard library writes it, in the order of the mapping."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=layout) as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


class Pipe(io.RawIOBase):
    """A stream that cannot seek, and returns at most `step` bytes at a time."""

    def __init__(self, data: bytes, step: int = 1000) -> None:
        self._data = io.BytesIO(data)
        self._step = step

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        return self._data.read(min(size, self._step) if size >= 0 else self._step)

"""Tar headers as Go's archive/tar writes them. No IO.

The standard library's tarfile is not used: its PAX headers, which are needed for sizes of 8 GiB and more and
for the long names of sha512 blobs, differ from Go's, and an archive must be byte-identical to containerd's.

Source: Go archive/tar writer.go, strconv.go, format.go; POSIX pax, "ustar Interchange Format".
"""

from __future__ import annotations

import posixpath
import struct
from typing import Final

BLOCK: Final = 512
END: Final = bytes(2 * BLOCK)

# Name, mode, uid, gid, size, mtime, checksum, type, link name, magic and version, user and group name, device
# numbers, prefix; struct pads with zeros.
_USTAR: Final = struct.Struct("100s8s8s8s12s12s8s1s100x8s64x8s8s155s12x")
_NAME_BYTES: Final = 100
_PREFIX_BYTES: Final = 155
_LARGEST_SIZE: Final = 8**11 - 1
_REGULAR: Final = b"0"
_DIRECTORY: Final = b"5"
_EXTENDED: Final = b"x"


def header(name: str, mode: int, size: int) -> bytes:
    """Return the header blocks of a member: one, or three with PAX records.

    A name that ends in a slash is a directory. `size` is in bytes; times, owners and devices are zero.
    """
    long = len(name) > _NAME_BYTES
    prefix, short = _split(name) if long else ("", name)
    records = b""
    if size > _LARGEST_SIZE or (long and not prefix):
        records += _record("path", name) if long else b""
        records += _record("size", str(size)) if size > _LARGEST_SIZE else b""
    kind = _DIRECTORY if name.endswith("/") else _REGULAR
    if not records:
        return _block(short, mode, size, kind, prefix=prefix, device=b"0000000")
    folder, file = posixpath.split(name)
    extended = posixpath.join(folder, "PaxHeaders.0", file)[:_NAME_BYTES].rstrip("/")
    return (
        _block(extended, 0, len(records), _EXTENDED)
        + _padded(records)
        + _block(name, mode, size, kind, device=b"0000000")
    )


def padding(size: int) -> bytes:
    """Return the zeros that pad a member of `size` bytes to a whole block."""
    return bytes(-size % BLOCK)


def _padded(data: bytes) -> bytes:
    return data + padding(len(data))


def _split(name: str) -> tuple[str, str]:
    """Split a long name into ustar's prefix and name; two empty strings if that is not possible."""
    cut = name.rfind("/", 0, min(len(name.rstrip("/")), _PREFIX_BYTES + 1))
    if cut <= 0 or not 0 < len(name) - cut - 1 <= _NAME_BYTES:
        return "", ""
    return name[:cut], name[cut + 1 :]


def _record(key: str, value: str) -> bytes:
    """Return a PAX record, whose length includes its own digits."""
    body = f" {key}={value}\n"
    length = len(body) + len(str(len(body)))
    length = len(body) + len(str(length))
    return f"{length}{body}".encode()


def _block(name: str, mode: int, size: int, kind: bytes, *, prefix: str = "", device: bytes = b"") -> bytes:
    """Return a header block; a size that is too large is written as 0, and is in the PAX record instead."""
    block = _USTAR.pack(
        name.encode(),
        _octal(mode, 7),
        _octal(0, 7),
        _octal(0, 7),
        _octal(size if size <= _LARGEST_SIZE else 0, 11),
        _octal(0, 11),
        b" " * 8,
        kind,
        b"ustar\x0000",
        device,
        device,
        prefix.encode(),
    )
    checksum = b"%06o\0 " % sum(block)
    return block[:148] + checksum + block[156:]


def _octal(value: int, digits: int) -> bytes:
    return b"%0*o" % (digits, value)

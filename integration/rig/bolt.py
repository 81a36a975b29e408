"""Reads a bbolt file, the format of containerd's metadata (go.etcd.io/bbolt: page.go, bucket.go).

ctr prints rounded sizes and joins labels with commas, which values may contain, so comparing the output of
ctr alone would miss differences. The file is read without bbolt's lock: pages that the newest meta page
refers to are not overwritten by the next transaction, and a read that was overtaken by two is repeated.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

_BRANCH, _LEAF = 0x01, 0x02
_IS_BUCKET = 0x01
_MAGIC = 0xED0CDAED
_PAGE_HEADER = struct.Struct("<QHHI")
_META = struct.Struct("<IIIIQQQQQQ")
_BRANCH_ELEMENT = struct.Struct("<IIQ")
_LEAF_ELEMENT = struct.Struct("<IIII")
_BUCKET_HEADER = struct.Struct("<QQ")
_TRIES = 20


@dataclass
class Bucket:
    """Sub-buckets and values by key."""

    buckets: dict[str, Bucket] = field(default_factory=dict)
    values: dict[str, bytes] = field(default_factory=dict)

    def at(self, *names: str) -> Bucket:
        """The nested bucket at the path; an empty one if there is none."""
        found = self
        for name in names:
            found = found.buckets.get(name) or Bucket()
        return found

    def text(self, key: str) -> str:
        """A value as text, "" when missing."""
        return self.values.get(key, b"").decode(errors="replace")

    def texts(self) -> dict[str, str]:
        """All values as text; labels are stored so."""
        return {key: value.decode(errors="replace") for key, value in self.values.items()}


class _Meta(NamedTuple):
    page_size: int
    root: int
    transaction: int


def read(path: Path) -> Bucket:
    """The root bucket of the file; raises ValueError if it is invalid, or changes too fast."""
    for _ in range(_TRIES):
        data = path.read_bytes()
        meta = _newest_meta(data)
        with path.open("rb") as again:
            later = _newest_meta(again.read(2 * meta.page_size))
        if later.transaction - meta.transaction < 2:
            return _bucket(data, meta.page_size, meta.root)
    raise ValueError(f"{path} changes faster than it can be read")


def _newest_meta(data: bytes) -> _Meta:
    found = []
    size = 4096
    for position in (0, None):
        start = (size if position is None else position) + _PAGE_HEADER.size
        if len(data) < start + _META.size:
            continue
        magic, _, page_size, _, root, _, _, _, transaction, checksum = _META.unpack_from(data, start)
        if magic == _MAGIC:
            size = page_size
            if checksum == _fnv1a(data[start : start + _META.size - 8]):
                found.append(_Meta(page_size, root, transaction))
    if not found:
        raise ValueError("no valid bbolt meta page")
    return max(found, key=lambda meta: meta.transaction)


def _fnv1a(data: bytes) -> int:
    value = 0xCBF29CE484222325
    for byte in data:
        value = ((value ^ byte) * 0x100000001B3) & 0xFFFFFFFFFFFFFFFF
    return value


def _bucket(data: bytes, page_size: int, root: int) -> Bucket:
    bucket = Bucket()
    _walk(data, page_size, root * page_size, bucket)
    return bucket


def _walk(data: bytes, page_size: int, page: int, into: Bucket) -> None:
    """Add the contents of the page at this byte offset, and of the pages below it."""
    _, flags, count, _ = _PAGE_HEADER.unpack_from(data, page)
    elements = page + _PAGE_HEADER.size
    if flags & _BRANCH:
        for number in range(count):
            at = elements + number * _BRANCH_ELEMENT.size
            _, _, below = _BRANCH_ELEMENT.unpack_from(data, at)
            _walk(data, page_size, below * page_size, into)
    elif flags & _LEAF:
        for number in range(count):
            _leaf(data, page_size, elements + number * _LEAF_ELEMENT.size, into)
    else:
        raise ValueError(f"neither branch nor leaf: page at {page} has flags {flags:#x}")


def _leaf(data: bytes, page_size: int, at: int, into: Bucket) -> None:
    flags, position, key_size, value_size = _LEAF_ELEMENT.unpack_from(data, at)
    start = at + position
    key = data[start : start + key_size].decode(errors="replace")
    value = start + key_size
    if not flags & _IS_BUCKET:
        into.values[key] = data[value : value + value_size]
        return
    root, _ = _BUCKET_HEADER.unpack_from(data, value)
    if root:
        into.buckets[key] = _bucket(data, page_size, root)
    else:  # a small bucket is a page inside the value
        into.buckets[key] = Bucket()
        _walk(data, page_size, value + _BUCKET_HEADER.size, into.buckets[key])

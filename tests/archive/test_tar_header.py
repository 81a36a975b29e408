"""Tar headers: the digests are those of what Go's archive/tar 1.26 wrote for the same members."""

from __future__ import annotations

import hashlib
import io
import tarfile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyctrd.archive.tar_header import BLOCK, END, header, padding

HEX = "ab" * 64
GO = [
    ("blobs/", 0o755, 0, "9496e2bde6463ea163f87ae6a48dd4dc2728d9f896d38503dce3cb6d7635ff52"),
    ("blobs/sha256/", 0o755, 0, "1a69d1a3e15a7f90c3f0c4c84d1fdc268a7c76bc19d5e5ef2ea76394144e5b83"),
    (
        f"blobs/sha256/{HEX[:64]}",
        0o444,
        1234,
        "56493db9b244c2abd912f167947ecd11172b9f3d801af54b827f96131db1d91f",
    ),
    ("index.json", 0o644, 2**33 - 1, "cf628d7d52105d4fa5d3ecc8a1ec02afefbd7bae37c062028392b5b8dcba7e2e"),
    ("oci-layout", 0o444, 30, "865843c50ba418a4596ae3a8b23dd6b46078f44131acecac58776c1b51f4e082"),
    # 8 GiB and more need a PAX record; a sha384 name is split into prefix and name; a sha512 name needs PAX.
    (
        f"blobs/sha256/{HEX[:64]}",
        0o444,
        2**33,
        "39710ed5df7ca3498fcd4be9b1c3d45585c88516ad5381bc211aade0b6c5030b",
    ),
    (
        f"blobs/sha384/{HEX[:96]}",
        0o444,
        77,
        "59026422e3dc5a413d5560eeeaa09d2cd048bee2d4d6e74b0ee777dfe3e6ed0a",
    ),
    (
        f"blobs/sha384/{HEX[:96]}",
        0o444,
        2**40,
        "62ad344e6e7f57e332ffa3eb6b2ae625a8144a8aef15d1f17375689247315568",
    ),
    (f"blobs/sha512/{HEX}", 0o444, 77, "8b9dffa2c4489e5fa8b7c5aa0b758772d466feb80699831b70fdb05facfb54ed"),
    (f"blobs/sha512/{HEX}", 0o444, 2**40, "542bbfa3165ba09544370a5393c0ae5a35d065776b7ca79a1dbd8712ae2c5be5"),
]


@pytest.mark.parametrize(("name", "mode", "size", "digest"), GO)
def test_bytes_equal_those_of_go(name: str, mode: int, size: int, digest: str) -> None:
    assert hashlib.sha256(header(name, mode, size)).hexdigest() == digest


@given(
    algorithm=st.sampled_from([("sha256", 64), ("sha384", 96), ("sha512", 128)]),
    size=st.integers(0, 2**60),
    mode=st.sampled_from([0o444, 0o644]),
)
def test_the_standard_library_reads_every_header(algorithm: tuple[str, int], size: int, mode: int) -> None:
    name = f"blobs/{algorithm[0]}/{HEX[: algorithm[1]]}"
    raw = header(name, mode, size)
    assert len(raw) % BLOCK == 0
    with tarfile.open(fileobj=io.BytesIO(raw + END), mode="r|") as tar:
        found = tar.next()
    assert found is not None
    assert (found.name, found.size, found.mode, found.mtime, found.isfile()) == (name, size, mode, 0, True)


@given(st.integers(0, 2**40))
def test_padding_fills_the_last_block(size: int) -> None:
    assert (size + len(padding(size))) % BLOCK == 0
    assert len(padding(size)) < BLOCK

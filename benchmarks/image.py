"""Images for measurements: real programs, which compress like most layers; random bytes do not."""

from __future__ import annotations

import gzip
import hashlib
import io
import itertools
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from integration.rig import peers
from tests.support import images
from tests.support.images import Graph, Layer

_END = bytes(1024)


class _Packed(NamedTuple):
    """A file padded for tar, and the same as a gzip member."""

    name: str
    size: int
    plain: bytes
    packed: bytes


def programs(size: int, layers: int = 4) -> Graph:
    """Return an image of about `size` compressed bytes in equal layers of the peers' programs."""
    files = [_pack(path) for path in _binaries()]
    made = [_layer(files, size // layers, number) for number in range(layers)]
    return images.manifest(images.config(made), made)


def _binaries() -> Iterator[Path]:
    daemon = peers.containerd(peers.NEWEST)
    yield from (daemon.containerd, daemon.ctr, daemon.bin_dir / "containerd-shim-runc-v2")
    yield peers.tool("docker-registry")


def _pack(path: Path) -> _Packed:
    data = path.read_bytes()
    plain = data + bytes(-len(data) % 512)
    return _Packed(path.name, len(data), plain, gzip.compress(plain, 6, mtime=0))


def _layer(files: list[_Packed], size: int, number: int) -> Layer:
    """Return a layer of gzip members, one per file: a valid stream, and each file is compressed only once."""
    packed, plain = io.BytesIO(), hashlib.sha256()

    def add(data: bytes, member: bytes) -> None:
        plain.update(data)
        packed.write(member)

    for copy, file in enumerate(itertools.cycle(files)):
        if packed.tell() + len(file.packed) > size:
            break
        header = tarfile.TarInfo(f"layer{number}/{copy}/{file.name}")
        header.size, header.mode = file.size, 0o755
        block = header.tobuf(tarfile.USTAR_FORMAT)
        add(block, gzip.compress(block, mtime=0))
        add(file.plain, file.packed)
    add(_END, gzip.compress(_END, mtime=0))
    return Layer(packed.getvalue(), images.OCI_LAYER + "+gzip", {}, f"sha256:{plain.hexdigest()}")

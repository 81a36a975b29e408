"""Images for measurements: incompressible data, and programs, which compress like most layers."""

from __future__ import annotations

import gzip
import hashlib
import io
import itertools
import random
import tarfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, NamedTuple

from integration.rig import peers
from tests.support import images, shapes
from tests.support.images import Graph, Layer
from tests.support.loading import entry, layout
from tests.support.tars import tar_of

KIB: Final = 1 << 10
MIB: Final = 1 << 20
_END: Final = bytes(1024)
_PIECE: Final = MIB


class Shape(NamedTuple):
    """An image to measure with: `make` gets the number of layers, and the size of each in bytes."""

    name: str
    words: str
    layers: int
    size: int
    make: Callable[[int, int], Graph]

    def described(self, scale: float) -> str:
        """Describe the image, e.g. "4 × 128 MiB"."""
        size = self.layer_size(scale)
        amount = f"{size / MIB:.3g} MiB" if size >= MIB else f"{size / KIB:.3g} KiB"
        return f"{self.layers} × {amount} of {self.words}"

    def layer_size(self, scale: float) -> int:
        """Return the size of a layer in bytes."""
        return max(int(self.size * scale), 4 * KIB)

    def graph(self, scale: float) -> Graph:
        """Make the image."""
        return self.make(self.layers, self.layer_size(scale))


def incompressible(layers: int, size: int) -> Graph:
    """Return an image of random bytes, the same in every run."""
    made = []
    for number in range(layers):
        source = random.Random(number)
        data = b"".join(source.randbytes(min(MIB, size - start)) for start in range(0, size, MIB))
        tar = images.tar_of({f"data/{number}.bin": data})
        # Any level stores such data as it is, but the others take long to find that out.
        packed = zlib.compressobj(level=0, wbits=31)
        blob = packed.compress(tar) + packed.flush()
        made.append(Layer(blob, images.OCI_LAYER + "+gzip", {}, images.digest_of(tar)))
    return images.manifest(images.config(made), made)


class _Packed(NamedTuple):
    """A file padded for tar, and the same as a gzip member."""

    name: str
    size: int
    plain: bytes
    packed: bytes


def programs(layers: int, size: int) -> Graph:
    """Return an image of parts of the peers' programs; `size` is that of a compressed layer."""
    source, files = _parts(min(_PIECE, 2 * size)), list[_Packed]()
    made = [_layer(files, source, size, number) for number in range(layers)]
    return images.manifest(images.config(made), made)


def _parts(size: int) -> Iterator[_Packed]:
    daemon = peers.containerd(peers.NEWEST)
    shim = daemon.bin_dir / "containerd-shim-runc-v2"
    for path in (daemon.containerd, daemon.ctr, shim, peers.tool("docker-registry")):
        with path.open("rb") as file:
            for number in itertools.count():
                data = file.read(size)
                if not data:
                    break
                plain = data + bytes(-len(data) % 512)
                packed = gzip.compress(plain, 6, mtime=0)
                yield _Packed(f"{path.name}.{number}", len(data), plain, packed)


def _layer(files: list[_Packed], source: Iterator[_Packed], size: int, number: int) -> Layer:
    """Return a layer of gzip members, one per file: a valid stream, and each file is compressed only once.

    The files are `files`, then those of `source`, which are added to `files`, then the first ones again.
    """
    packed, plain = io.BytesIO(), hashlib.sha256()

    def add(data: bytes, member: bytes) -> None:
        plain.update(data)
        packed.write(member)

    def add_header(header: tarfile.TarInfo) -> None:
        block = header.tobuf(tarfile.USTAR_FORMAT)
        add(block, gzip.compress(block, mtime=0))

    def add_folder(name: str) -> None:
        header = tarfile.TarInfo(name)
        header.type, header.mode = tarfile.DIRTYPE, 0o755
        add_header(header)

    add_folder(f"layer{number}")
    for place in itertools.count():
        if place == len(files):
            files.extend(itertools.islice(source, 1))
        file = files[place % len(files)]
        if place and packed.tell() + len(file.packed) > size:
            break
        folder = f"layer{number}/{place // len(files)}"
        if place % len(files) == 0:
            add_folder(folder)
        header = tarfile.TarInfo(f"{folder}/{file.name}")
        header.size, header.mode = file.size, 0o755
        add_header(header)
        add(file.plain, file.packed)
    add(_END, gzip.compress(_END, mtime=0))
    return Layer(packed.getvalue(), images.OCI_LAYER + "+gzip", {}, f"sha256:{plain.hexdigest()}")


SHAPES: Final = {
    shape.name: shape
    for shape in (
        Shape("large", "incompressible data", 4, 128 * MIB, incompressible),
        Shape("small", "incompressible data", 60, 256 * KIB, incompressible),
        Shape("programs", "programs", 4, 64 * MIB, programs),
        Shape("gib", "incompressible data", 1, 1024 * MIB, incompressible),
        Shape("layer", "incompressible data", 1, 96 * MIB, incompressible),
    )
}


def scaled(number: int, scale: float) -> int:
    """Return a number of images, scaled, and at least 3."""
    return max(round(number * scale), 3)


def many_name(number: int) -> str:
    """Return the name of an image of `write_many`."""
    return f"registry.example/bench/{number}:latest"


def write_many(count: int, file: Path) -> None:
    """Write an archive of so many images of three small layers, which share nothing."""
    graphs = [shapes.single(layers=3, salt=f"{number} ") for number in range(count)]
    entries = [entry(graph, many_name(number)) for number, graph in enumerate(graphs)]
    blobs = {digest: data for graph in graphs for digest, data in graph.blobs.items()}
    file.write_bytes(tar_of(layout(*entries, blobs=blobs)))

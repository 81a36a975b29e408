"""Images whose layers need everything that overlayfs and the tars of layers can express."""

from __future__ import annotations

import io
import itertools
import subprocess
import tarfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from tests.support import images
from tests.support.images import Graph, Layer

# cap_net_bind_service=ep, as the kernel stores it.
_CAPABILITY: Final = "\x01\x00\x00\x02\x00\x04\x00\x00" + "\x00" * 12


_numbers = itertools.count()


class Tar:
    """A tar whose entries are written exactly as given: no folder is added."""

    def __init__(self) -> None:
        self._buffer = io.BytesIO()
        self._tar = tarfile.open(fileobj=self._buffer, mode="w", format=tarfile.PAX_FORMAT)  # noqa: SIM115
        self._time = 1_600_000_000

    def add(
        self,
        name: str,
        data: bytes = b"",
        *,
        kind: bytes = tarfile.REGTYPE,
        mode: int = 0o644,
        owner: tuple[int, int] = (0, 0),
        target: str = "",
        device: tuple[int, int] = (0, 0),
        xattrs: Mapping[str, str] | None = None,
    ) -> Tar:
        """Add an entry; each has a time of its own."""
        info = tarfile.TarInfo(name)
        self._time += 10
        info.type, info.mode, info.mtime, info.linkname, info.size = kind, mode, self._time, target, len(data)
        info.uid, info.gid = owner
        info.devmajor, info.devminor = device
        info.pax_headers = {f"SCHILY.xattr.{key}": value for key, value in (xattrs or {}).items()}
        self._tar.addfile(info, io.BytesIO(data))
        return self

    def folder(self, name: str, mode: int = 0o755, **how: object) -> Tar:
        """Add a folder."""
        return self.add(name, kind=tarfile.DIRTYPE, mode=mode, **how)  # type: ignore[arg-type]

    def link(self, name: str, target: str) -> Tar:
        """Add a symbolic link."""
        return self.add(name, kind=tarfile.SYMTYPE, mode=0o777, target=target)

    def hard_link(self, name: str, target: str) -> Tar:
        """Add a hard link."""
        return self.add(name, kind=tarfile.LNKTYPE, target=target)

    def bytes(self) -> bytes:
        """Return the tar."""
        self._tar.close()
        return self._buffer.getvalue()


def _base() -> Tar:
    """A lowest layer, different each time: folders with unusual attributes, files, and links."""
    return (
        Tar()
        .add("number", str(next(_numbers)).encode())
        .folder("etc")
        .add("etc/one", b"one", owner=(1, 2))
        .add("etc/two", b"two")
        .folder("tmp", 0o1777)
        .folder("srv", 0o2750, owner=(1000, 2000), xattrs={"user.srv": "yes"})
        .folder("srv/data", 0o700, owner=(3000, 3000))
        .add("srv/data/old", b"old")
        .folder("usr")
        .folder("usr/lib", 0o711)
        .add("usr/lib/a.so", b"a", mode=0o755)
        .link("lib", "usr/lib")
    )


def _image(*tars: Tar | bytes, compressions: Sequence[str] = ()) -> Graph:
    data = [tar.bytes() if isinstance(tar, Tar) else tar for tar in tars]
    kinds = compressions or ["gzip"] * len(data)
    layers = [images.layer_of_tar(one, compression=kind) for one, kind in zip(data, kinds, strict=True)]
    return _of_layers(layers)


def _of_layers(layers: Sequence[Layer]) -> Graph:
    return images.manifest(images.config(layers), layers)


def _sparse() -> bytes:
    with TemporaryDirectory() as folder:
        path = Path(folder, "sparse")
        with path.open("wb") as file:
            file.seek(300_000)
            file.write(b"middle")
            file.truncate(1_000_000)
        command = [
            "tar",
            "--sparse",
            "--format=posix",
            "--mtime=@1600000000",
            "-cf",
            "-",
            "-C",
            folder,
            "sparse",
        ]
        return subprocess.run(command, check=True, capture_output=True).stdout


def _deep() -> Tar:
    tar, path = Tar(), ""
    for number in range(40):
        path = f"{path}/folder-{number:02}".lstrip("/")
        tar.folder(path)
    return tar.add(f"{path}/{'n' * 200}", b"deep")


def _many() -> Graph:
    layers = [_base()]
    for number in range(29):
        tar = Tar().folder("etc").add(f"etc/file-{number}", str(number).encode())
        if number % 3 == 1:
            tar.add(f"etc/.wh.file-{number - 1}")
        layers.append(tar)
    return _image(*layers)


def _twice() -> Graph:
    again = Tar().folder("etc").add("etc/again", b"again").add("etc/.wh.one").bytes()
    return _image(_base(), again, Tar().folder("etc").add("etc/one", b"back"), again)


IMAGES: Final[Mapping[str, Callable[[], Graph]]] = {
    "one layer": lambda: _image(_base()),
    "whiteout of files": lambda: _image(
        _base(), Tar().folder("etc").add("etc/.wh.one").add("etc/three", b"3").add(".wh.lib")
    ),
    "whiteout of folders": lambda: _image(
        _base(), Tar().folder("usr").add("usr/.wh.lib").add(".wh.srv"), Tar().folder("srv").add("srv/new")
    ),
    "whiteout without the folder": lambda: _image(_base(), Tar().add("srv/data/.wh.old"), Tar()),
    "whiteouts in the lowest layer": lambda: _image(
        Tar().folder("a").add("a/b").add("a/.wh.b").add("a/.wh.c").folder("d").add("d/.wh..wh..opq"), _base()
    ),
    "opaque folders": lambda: _image(
        _base(),
        Tar().folder("etc").add("etc/before", b"1").add("etc/.wh..wh..opq").add("etc/after", b"2"),
        Tar().folder("srv", 0o700).folder("srv/data").add("srv/data/.wh..wh..opq").add("srv/data/more", b"3"),
    ),
    "hard links": lambda: _image(
        _base().hard_link("etc/same", "etc/one").hard_link("tmp/same", "etc/same"),
        Tar().folder("opt").add("opt/x", b"x").hard_link("opt/y", "opt/x").hard_link("opt/z", "opt/y"),
    ),
    "hard links and whiteouts of some": lambda: _image(
        _base().hard_link("tmp/same", "etc/one"),
        Tar().folder("tmp", 0o1777).add("tmp/.wh.same").folder("etc").add("etc/one", b"other"),
    ),
    "changed attributes of parents": lambda: _image(
        _base(),
        Tar().folder("srv", 0o777, owner=(7, 8)).folder("srv/data").add("srv/data/new", b"new"),
        Tar().folder("srv", 0o1700).add("srv/last", b"last"),
    ),
    "files without their folders": lambda: _image(
        _base(),
        Tar().add("tmp/file", b"1").add("srv/data/file", b"2").add("brand/new/file", b"3"),
        Tar().folder("etc").add("etc/three", b"3"),
        Tar().add("srv/file", b"4").add("brand/new/other", b"5"),
    ),
    "links as parents": lambda: _image(
        _base(),
        Tar().add("lib/b.so", b"b"),
        Tar().link("bin", "usr/bin").folder("usr").folder("usr/bin").add("bin/tool", b"t", mode=0o755),
    ),
    "special modes and owners": lambda: _image(
        _base(),
        Tar()
        .folder("bin", 0o755)
        .add("bin/su", b"su", mode=0o4755)
        .add("bin/wall", b"wall", mode=0o2755, owner=(0, 5))
        .add("bin/none", b"", mode=0)
        .add("bin/far", b"far", owner=(2_000_000_000, 65_534))
        .folder("bin/sticky", 0o3775, owner=(65_534, 100_000)),
    ),
    "extended attributes": lambda: _image(
        _base(),
        Tar()
        .folder("bin", xattrs={"user.folder": "földer"})
        .add("bin/ping", b"ping", mode=0o755, xattrs={"security.capability": _CAPABILITY})
        .add("bin/two", b"2", xattrs={"user.a": "1", "user.b": "2\n", "trusted.c": "3"}),
    ),
    "devices and pipes": lambda: _image(
        _base(),
        Tar()
        .folder("dev")
        .add("dev/null", kind=tarfile.CHRTYPE, mode=0o666, device=(1, 3))
        .add("dev/disk", kind=tarfile.BLKTYPE, mode=0o660, device=(8, 17), owner=(0, 6))
        .add("dev/pipe", kind=tarfile.FIFOTYPE, mode=0o622)
        .link("dev/nowhere", "/does/not/exist"),
    ),
    "sparse files": lambda: _image(_base(), _sparse()),
    "empty layers": lambda: _image(Tar(), _base(), Tar(), Tar(), Tar().folder("etc").add("etc/.wh.two")),
    "the same layer twice": _twice,
    "30 layers": _many,
    "zstd and uncompressed": lambda: _image(
        _base(),
        Tar().folder("etc").add("etc/.wh.one"),
        Tar().folder("etc").add("etc/one", b"again"),
        compressions=["zstd", "", "zstd"],
    ),
    "deep paths": lambda: _image(_base(), _deep(), Tar().folder("folder-00").add("folder-00/.wh.folder-01")),
    "names": lambda: _image(
        _base(),
        Tar()
        .folder("ünïcode")
        .add("ünïcode/日本語", b"1")
        .add("ünïcode/with space\tand tab", b"2")
        .add("ünïcode/.wh.gone")
        .add("ünïcode/.where", b"3")
        .add("./dots/../dots/./file", b"4"),
    ),
    "files become folders": lambda: _image(
        _base(),
        Tar().folder("etc").folder("etc/one", 0o700).add("etc/one/inside", b"i"),
        Tar().folder("srv").add("srv/data", b"a file now").add("usr", b"so is this"),
        Tar().folder("usr").folder("usr/lib").add("usr/lib/new", b"new").link("etc", "usr"),
    ),
}


def linked_to_a_lower_layer() -> Graph:
    """An image with a hard link to a file of a lower layer, which only snapshotters that copy it can make."""
    return _image(_base(), Tar().folder("etc").hard_link("etc/same", "etc/one"), Tar().folder("opt"))


def on_the_same_base() -> tuple[Graph, Graph]:
    """Two images with the same two lowest layers, and three more of their own."""
    common = [_base(), Tar().folder("etc").add("etc/common")]
    data = [tar.bytes() for tar in common]
    own = [[Tar().folder("opt").add(f"opt/{name}-{n}").bytes() for n in range(3)] for name in "ab"]
    return _image(*data, *own[0]), _image(*data, *own[1])

"""Everything about the files of a snapshot that a container could see, as values that can be compared."""

from __future__ import annotations

import hashlib
import os
import stat
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from pyctrd.containerd import Daemon


class Entry(NamedTuple):
    """A file; `time` is -1 if it was written just now, and `links` are all the paths of its inode."""

    mode: str
    owner: tuple[int, int]
    time: int
    device: int
    size: int
    content: str
    links: tuple[str, ...]
    xattrs: tuple[tuple[str, bytes], ...]


Tree = dict[str, Entry]


def tree_of(folder: Path, since: float) -> Tree:
    """Return what is below a folder, and the folder itself; later times than `since` are all the same."""
    walk = os.walk(folder)
    below = [Path(above, name) for above, inner, files in walk for name in (*inner, *files)]
    # overlayfs lists a whiteout that hides nothing, but does not find it.
    paths = [folder, *(path for path in below if os.path.lexists(path))]
    inodes: dict[int, list[str]] = {}
    for path in paths:
        inodes.setdefault(path.lstat().st_ino, []).append(str(path.relative_to(folder)))
    return {str(path.relative_to(folder)): _entry(path, inodes, since) for path in paths}


def _entry(path: Path, inodes: dict[int, list[str]], since: float) -> Entry:
    found = path.lstat()
    content = ""
    if stat.S_ISREG(found.st_mode):
        content = hashlib.sha256(path.read_bytes()).hexdigest()
    elif stat.S_ISLNK(found.st_mode):
        content = str(path.readlink())
    names = sorted(os.listxattr(path, follow_symlinks=False))
    return Entry(
        mode=stat.filemode(found.st_mode),
        owner=(found.st_uid, found.st_gid),
        time=-1 if found.st_mtime > since else found.st_mtime_ns,
        device=found.st_rdev,
        size=0 if stat.S_ISDIR(found.st_mode) else found.st_size,
        content=content,
        links=tuple(sorted(inodes[found.st_ino])),
        xattrs=tuple((name, os.getxattr(path, name, follow_symlinks=False)) for name in names),
    )


def trees_of(daemon: Daemon, snapshotter: str, top: str, folder: Path, since: float) -> list[Tree]:
    """Return what a container on a snapshot sees, and each layer as it is stored, from top to bottom."""
    with daemon.lease("test") as leased:
        key = f"view-{time.monotonic_ns()}"
        (mount,) = leased.snapshots.prepare(snapshotter, key, top)
        if mount.type == "bind":
            return [tree_of(Path(mount.source), since)]
        lower = next(one for one in mount.options if one.startswith("lowerdir="))
        layers = [Path(one) for one in lower.removeprefix("lowerdir=").split(":")]
        with _mounted(layers, folder) as merged:
            return [tree_of(path, since) for path in (merged, *layers)]


@contextmanager
def _mounted(layers: Sequence[Path], folder: Path) -> Iterator[Path]:
    if len(layers) == 1:
        yield layers[0]
        return
    # Relative paths, since all options of a mount must fit in a page.
    above = layers[0].parent.parent
    options = "ro,lowerdir=" + ":".join(str(path.relative_to(above)) for path in layers)
    subprocess.run(["mount", "-t", "overlay", "overlay", "-o", options, folder], cwd=above, check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", folder], check=True)

"""A disk of a fixed size for a daemon's data, which can be filled up and enlarged."""

from __future__ import annotations

import subprocess
from pathlib import Path
from types import TracebackType

from integration.rig.cache import PeerUnavailable
from integration.rig.process import unmount_below


class SmallDisk:
    """A file system of `size` bytes in memory, mounted at `place`; a context manager. Needs root.

    It is also faster than a disk that has to sync.
    """

    def __init__(self, place: Path, size: int) -> None:
        self.place = place
        self._size = size

    def __enter__(self) -> SmallDisk:
        self.place.mkdir(parents=True, exist_ok=True)
        self._mount(f"size={self._size}")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        unmount_below(self.place)
        subprocess.run(["umount", "-l", self.place], check=True, capture_output=True)

    def resize(self, size: int) -> None:
        """Resize the disk, in bytes, while it is in use."""
        self._mount(f"remount,size={size}")

    def _mount(self, options: str) -> None:
        command: list[str | Path] = ["mount", "-t", "tmpfs", "-o", options, "pyctrd-rig", self.place]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise PeerUnavailable(f"a disk in memory: {done.stderr.strip()}")

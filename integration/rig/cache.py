"""The cache directory of the peers, whose entries are created atomically."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path


class PeerUnavailable(Exception):
    """A peer is unavailable or cannot be started on this machine; the message says why."""


def cache_dir() -> Path:
    """Where downloads go: $PYCTRD_CACHE, else $XDG_CACHE_HOME/pyctrd, else ~/.cache/pyctrd."""
    if own := os.environ.get("PYCTRD_CACHE"):
        return Path(own)
    if xdg := os.environ.get("XDG_CACHE_HOME"):
        return Path(xdg) / "pyctrd"
    return Path.home() / ".cache" / "pyctrd"


def peers_dir() -> Path:
    """The peers' subfolder of the cache, created if missing."""
    path = cache_dir() / "peers"
    path.mkdir(parents=True, exist_ok=True)
    return path


@contextmanager
def lock(name: str) -> Iterator[None]:
    """Hold the lock file `name`, so that a second test run waits instead of unpacking the same peer."""
    folder = peers_dir() / "locks"
    folder.mkdir(exist_ok=True)
    with (folder / name.replace("/", "_")).open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def entry(name: str, fill: Callable[[Path], None]) -> Path:
    """The cache entry `name`, created by `fill(empty folder)` on first use.

    The entry appears by one rename, so an interrupted download never looks like a finished one.
    """
    final = peers_dir() / name
    if final.exists():
        return final
    with lock(name):
        if final.exists():  # another process created it while we waited
            return final
        final.parent.mkdir(parents=True, exist_ok=True)
        half = Path(tempfile.mkdtemp(prefix=f".{final.name}.", dir=final.parent))
        try:
            fill(half)
            half.chmod(0o755)
            half.rename(final)
        finally:
            shutil.rmtree(half, ignore_errors=True)
    return final

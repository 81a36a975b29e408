"""Damage content on disk under a running containerd: change or remove bytes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from integration.rig.containerd import Containerd


def blob_file(containerd: Containerd, digest: str) -> Path:
    """Return the path of a blob in a local content store."""
    (found,) = containerd.root.rglob(f"blobs/sha256/{digest.partition(':')[2]}")
    return found


def altered(data: bytes) -> bytes:
    return bytes([data[0] ^ 1]) + data[1:]


def truncated(data: bytes) -> bytes:
    return data[: len(data) // 2]


def spoil(containerd: Containerd, digest: str, how: Callable[[bytes], bytes]) -> None:
    file = blob_file(containerd, digest)
    data = file.read_bytes()
    file.chmod(0o644)
    file.write_bytes(how(data))

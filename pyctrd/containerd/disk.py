"""The file system that containerd stores content on, if it is on this machine."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Final

from pyctrd.errors import Unsupported
from pyctrd.oci.resources import DiskSpace

if TYPE_CHECKING:
    from pyctrd.containerd import Daemon

_CONTENT_PLUGIN: Final = "io.containerd.content.v1"
# Below containerd's root (plugins/services/introspection/local.go uuidPath).
_UUID: Final = "io.containerd.grpc.v1.introspection/uuid"


def disk_space(daemon: Daemon) -> DiskSpace:
    """Return the size and the free bytes of the file system with containerd's content.

    Raises Unsupported if containerd's folder cannot be seen from here: it is on another machine whose socket
    is forwarded, or in a container.
    """
    plugins = daemon.introspection.plugins([f"type=={_CONTENT_PLUGIN}"])
    root = next((plugin.exports["root"] for plugin in plugins if plugin.exports.get("root")), "")
    if not root:
        raise _unknown("it does not say where its content is")
    identity = daemon.introspection.server_uuid()
    try:
        status = os.statvfs(root)
        found = _identity(Path(root).parent)
    except OSError as error:
        raise _unknown(f"{root}: {error.strerror}") from error
    if found and found != identity:
        raise _unknown(f"{root} on this machine belongs to another containerd")
    return DiskSpace(
        root=root, bytes=status.f_blocks * status.f_frsize, bytes_free=status.f_bavail * status.f_frsize
    )


def _identity(root: Path) -> str:
    """Return the UUID that the containerd with this root has; empty if this user may not read it."""
    try:
        return (root / _UUID).read_text().strip()
    except PermissionError:
        return ""


def _unknown(reason: str) -> Unsupported:
    return Unsupported(
        f"the free disk space of containerd is not known: {reason}",
        code="UNIMPLEMENTED",
        kind="disk",
        name="free space",
        hint="run it on containerd's machine, or choose images by their age or number instead",
    )

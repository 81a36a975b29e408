"""Snapshots: the snapshots of one namespace, as `client.snapshots`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from pyctrd import arguments
from pyctrd.connection import Working
from pyctrd.containerd import Daemon
from pyctrd.oci.model import Mount, SnapshotInfo
from pyctrd.operations import snapshots as _snapshots
from pyctrd.operations.snapshots import SnapshotLevel, SnapshotSize

if TYPE_CHECKING:
    import threading


class Snapshots:
    """The snapshots of one namespace, as `client.snapshots`.

    Methods with a `snapshotter` use the client's if it is None, and raise Unsupported if it is not loaded. A
    `key` is the name of a snapshot: for an unpacked layer its chain id, for a container usually its id.
    """

    def __init__(self, working: Working) -> None:
        self._working = working

    def snapshotters(self) -> tuple[str, ...]:
        """Return the names of the snapshotters that containerd has loaded."""
        with self._working() as (daemon, _):
            return tuple(daemon.introspection.snapshotters())

    def list(
        self, snapshotter: str | None = None, filters: str | Iterable[str] = ()
    ) -> tuple[SnapshotInfo, ...]:
        """Return the snapshots that match any of the filters, or all of them, sorted by name."""
        wanted = arguments.texts("filters", filters)
        with self._working() as (daemon, _):
            found = daemon.snapshots.list(_chosen(daemon, snapshotter), wanted)
            return tuple(sorted(found, key=lambda snapshot: snapshot.name))

    def usage(
        self,
        keys: str | Iterable[str] = (),
        *,
        snapshotter: str | None = None,
        cancel: threading.Event | None = None,
    ) -> tuple[SnapshotSize, ...]:
        """Return the disk space of snapshots, by default of all, each without its parents.

        For an active snapshot, the snapshotter reads its folder. Raises NotFound.
        """
        wanted = arguments.texts("keys", keys)
        with self._working(cancel) as (daemon, _):
            return _snapshots.sizes(daemon, _chosen(daemon, snapshotter), wanted)

    def tree(self, snapshotter: str | None = None) -> tuple[SnapshotLevel, ...]:
        """Return all snapshots, each followed by its children, with their depth."""
        with self._working() as (daemon, _):
            return _snapshots.tree(daemon, _chosen(daemon, snapshotter))

    def mounts(self, key: str, *, snapshotter: str | None = None) -> tuple[Mount, ...]:
        """Return the mounts that show an active snapshot or a view. Raises NotFound, FailedPrecondition."""
        wanted = arguments.text("key", key)
        with self._working() as (daemon, _):
            return _snapshots.mounts(daemon, _chosen(daemon, snapshotter), wanted)

    def remove(self, keys: str | Iterable[str], *, snapshotter: str | None = None) -> tuple[str, ...]:
        """Remove snapshots, children before their parents, and return their keys in this order.

        Raises NotFound before anything is removed, FailedPrecondition for one that has other children.
        """
        wanted = arguments.texts("keys", keys)
        with self._working() as (daemon, _):
            return _snapshots.remove(daemon, _chosen(daemon, snapshotter), wanted)


def _chosen(daemon: Daemon, snapshotter: str | None) -> str:
    return arguments.text("snapshotter", snapshotter) if snapshotter else daemon.default_snapshotter()

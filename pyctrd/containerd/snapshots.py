"""containerd's snapshots service: where layers are unpacked.

Source: containerd api/services/snapshots/v1/snapshots.proto, plugins/services/snapshots/service.go.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager

import grpc

from pyctrd.containerd import convert
from pyctrd.containerd.channel import WORK_SECONDS, Connection
from pyctrd.containerd.introspection import IntrospectionService
from pyctrd.containerd.listing import bounded
from pyctrd.errors import DaemonError
from pyctrd.oci.model import Mount, SnapshotInfo
from pyctrd.oci.resources import SnapshotUsage
from pyctrd.protos.services.snapshots.v1 import snapshots_pb2, snapshots_pb2_grpc

_KIND = "snapshot"
_OVERLAYFS = "overlayfs"
# containerd core/snapshots/snapshotter.go RebaseCap; since 2.3 only outside of user namespaces.
_REBASE = "rebase"


class SnapshotService:
    """Implements ports.SnapshotStore. Every call raises Unsupported if the snapshotter is not loaded."""

    def __init__(
        self, connection: Connection, introspection: IntrospectionService, default: Callable[[], str]
    ) -> None:
        self._connection = connection
        self._introspection = introspection
        self._default = default
        self._stub = snapshots_pb2_grpc.SnapshotsStub(connection.channel)

    @contextmanager
    def _calling(self, snapshotter: str, name: str) -> Iterator[str]:
        """Provide the snapshotter's name for a call, and translate its errors."""
        snapshotter = snapshotter or self._default()
        try:
            with self._connection.calling(_KIND, name):
                yield snapshotter
        except DaemonError as error:
            if error.code == grpc.StatusCode.INVALID_ARGUMENT.name:
                self._introspection.require_snapshotter(snapshotter)
            raise

    def stat(self, snapshotter: str, name: str) -> SnapshotInfo:
        """Return a snapshot. Raises NotFound."""
        with self._calling(snapshotter, name) as chosen:
            answer = self._stub.Stat(snapshots_pb2.StatSnapshotRequest(snapshotter=chosen, key=name))
        return convert.to_snapshot_info(answer.info)

    def prepare(
        self, snapshotter: str, key: str, parent: str, labels: Mapping[str, str] | None = None
    ) -> Sequence[Mount]:
        """Create an active snapshot on a parent ("": none) and return its mounts. Raises AlreadyExists."""
        with self._calling(snapshotter, key) as chosen:
            request = snapshots_pb2.PrepareSnapshotRequest(
                snapshotter=chosen, key=key, parent=parent, labels=labels
            )
            answer = self._stub.Prepare(request, timeout=WORK_SECONDS)
        return convert.to_mounts(answer.mounts)

    def can_rebase(self, snapshotter: str) -> bool:
        """Whether a snapshot without parent can get one at the commit, and can be extracted before.

        containerd 2.2 and later have the capability, which earlier ones lack; they ignore the parent. erofs
        has it as well, but needs a differ that a client cannot choose.
        """
        chosen = snapshotter or self._default()
        return chosen == _OVERLAYFS and _REBASE in self._introspection.capabilities(chosen)

    def commit(
        self,
        snapshotter: str,
        name: str,
        key: str,
        labels: Mapping[str, str] | None = None,
        *,
        parent: str = "",
    ) -> None:
        """Commit the active snapshot `key` as `name`. Raises AlreadyExists.

        A snapshot without parent gets `parent` now, if the snapshotter can rebase; else it is ignored. Raises
        NotFound if the parent does not exist.
        """
        with self._calling(snapshotter, name) as chosen:
            request = snapshots_pb2.CommitSnapshotRequest(
                snapshotter=chosen, name=name, key=key, labels=labels, parent=parent
            )
            self._stub.Commit(request, timeout=WORK_SECONDS)

    def remove(self, snapshotter: str, key: str) -> None:
        """Remove a snapshot. Raises NotFound, FailedPrecondition while it has children."""
        with self._calling(snapshotter, key) as chosen:
            request = snapshots_pb2.RemoveSnapshotRequest(snapshotter=chosen, key=key)
            self._stub.Remove(request, timeout=WORK_SECONDS)

    def usage(self, snapshotter: str, name: str) -> SnapshotUsage:
        """Return the disk space of one snapshot, without its parents. Raises NotFound."""
        with self._calling(snapshotter, name) as chosen:
            request = snapshots_pb2.UsageRequest(snapshotter=chosen, key=name)
            answer = self._stub.Usage(request, timeout=WORK_SECONDS)
        return SnapshotUsage(bytes=answer.size, inodes=answer.inodes)

    def mounts(self, snapshotter: str, key: str) -> Sequence[Mount]:
        """Return the mounts of an active snapshot or a view. Raises NotFound."""
        with self._calling(snapshotter, key) as chosen:
            answer = self._stub.Mounts(snapshots_pb2.MountsRequest(snapshotter=chosen, key=key))
        return convert.to_mounts(answer.mounts)

    def list(self, snapshotter: str, filters: Sequence[str] = ()) -> Generator[SnapshotInfo]:
        """Yield the snapshots of a snapshotter that match any of the filters, as they arrive."""
        with self._calling(snapshotter, "list") as chosen:
            call = self._stub.List(snapshots_pb2.ListSnapshotsRequest(snapshotter=chosen, filters=filters))
            try:
                for answer in bounded(call, _KIND):
                    yield from map(convert.to_snapshot_info, answer.info)
            finally:
                call.cancel()

"""One containerd, in one namespace: `Daemon` wires the services together."""

from __future__ import annotations

import datetime as dt
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from types import TracebackType
from typing import Self

from pyctrd.containerd.address import resolve_address, resolve_namespace, resolve_snapshotter
from pyctrd.containerd.calls import STALL_SECONDS
from pyctrd.containerd.channel import Connection
from pyctrd.containerd.content import ContentService
from pyctrd.containerd.diff import DiffService
from pyctrd.containerd.images import ImageService
from pyctrd.containerd.introspection import IntrospectionService
from pyctrd.containerd.leases import LeaseService, held_with, lease_labels, lease_lost, new_lease_id
from pyctrd.containerd.namespaces import NamespaceService
from pyctrd.containerd.snapshots import SnapshotService
from pyctrd.containerd.version import DaemonVersion, ask_version
from pyctrd.errors import ContentError, DaemonError, LeaseLost, NotFound, PyctrdError
from pyctrd.oci.errors import IncompleteContent

__all__ = ["STALL_SECONDS", "Daemon"]

# containerd's client takes the snapshotter from this label of the namespace, else this one (client/client.go
# resolveSnapshotterName, defaults/defaults.go); the server itself has no notion of a default.
_SNAPSHOTTER_LABEL = "containerd.io/defaults/snapshotter"
_SNAPSHOTTER = "overlayfs"
# What work fails with when the collector takes things from under it.
_OF_A_LOST_LEASE = (NotFound, IncompleteContent, ContentError, DaemonError)


class Daemon:
    """Implements ports.Store on a real containerd. A context manager; safe to use from several threads."""

    def __init__(self, connection: Connection, snapshotter: str = "") -> None:
        self._connection = connection
        self._snapshotter = snapshotter
        self._default_snapshotter = ""  # once it is known and found to be loaded
        self.content = ContentService(connection)
        self.images = ImageService(connection)
        self.leases = LeaseService(connection)
        self.namespaces = NamespaceService(connection)
        self.introspection = IntrospectionService(connection)
        self.snapshots = SnapshotService(connection, self.introspection, self.default_snapshotter)
        self.diffs = DiffService(connection)

    @classmethod
    def connect(
        cls,
        address: str | None = None,
        namespace: str | None = None,
        *,
        snapshotter: str | None = None,
        environ: Mapping[str, str] = os.environ,
        stall_seconds: float = STALL_SECONDS,
    ) -> Self:
        """Connect to containerd and make sure that it is one.

        The address is a path or `unix://path`. What is None comes from CONTAINERD_ADDRESS,
        CONTAINERD_NAMESPACE and CONTAINERD_SNAPSHOTTER in `environ`, else is containerd's default. Later
        calls, too, raise DaemonUnreachable when the daemon answers nothing for `stall_seconds`. Raises
        DaemonUnreachable with the reason and the next step, InvalidInput for a malformed address or
        namespace.
        """
        path = resolve_address(address, environ)
        connection = Connection.open(path, resolve_namespace(namespace, environ), environ, stall_seconds)
        daemon = cls(connection, resolve_snapshotter(snapshotter, environ))
        try:
            daemon.version()
        except BaseException:
            daemon.close()
            raise
        return daemon

    def elsewhere(self, namespace: str) -> Daemon:
        """Return a view of another namespace, through the same channel."""
        return Daemon(self._connection.elsewhere(namespace))

    def scope(self) -> Daemon:
        """Return a view whose `cancel` ends its own work only, through the same channel."""
        return Daemon(self._connection.scope(), self._snapshotter)

    @property
    def namespace(self) -> str:
        """The namespace of every call."""
        return self._connection.namespace

    @property
    def snapshotter(self) -> str:
        """The snapshotter that the caller chose; empty for the default."""
        return self._snapshotter

    @property
    def address(self) -> str:
        """The path of the socket."""
        return self._connection.path

    def version(self) -> DaemonVersion:
        """Ask who is there; raises DaemonUnreachable unless it is a containerd that answers."""
        return ask_version(self._connection)

    def default_snapshotter(self) -> str:
        """Give the snapshotter to use when none is asked for.

        That of connect, else that of the namespace's label, else containerd's own default. Raises
        Unsupported, with the reason that containerd has, when it is not loaded.
        """
        if not self._default_snapshotter:
            labels = self.namespaces.get(self.namespace).labels
            chosen = self._snapshotter or labels.get(_SNAPSHOTTER_LABEL) or _SNAPSHOTTER
            self.introspection.require_snapshotter(chosen)
            self._default_snapshotter = chosen
        return self._default_snapshotter

    @contextmanager
    def lease(self, purpose: str, *, resumable: bool = False) -> Iterator[Daemon]:
        """Open a lease that expires by itself after 24 hours; the context gives this daemon through it.

        The lease is deleted when the context is left, also by an error. With `resumable` an interrupt
        (KeyboardInterrupt, SystemExit, Cancelled, the end of the client) leaves it to its expiry: containerd
        collects soon after the deletion, and what the next run could go on with would be gone. `purpose` is
        the command, kept as a label for people. Inside a lease this gives the same view again.
        Raises LeaseLost at the end when somebody else deleted the lease meanwhile, or it expired: also
        instead of an error that may well have followed from that.
        """
        if self._connection.lease:
            yield self
            return
        lease_id = new_lease_id()
        labels = lease_labels(purpose, dt.datetime.now(dt.UTC))
        created = False
        with self._connection.working():
            try:
                self.leases.create(lease_id, labels)
                created = True
                yield Daemon(self._connection.leased(lease_id), self._snapshotter)
            except BaseException as error:
                if resumable and (self._connection.is_over or not isinstance(error, Exception)):
                    raise
                there = self._release(lease_id, error)
                if created and not there and isinstance(error, _OF_A_LOST_LEASE):
                    raise self._lost(lease_id, labels, error.message) from error
                raise
            if not self._release(lease_id):
                raise self._lost(lease_id, labels)

    def _release(self, lease_id: str, cause: BaseException | None = None) -> bool:
        """Delete a lease, and tell whether it was there until now.

        When the work under it failed, that error is the one to be seen. A signal that comes in just now must
        not leave the lease behind.
        """
        try:
            self.leases.delete(lease_id)
        except NotFound:
            return False
        except PyctrdError as error:
            if cause is None:
                raise
            cause.add_note(f"the lease {lease_id} was left behind and expires within 24 hours: {error}")
        except BaseException:
            with suppress(PyctrdError):
                self.leases.delete(lease_id)
            raise
        return True

    def _lost(self, lease_id: str, labels: Mapping[str, str], detail: str = "") -> LeaseLost:
        return lease_lost(lease_id, labels, dt.datetime.now(dt.UTC), detail, address=self.address)

    def pin_everything(self) -> None:
        """Put all content of the namespace, and all that its gc labels keep, under the lease of this view."""
        if not self._connection.lease:
            return
        for info in tuple(self.content.list()):
            for resource in held_with(info):
                self.leases.add(self._connection.lease, resource)

    def collect_garbage(self) -> None:
        """Run the garbage collector, and wait for it: a lease's end does, where that is asked for."""
        lease_id = new_lease_id()
        self.leases.create(lease_id, lease_labels("collect garbage", dt.datetime.now(dt.UTC)))
        self.leases.delete(lease_id, sync=True)

    def check_open(self) -> None:
        """Raise Cancelled or ClientClosed after `cancel` or `close`."""
        self._connection.check_open()

    def cancel(self) -> None:
        """End what is under way in any thread, by Cancelled; nothing new can be begun.

        Returns when what was begun has been taken back, after calls.GRACE_SECONDS at the latest.
        """
        self._connection.cancel()

    def close(self) -> None:
        """End what is under way in any thread as `cancel` does, by ClientClosed, and close the channel."""
        self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

"""Daemon: the services of a containerd in one namespace."""

from __future__ import annotations

import datetime as dt
import os
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import cached_property
from types import TracebackType
from typing import TYPE_CHECKING, Self

from pyctrd.containerd.address import (
    LocalSocket,
    Place,
    resolve_address,
    resolve_namespace,
    resolve_snapshotter,
)
from pyctrd.containerd.calls import STALL_SECONDS
from pyctrd.containerd.channel import Connection
from pyctrd.containerd.version import ask_version
from pyctrd.errors import ContentError, DaemonError, LeaseLost, NotFound, PyctrdError, is_interrupt
from pyctrd.oci.errors import IncompleteContent
from pyctrd.oci.model import Digest, Platform
from pyctrd.oci.resources import DaemonVersion, LeaseResource

if TYPE_CHECKING:
    from pyctrd.containerd.containers import ContainerService
    from pyctrd.containerd.content import ContentService
    from pyctrd.containerd.diff import DiffService
    from pyctrd.containerd.events import EventService
    from pyctrd.containerd.images import ImageService
    from pyctrd.containerd.introspection import IntrospectionService
    from pyctrd.containerd.leases import LeaseService
    from pyctrd.containerd.namespaces import NamespaceService
    from pyctrd.containerd.pins import Pins
    from pyctrd.containerd.snapshots import SnapshotService
    from pyctrd.tracing import Tracing

__all__ = ["STALL_SECONDS", "Daemon"]

# containerd's client takes the default snapshotter from this label of the namespace, else this one
# (client/client.go resolveSnapshotterName, defaults/defaults.go); the server itself has no default.
_SNAPSHOTTER_LABEL = "containerd.io/defaults/snapshotter"
_SNAPSHOTTER = "overlayfs"
# The errors that follow when the garbage collector removes content in use.
_LOST_LEASE_ERRORS = (NotFound, IncompleteContent, ContentError, DaemonError)


class Daemon:
    """A containerd, used in one namespace. Implements ports.Containerd. A context manager; thread safe.

    Each service is imported on first use: with its messages, that takes a millisecond, and most
    commands use few of them.
    """

    def __init__(self, connection: Connection, snapshotter: str = "") -> None:
        self._connection = connection
        self._snapshotter = snapshotter
        self._default_snapshotter = ""  # set once it is known to be loaded

    @classmethod
    def connect(
        cls,
        address: str | None = None,
        namespace: str | None = None,
        *,
        snapshotter: str | None = None,
        environ: Mapping[str, str] = os.environ,
        stall_seconds: float = STALL_SECONDS,
        check: Callable[[Daemon], object] = lambda daemon: daemon.version(),
        place: Place | None = None,
        tracing: Tracing | None = None,
    ) -> Self:
        """Connect to containerd, and check that it is one, by `check`.

        The address is a path or `unix://path`. If an argument is None, its value is read from
        CONTAINERD_ADDRESS, CONTAINERD_NAMESPACE or CONTAINERD_SNAPSHOTTER in `environ`, and otherwise is
        containerd's default. Later calls raise DaemonUnreachable if the daemon does not answer for
        `stall_seconds`. `place` explains why it does not, if the socket is forwarded. Raises
        DaemonUnreachable, InvalidInput for a malformed address or namespace.
        """
        path = resolve_address(address, environ)
        place = place or LocalSocket(path, environ)
        connection = Connection.open(
            path, resolve_namespace(namespace, environ), place, stall_seconds, tracing
        )
        daemon = cls(connection, resolve_snapshotter(snapshotter, environ))
        try:
            check(daemon)
        except BaseException:
            daemon.close()
            raise
        return daemon

    @cached_property
    def content(self) -> ContentService:
        """The content store."""
        from pyctrd.containerd.content import ContentService

        return ContentService(self._connection)

    @cached_property
    def images(self) -> ImageService:
        """The image records."""
        from pyctrd.containerd.images import ImageService

        return ImageService(self._connection)

    @cached_property
    def leases(self) -> LeaseService:
        """The leases."""
        from pyctrd.containerd.leases import LeaseService

        return LeaseService(self._connection)

    @cached_property
    def containers(self) -> ContainerService:
        """The containers."""
        from pyctrd.containerd.containers import ContainerService

        return ContainerService(self._connection)

    @cached_property
    def namespaces(self) -> NamespaceService:
        """The namespaces."""
        from pyctrd.containerd.namespaces import NamespaceService

        return NamespaceService(self._connection)

    @cached_property
    def introspection(self) -> IntrospectionService:
        """The introspection service."""
        from pyctrd.containerd.introspection import IntrospectionService

        return IntrospectionService(self._connection)

    @cached_property
    def snapshots(self) -> SnapshotService:
        """The snapshots of every snapshotter."""
        from pyctrd.containerd.snapshots import SnapshotService

        return SnapshotService(self._connection, self.introspection, self.default_snapshotter)

    @cached_property
    def diffs(self) -> DiffService:
        """The diff service."""
        from pyctrd.containerd.diff import DiffService

        return DiffService(self._connection)

    @cached_property
    def events(self) -> EventService:
        """The events of every namespace."""
        from pyctrd.containerd.events import EventService

        return EventService(self._connection)

    @cached_property
    def _pins(self) -> Pins:
        from pyctrd.containerd.pins import Pins

        return Pins(self.content, self.leases, self._connection.lease)

    def in_namespace(self, namespace: str) -> Daemon:
        """Return a daemon for another namespace that shares this channel."""
        return Daemon(self._connection.in_namespace(namespace))

    def under_lease(self, lease_id: str) -> Daemon:
        """Return a daemon under an existing lease that shares this channel."""
        return Daemon(self._connection.leased(lease_id), self._snapshotter)

    def scope(self) -> Daemon:
        """Return a daemon that shares this channel, and whose `cancel` only stops its own calls."""
        return Daemon(self._connection.scope(), self._snapshotter)

    @property
    def namespace(self) -> str:
        """The namespace of all calls."""
        return self._connection.namespace

    @property
    def snapshotter(self) -> str:
        """The snapshotter that the caller chose; empty means the default."""
        return self._snapshotter

    @property
    def address(self) -> str:
        """The path of the socket, or the address of another machine."""
        return self._connection.place.name

    def version(self) -> DaemonVersion:
        """Return the version. Raises DaemonUnreachable if no containerd answers."""
        return ask_version(self._connection)

    def snapshotters(self) -> Sequence[str]:
        """Return the names of the loaded snapshotters."""
        return self.introspection.snapshotters()

    def platform(self) -> Platform | None:
        """Return the platform of containerd's machine, if containerd reports it."""
        return self.introspection.platform()

    def default_snapshotter(self) -> str:
        """Return the default snapshotter: the caller's, the one in the namespace's label, or containerd's.

        Raises Unsupported, with containerd's reason, if it is not loaded.
        """
        if not self._default_snapshotter:
            labels = self.namespaces.get(self.namespace).labels
            chosen = self._snapshotter or labels.get(_SNAPSHOTTER_LABEL) or _SNAPSHOTTER
            self.introspection.require_snapshotter(chosen)
            self._default_snapshotter = chosen
        return self._default_snapshotter

    @contextmanager
    def lease(self, purpose: str, *, resumable: bool = False) -> Iterator[Daemon]:
        """Create a lease that expires after 24 hours; the context manager returns this daemon under it.

        The lease is deleted when the context is left. With `resumable`, an interrupt (KeyboardInterrupt,
        SystemExit, Cancelled, closing the client) leaves it to expire: after a deletion, the garbage
        collector would soon remove what the next run could resume from. `purpose` is the command, stored in a
        label. Under a lease, the context manager returns the daemon itself. Raises LeaseLost at the end if
        another client deleted the lease, or if it expired; also in place of an error that this may have
        caused.
        """
        if self._connection.lease:
            yield self
            return
        from pyctrd.containerd.leases import lease_labels, new_lease_id

        lease_id = new_lease_id()
        labels = lease_labels(purpose, dt.datetime.now(dt.UTC))
        leased = Daemon(self._connection.leased(lease_id), self._snapshotter)
        created = False
        with self._connection.working():
            try:
                self.leases.create(lease_id, labels)
                created = True
                yield leased
            except BaseException as error:
                # A closing client ends its registry connections first, perhaps before `is_over` is set.
                if resumable and (self._connection.is_over or is_interrupt(error)):
                    raise
                existed = self._release(lease_id, error)
                if created and not existed and isinstance(error, _LOST_LEASE_ERRORS):
                    raise self._lost(lease_id, labels, error.message) from error
                raise
            else:
                if not self._release(lease_id):
                    raise self._lost(lease_id, labels)
            finally:
                leased._pins.remove()

    def _release(self, lease_id: str, cause: BaseException | None = None) -> bool:
        """Delete a lease, and return whether it still existed.

        `cause` is the error that ended the work, which takes precedence over one from here. A signal that
        arrives now must not leave the lease behind.
        """
        try:
            self.leases.delete(lease_id)
        except NotFound:
            return False
        except PyctrdError as error:
            if cause is None:
                raise
            cause.add_note(f"the lease {lease_id} could not be deleted and expires within 24 hours: {error}")
        except BaseException:
            with suppress(PyctrdError):
                self.leases.delete(lease_id)
            raise
        return True

    def _lost(self, lease_id: str, labels: Mapping[str, str], detail: str = "") -> LeaseLost:
        from pyctrd.containerd.leases import lease_lost

        return lease_lost(lease_id, labels, dt.datetime.now(dt.UTC), detail, address=self.address)

    def pin(self, digests: Collection[Digest]) -> None:
        """Protect these blobs, with few writes for many, until the current lease ends; absent ones, too."""
        if self._connection.lease:
            self._pins.add([LeaseResource(type="content", id=str(digest)) for digest in digests])

    def pin_everything(self) -> None:
        """Add all content of the namespace, and what its gc labels keep, to the current lease."""
        if not self._connection.lease:
            return
        from pyctrd.containerd.leases import lease_resources

        self._pins.add([item for info in self.content.list() for item in lease_resources(info)])

    def collect_garbage(self) -> None:
        """Run the garbage collector and wait for it, by deleting a lease with `sync`."""
        from pyctrd.containerd.leases import lease_labels, new_lease_id

        lease_id = new_lease_id()
        self.leases.create(lease_id, lease_labels("collect garbage", dt.datetime.now(dt.UTC)))
        self.leases.delete(lease_id, sync=True)

    def check_open(self) -> None:
        """Raise Cancelled or ClientClosed after `cancel` or `close`."""
        self._connection.check_open()

    def cancel(self) -> None:
        """Make calls in progress in all threads raise Cancelled, and refuse new ones.

        Returns when their leases and snapshots are removed, after calls.GRACE_SECONDS at the latest.
        """
        self._connection.cancel()

    def close(self) -> None:
        """Make calls in progress raise ClientClosed, as `cancel` does, and close the channel."""
        self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

"""Client: one containerd and one of its namespaces, and the registries that images come from."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Self

from pyctrd import arguments
from pyctrd.connection import Connection, Working
from pyctrd.containerd.leases import Lease
from pyctrd.containerd.namespaces import Namespace
from pyctrd.containerd.version import DaemonVersion
from pyctrd.images import Images, namespaces_having
from pyctrd.oci.model import ContentInfo, Digest, IngestStatus, SnapshotInfo
from pyctrd.ports import Chunk

if TYPE_CHECKING:
    from pyctrd.registry import RegistryOptions

_MAX_READ_BYTES = 64 << 20


class Client:
    """A containerd and one of its namespaces. A context manager; safe to use from several threads.

    `address` is the socket's path or `unix://path`; what is None comes from CONTAINERD_ADDRESS,
    CONTAINERD_NAMESPACE and CONTAINERD_SNAPSHOTTER, else is containerd's own default
    (`/run/containerd/containerd.sock`, `default`, the server's snapshotter). `registry` says how to talk to
    registries. Nothing is connected to before the first call: containerd when it is needed, a registry only
    when something has to be fetched from it or sent to it.

    Raises InvalidInput for a malformed address, namespace or snapshotter. Every method raises
    DaemonUnreachable, with the reason and the next step, DaemonError, and ClientClosed after `close`, in the
    middle of a call as well, and in a forked child; what else, it says itself.
    """

    def __init__(
        self,
        address: str | os.PathLike[str] | None = None,
        namespace: str | None = None,
        *,
        snapshotter: str | None = None,
        registry: RegistryOptions | None = None,
    ) -> None:
        self._connection = Connection(address, namespace, snapshotter, registry)
        working = self._connection.working
        self.images = Images(working)
        self.content = Content(working)
        self.leases = Leases(working)
        self.namespaces = Namespaces(working)
        self.snapshots = Snapshots(working)

    def __repr__(self) -> str:
        return f"Client({self.address!r}, {self.namespace!r})"

    def __enter__(self) -> Self:
        """Return the client itself."""
        return self

    def __exit__(self, *_exc: object) -> None:
        """Close all connections."""
        self.close()

    def close(self) -> None:
        """Close all connections; a second time does nothing.

        Calls that are under way in other threads end by ClientClosed, within a few seconds.
        """
        self._connection.close()

    def cancel(self) -> None:
        """End the calls that are under way in all threads by Cancelled; only `close` is of use afterwards.

        Leases and snapshots of these calls are removed first, so this may take a few seconds. It may be
        called from any thread, but not by a signal handler. To end one call, use its `cancel`.
        """
        self._connection.cancel()

    @property
    def address(self) -> str:
        """The path of containerd's socket."""
        return self._connection.address

    @property
    def namespace(self) -> str:
        """The namespace of every call."""
        return self._connection.namespace

    def version(self) -> DaemonVersion:
        """Return the version of the containerd that answers."""
        with self._connection.working() as (daemon, _):
            return daemon.version()


class Content:
    """The content store of one namespace, as `client.content`."""

    def __init__(self, working: Working) -> None:
        self._working = working

    def list(self) -> tuple[ContentInfo, ...]:
        """Return the blobs by digest."""
        with self._working() as (daemon, _):
            return tuple(sorted(daemon.content.list(), key=lambda info: info.digest))

    def get(self, digest: str) -> ContentInfo:
        """Return size and labels of a blob; raises NotFound (`content digest ...: not found`)."""
        wanted = Digest(arguments.text("digest", digest))
        with self._working() as (daemon, _):
            return daemon.content.info(wanted)

    def read(self, digest: str, *, limit: int = _MAX_READ_BYTES) -> bytes:
        """Return a blob's bytes; raises NotFound, and ContentError for one of more than `limit` bytes.

        The bytes are as the store has them: `Digest.of` says whether they still are what they should be.
        """
        wanted = Digest(arguments.text("digest", digest))
        with self._working() as (daemon, _):
            return daemon.content.read_all(wanted, limit=limit)

    def open(self, digest: str, *, offset: int = 0) -> AbstractContextManager[Iterator[Chunk]]:
        """Open a blob's bytes from an offset, as a context that yields chunks of at most 1 MiB.

        Raises NotFound, when the context is entered or at the first chunk.
        """
        wanted = Digest(arguments.text("digest", digest))
        arguments.count("offset", offset, least=0)
        with self._working() as (daemon, _):
            return daemon.content.read(wanted, offset=offset)

    def ingests(self) -> tuple[IngestStatus, ...]:
        """Return the writes that have begun and are not committed."""
        with self._working() as (daemon, _):
            return tuple(daemon.content.ingests())


class Leases:
    """The leases of one namespace, as `client.leases`."""

    def __init__(self, working: Working) -> None:
        self._working = working

    def list(self) -> tuple[Lease, ...]:
        """Return the leases by id."""
        with self._working() as (daemon, _):
            return tuple(sorted(daemon.leases.list(), key=lambda lease: lease.id))


class Namespaces:
    """The namespaces of one containerd, as `client.namespaces`."""

    def __init__(self, working: Working) -> None:
        self._working = working

    def list(self) -> tuple[Namespace, ...]:
        """Return the namespaces by name."""
        with self._working() as (daemon, _):
            return tuple(sorted(daemon.namespaces.list(), key=lambda namespace: namespace.name))

    def having(self, names: str | Iterable[str] = ()) -> tuple[str, ...]:
        """Return the other namespaces that have an image of exactly one of these names, or any image."""
        wanted: Sequence[str] = arguments.texts("names", names)
        with self._working() as (daemon, _):
            return namespaces_having(daemon, wanted)


class Snapshots:
    """The snapshots of one namespace, as `client.snapshots`."""

    def __init__(self, working: Working) -> None:
        self._working = working

    def snapshotters(self) -> tuple[str, ...]:
        """Return the names of the snapshotters that this containerd has loaded."""
        with self._working() as (daemon, _):
            return tuple(daemon.introspection.snapshotters())

    def list(self, snapshotter: str | None = None) -> tuple[SnapshotInfo, ...]:
        """Return the snapshots of a snapshotter by name; None is the client's.

        Raises Unsupported for a snapshotter that is not loaded.
        """
        with self._working() as (daemon, _):
            chosen = (
                arguments.text("snapshotter", snapshotter) if snapshotter else daemon.default_snapshotter()
            )
            return tuple(sorted(daemon.snapshots.list(chosen), key=lambda snapshot: snapshot.name))

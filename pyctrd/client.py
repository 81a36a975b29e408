"""Client: works in one namespace of a containerd, and with the registries its images come from."""

from __future__ import annotations

import datetime as dt
import os
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Self

from pyctrd import arguments, namespaces
from pyctrd.connection import Connection, Working
from pyctrd.errors import DaemonUnreachable
from pyctrd.images import Images
from pyctrd.oci.model import ContentInfo, Digest, IngestStatus, SnapshotInfo
from pyctrd.oci.resources import DaemonVersion, Lease, Namespace
from pyctrd.ports import Chunk

if TYPE_CHECKING:
    from pyctrd.operations.doctor.model import DoctorReport
    from pyctrd.registry import RegistryOptions

_MAX_READ_BYTES = 64 << 20


class Client:
    """A client for one namespace of a containerd. A context manager; thread safe.

    `address` is the path of the socket, or `unix://path`. If an argument is None, its value is read from
    CONTAINERD_ADDRESS, CONTAINERD_NAMESPACE or CONTAINERD_SNAPSHOTTER, and otherwise is containerd's default
    (`/run/containerd/containerd.sock`, `default`, the server's snapshotter). `registry` configures access to
    registries. The client connects to containerd on the first call, and to a registry only when something
    has to be fetched from it or sent to it.

    Raises InvalidInput for a malformed address, namespace or snapshotter. Every method may raise
    DaemonUnreachable (its hint says what to do), DaemonError, and ClientClosed: after `close`, when `close`
    is called during the call, and in a forked child. Each method lists its other errors.
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
        self.images = Images(working, self._connection.working_with)
        self.content = ContentStore(working)
        self.leases = Leases(working)
        self.namespaces = Namespaces(working)
        self.snapshots = Snapshots(working)

    def __repr__(self) -> str:
        return f"Client({self.address!r}, {self.namespace!r})"

    def __enter__(self) -> Self:
        """Return the client."""
        return self

    def __exit__(self, *_exc: object) -> None:
        """Close all connections."""
        self.close()

    def close(self) -> None:
        """Close all connections. Closing a closed client does nothing.

        Calls in progress in other threads raise ClientClosed within a few seconds.
        """
        self._connection.close()

    def cancel(self) -> None:
        """Make calls in progress in all threads raise Cancelled; afterwards the client can only be closed.

        The leases and snapshots of these calls are removed first, so this may take a few seconds. Call it
        from any thread, but not from a signal handler. To stop a single call, use its `cancel` argument.
        """
        self._connection.cancel()

    @property
    def address(self) -> str:
        """The path of containerd's socket."""
        return self._connection.address

    @property
    def namespace(self) -> str:
        """The namespace the client works in."""
        return self._connection.namespace

    def version(self) -> DaemonVersion:
        """Return containerd's version."""
        with self._connection.working() as (daemon, _):
            return daemon.version()

    def doctor(
        self,
        *,
        check: str | Iterable[str] = (),
        skip: str | Iterable[str] = (),
        hosts_dir: str | os.PathLike[str] | None = None,
        cancel: threading.Event | None = None,
    ) -> DoctorReport:
        """Find out what is wrong with the containerd and its machine, in all namespaces, and what helps.

        `check` and `skip` choose checks, or findings by their codes. `hosts_dir` replaces the usual
        directories with hosts.toml files. Also works if containerd does not answer, which is a finding then.
        Changes nothing; only if containerd is not on this machine, a lease is created to read its clock, and
        removed at once. Raises InvalidInput for an unknown check.
        """
        from pyctrd.hostfacts import HostFacts
        from pyctrd.operations.doctor import doctor

        host = HostFacts(
            self.address,
            dict(os.environ),
            None if hosts_dir is None else Path(arguments.path("hosts_dir", hosts_dir)),
        )
        work = partial(
            doctor,
            host=host,
            now=dt.datetime.now(dt.UTC),
            only=arguments.texts("check", check),
            skip=arguments.texts("skip", skip),
        )
        with ExitStack() as stack:
            try:
                daemon, _ = stack.enter_context(self._connection.working(cancel))
            except DaemonUnreachable as error:
                return work(None, unreachable=error)
            return work(daemon)


class ContentStore:
    """The content store of one namespace, as `client.content`."""

    def __init__(self, working: Working) -> None:
        self._working = working

    def list(self) -> tuple[ContentInfo, ...]:
        """Return all blobs, sorted by digest."""
        with self._working() as (daemon, _):
            return tuple(sorted(daemon.content.list(), key=lambda info: info.digest))

    def get(self, digest: str) -> ContentInfo:
        """Return the size and labels of a blob. Raises NotFound (`content digest ...: not found`)."""
        wanted = Digest(arguments.text("digest", digest))
        with self._working() as (daemon, _):
            return daemon.content.info(wanted)

    def read(self, digest: str, *, limit: int = _MAX_READ_BYTES) -> bytes:
        """Return a blob's bytes. Raises NotFound, and ContentError for a blob larger than `limit` bytes.

        Raises DigestMismatch if the bytes no longer match the digest.
        """
        wanted = Digest(arguments.text("digest", digest))
        with self._working() as (daemon, _):
            return daemon.content.read_all(wanted, limit=limit)

    def open(self, digest: str, *, offset: int = 0) -> AbstractContextManager[Iterator[Chunk]]:
        """Open a blob at an offset; the context manager returns its bytes in chunks of at most 1 MiB.

        The bytes are not checked against the digest. Raises NotFound on entering the context or at the first
        chunk.
        """
        wanted = Digest(arguments.text("digest", digest))
        arguments.count("offset", offset, least=0)
        with self._working() as (daemon, _):
            return daemon.content.read(wanted, offset=offset)

    def ingests(self) -> tuple[IngestStatus, ...]:
        """Return the unfinished writes."""
        with self._working() as (daemon, _):
            return tuple(daemon.content.ingests())


class Leases:
    """The leases of one namespace, as `client.leases`."""

    def __init__(self, working: Working) -> None:
        self._working = working

    def list(self) -> tuple[Lease, ...]:
        """Return all leases, sorted by id."""
        with self._working() as (daemon, _):
            return tuple(sorted(daemon.leases.list(), key=lambda lease: lease.id))


class Namespaces:
    """The namespaces of one containerd, as `client.namespaces`."""

    def __init__(self, working: Working) -> None:
        self._working = working

    def list(self) -> tuple[Namespace, ...]:
        """Return all namespaces, sorted by name."""
        with self._working() as (daemon, _):
            return tuple(sorted(daemon.namespaces.list(), key=lambda namespace: namespace.name))

    def having(self, names: str | Iterable[str] = ()) -> tuple[str, ...]:
        """Return the other namespaces that have an image with one of these exact names.

        Without `names`, return those that have any image.
        """
        wanted: Sequence[str] = arguments.texts("names", names)
        with self._working() as (daemon, _):
            return namespaces.having(daemon, wanted)


class Snapshots:
    """The snapshots of one namespace, as `client.snapshots`."""

    def __init__(self, working: Working) -> None:
        self._working = working

    def snapshotters(self) -> tuple[str, ...]:
        """Return the names of the snapshotters that containerd has loaded."""
        with self._working() as (daemon, _):
            return tuple(daemon.introspection.snapshotters())

    def list(self, snapshotter: str | None = None) -> tuple[SnapshotInfo, ...]:
        """Return the snapshots of a snapshotter (None: the client's), sorted by name.

        Raises Unsupported if the snapshotter is not loaded.
        """
        with self._working() as (daemon, _):
            chosen = (
                arguments.text("snapshotter", snapshotter) if snapshotter else daemon.default_snapshotter()
            )
            return tuple(sorted(daemon.snapshots.list(chosen), key=lambda snapshot: snapshot.name))

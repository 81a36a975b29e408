"""Client: works in one namespace of a containerd, and with the registries its images come from."""

from __future__ import annotations

import datetime as dt
import os
import threading
from collections.abc import Iterable
from functools import cached_property
from typing import TYPE_CHECKING, Self, TypeVar

from pyctrd import arguments
from pyctrd.connection import Connection
from pyctrd.oci.resources import DaemonVersion, Plugin

if TYPE_CHECKING:
    from pyctrd.hostfacts import HostFacts
    from pyctrd.images import Images
    from pyctrd.operations.doctor.model import BugReport, DoctorReport
    from pyctrd.registry import RegistryOptions
    from pyctrd.services.content import ContentStore
    from pyctrd.services.events import Events
    from pyctrd.services.leases import Leases
    from pyctrd.services.namespaces import Namespaces
    from pyctrd.services.snapshots import Snapshots
    from pyctrd.tracing import TracerProvider, Tracing

_T = TypeVar("_T")


class Client:
    """A client for one namespace of a containerd. A context manager; thread safe.

    `address` is the path of the socket, or `unix://path`. If an argument is None, its value is read from
    CONTAINERD_ADDRESS, CONTAINERD_NAMESPACE or CONTAINERD_SNAPSHOTTER, and otherwise is containerd's default
    (`/run/containerd/containerd.sock`, `default`, the server's snapshotter). `registry` configures access to
    registries. The client connects to containerd on the first call, and to a registry only when something
    has to be fetched from it or sent to it. `tracer_provider` (an opentelemetry.trace.TracerProvider) gets a
    span for each operation, call and request; it needs `pyctrd[otel]`.

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
        tracer_provider: TracerProvider | None = None,
    ) -> None:
        self._tracing: Tracing | None = None
        if tracer_provider is not None:
            from pyctrd.tracing import Tracing

            self._tracing = Tracing(tracer_provider)
        self._connection = Connection(address, namespace, snapshotter, registry, self._tracing)
        self._traced(self, "client")

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

    def _traced(self, part: _T, name: str) -> _T:
        """Make the methods of a part spans, if tracing is on."""
        if self._tracing is None:
            return part
        return self._tracing.traced(part, name, {"containerd.namespace": self.namespace})

    @property
    def address(self) -> str:
        """The path of containerd's socket."""
        return self._connection.address

    @property
    def namespace(self) -> str:
        """The namespace the client works in."""
        return self._connection.namespace

    @cached_property
    def images(self) -> Images:
        """The images of the namespace."""
        from pyctrd.images import Images

        return self._traced(Images(self._connection.working, self._connection.working_with), "images")

    @cached_property
    def content(self) -> ContentStore:
        """The content store of the namespace."""
        from pyctrd.services.content import ContentStore

        return self._traced(ContentStore(self._connection.working, self.images), "content")

    @cached_property
    def leases(self) -> Leases:
        """The leases of the namespace."""
        from pyctrd.services.leases import Leases

        return self._traced(Leases(self._connection.working), "leases")

    @cached_property
    def namespaces(self) -> Namespaces:
        """The namespaces of containerd."""
        from pyctrd.services.namespaces import Namespaces

        return self._traced(Namespaces(self._connection.working), "namespaces")

    @cached_property
    def snapshots(self) -> Snapshots:
        """The snapshots of the namespace."""
        from pyctrd.services.snapshots import Snapshots

        return self._traced(Snapshots(self._connection.working), "snapshots")

    @cached_property
    def events(self) -> Events:
        """What happens in containerd."""
        from pyctrd.services.events import Events

        return Events(self._connection.working)

    def version(self) -> DaemonVersion:
        """Return containerd's version."""
        with self._connection.working() as (daemon, _):
            return daemon.version()

    def plugins(self, filters: str | Iterable[str] = ()) -> tuple[Plugin, ...]:
        """Return the plugins of containerd, sorted by type and id, and why some did not start.

        Filters have containerd's syntax, e.g. `type==io.containerd.snapshotter.v1` or `id==overlayfs`.
        """
        wanted = arguments.texts("filters", filters)
        with self._connection.working() as (daemon, _):
            return tuple(sorted(daemon.introspection.plugins(wanted), key=lambda item: (item.type, item.id)))

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
        from pyctrd.operations.doctor import doctor

        host, now = self._host(hosts_dir), dt.datetime.now(dt.UTC)
        only, without = arguments.texts("check", check), arguments.texts("skip", skip)
        with self._connection.perhaps_working(cancel) as (daemon, unreachable):
            return doctor(daemon, host, now=now, unreachable=unreachable, only=only, skip=without)

    def bug_report(
        self,
        output: str | os.PathLike[str],
        *,
        force: bool = False,
        hosts_dir: str | os.PathLike[str] | None = None,
        cancel: threading.Event | None = None,
    ) -> BugReport:
        """Write a `.tar.gz` for a bug report: what `doctor` finds, versions and configuration, no secrets.

        Passwords, tokens, secret headers and most texts of containerd's configuration are left out; names of
        images, registries and paths are not. The file has mode 0600 and appears when it is complete. Also
        works if containerd does not answer. Raises ArchiveError if the file exists, unless `force` is set, or
        cannot be written, and InvalidInput if the output is no regular file.
        """
        from pyctrd.operations.doctor import bug_report, doctor

        path, host, now = arguments.path("output", output), self._host(hosts_dir), dt.datetime.now(dt.UTC)
        with self._connection.perhaps_working(cancel) as (daemon, unreachable):
            report = doctor(daemon, host, now=now, unreachable=unreachable)
            return bug_report.write(path, daemon, host, report, now=now, unreachable=unreachable, force=force)

    def _host(self, hosts_dir: str | os.PathLike[str] | None) -> HostFacts:
        from pathlib import Path

        from pyctrd.hostfacts import HostFacts

        directory = None if hosts_dir is None else Path(arguments.path("hosts_dir", hosts_dir))
        return HostFacts(self.address, dict(os.environ), directory)

"""Connection: the containerd and the registries behind a Client."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import TYPE_CHECKING, Final, Protocol

from pyctrd import arguments
from pyctrd.containerd import STALL_SECONDS, Daemon
from pyctrd.containerd.address import (
    LocalSocket,
    Place,
    resolve_address,
    resolve_namespace,
    resolve_snapshotter,
)
from pyctrd.errors import Cancelled, ClientClosed, DaemonUnreachable, InvalidInput, PyctrdError
from pyctrd.registries import Registries
from pyctrd.waiting import on_cancel

if TYPE_CHECKING:
    from pyctrd.registry import RegistryOptions
    from pyctrd.tracing import Tracing

# How often a call that waits for the connection attempt of another one looks at its `cancel`.
_POLL_SECONDS: Final = 0.5


class Working(Protocol):
    """Provides the containerd and the registries for one call; both stop when `cancel` is set."""

    def __call__(
        self, cancel: threading.Event | None = None
    ) -> AbstractContextManager[tuple[Daemon, Registries]]: ...


class WorkingWith(Protocol):
    """Provides the containerd and another one, by its address, for one call; `cancel` stops both."""

    def __call__(
        self, other: str, cancel: threading.Event | None = None
    ) -> AbstractContextManager[tuple[Daemon, Daemon]]: ...


class Connection:
    """The containerd and the registries behind a Client. Connects on the first call."""

    def __init__(
        self,
        address: str | os.PathLike[str] | None,
        namespace: str | None,
        snapshotter: str | None,
        registry: RegistryOptions | None,
        tracing: Tracing | None = None,
    ) -> None:
        environ = dict(os.environ)
        self._tracing = tracing
        self._environ = environ
        path = None if address is None else arguments.path("address", address)
        self.address = resolve_address(path, environ)
        self.namespace = resolve_namespace(
            None if namespace is None else arguments.text("namespace", namespace), environ
        )
        self._snapshotter = resolve_snapshotter(
            None if snapshotter is None else arguments.text("snapshotter", snapshotter), environ
        )
        self._stall_seconds = registry.stall_timeout if registry else STALL_SECONDS
        self._registries = Registries(registry, environ, tracing)
        self._lock = threading.Lock()
        self._connecting = threading.Lock()
        self._opened: Daemon | None = None
        self._daemon: Daemon | None = None  # the opened one, once it has answered
        self._others = set[Daemon]()
        self._ended: Callable[[], PyctrdError] | None = None

    @contextmanager
    def working(self, cancel: threading.Event | None = None) -> Iterator[tuple[Daemon, Registries]]:
        """Provide the containerd and the registries for one call; see Working."""
        if cancel is None:
            yield self._connected(), self._registries
            return
        arguments.event("cancel", cancel)
        scoped = self._connected(cancel).scope()
        with self._registries.scope() as registries:

            def end() -> None:
                registries.cancel()
                scoped.cancel()

            with on_cancel(cancel, end):
                yield scoped, registries

    @contextmanager
    def perhaps_working(
        self, cancel: threading.Event | None = None
    ) -> Iterator[tuple[Daemon | None, DaemonUnreachable | None]]:
        """Provide the containerd for one call, or the reason why it does not answer."""
        found: Daemon | None = None
        reason: DaemonUnreachable | None = None
        with ExitStack() as stack:
            try:
                found, _ = stack.enter_context(self.working(cancel))
            except DaemonUnreachable as error:
                reason = error
            yield found, reason

    @contextmanager
    def working_with(
        self, other: str, cancel: threading.Event | None = None
    ) -> Iterator[tuple[Daemon, Daemon]]:
        """Provide the containerd and another one for one call; see WorkingWith.

        Raises InvalidInput for a malformed address, and for this containerd and its namespace themselves.
        """
        from pyctrd.containerd.endpoint import parse
        from pyctrd.containerd.ssh import forwarded

        endpoint = parse(other, self.namespace)
        if (
            not endpoint.host
            and endpoint.namespace == self.namespace
            and os.path.realpath(endpoint.path) == os.path.realpath(self.address)
        ):
            raise InvalidInput(
                f"{other} is this containerd and its namespace {self.namespace}",
                hint="add ?namespace=NAME to the address for another namespace of this containerd",
            )
        with self.working(cancel) as (daemon, _), ExitStack() as stack:
            place: Place = LocalSocket(endpoint.path, {}, argument="the address to sync with")
            path = endpoint.path
            if endpoint.host:
                place = tunnel = stack.enter_context(forwarded(endpoint, daemon.check_open))
                path = tunnel.path
            connected = Daemon.connect(
                path,
                endpoint.namespace,
                environ={},  # what it says is about this client's containerd
                stall_seconds=self._stall_seconds,
                place=place,
                tracing=self._tracing,
                check=lambda opened: self._check_other(opened, stack, cancel),
            )
            yield daemon, connected

    def _check_other(self, other: Daemon, stack: ExitStack, cancel: threading.Event | None) -> None:
        """Check that another daemon answers; until `stack` is closed, `close` and `cancel` end its calls."""
        stack.callback(other.close)
        with self._lock:
            self._check_open()
            self._others.add(other)
        stack.callback(self._forget, other)
        stack.enter_context(on_cancel(cancel, other.cancel))
        other.version()

    def _forget(self, other: Daemon) -> None:
        with self._lock:
            self._others.discard(other)

    def _connected(self, cancel: threading.Event | None = None) -> Daemon:
        self._registries.check_process()
        daemon = self._current()
        if daemon is not None:
            return daemon
        # Not the lock that `close` takes: an attempt may last for seconds.
        while not self._connecting.acquire(timeout=_POLL_SECONDS):
            if cancel is not None:
                arguments.event("cancel", cancel)
        try:
            return self._current() or self._connect(cancel)
        finally:
            self._connecting.release()

    def _connect(self, cancel: threading.Event | None) -> Daemon:
        def check(daemon: Daemon) -> None:
            with self._lock:
                self._check_open()
                self._opened = daemon  # from now on, `close` and `cancel` end the attempt
            scoped = daemon.scope()
            with on_cancel(cancel, scoped.cancel):
                scoped.version()

        daemon = Daemon.connect(
            self.address,
            self.namespace,
            snapshotter=self._snapshotter or None,
            environ=self._environ,
            stall_seconds=self._stall_seconds,
            check=check,
            tracing=self._tracing,
        )
        with self._lock:
            self._daemon = daemon
        return daemon

    def _current(self) -> Daemon | None:
        with self._lock:
            self._check_open()
            return self._daemon

    def _check_open(self) -> None:
        if self._ended is not None:
            raise self._ended()

    def close(self) -> None:
        """Make calls in progress raise ClientClosed, and close all connections."""
        if self._registries.is_forked:
            return
        self._registries.close()  # first, so that no call is still waiting for a registry
        self._end(lambda: ClientClosed("the client is closed"), Daemon.close)

    def cancel(self) -> None:
        """Make calls in progress raise Cancelled."""
        if self._registries.is_forked:
            return
        self._registries.cancel()
        self._end(lambda: Cancelled("the operation was cancelled"), Daemon.cancel)

    def _end(self, why: Callable[[], PyctrdError], end: Callable[[Daemon], None]) -> None:
        """End the calls of all daemons at once, since each may take a moment to clean up."""
        with self._lock:
            self._ended = why
            daemons = [*self._others, *([self._opened] if self._opened else [])]
        threads = [
            threading.Thread(target=end, args=(one,), name="pyctrd-end", daemon=True) for one in daemons
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

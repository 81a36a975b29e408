"""Events: what happens in a containerd, as `client.events`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from typing import TYPE_CHECKING, Self

from pyctrd import arguments
from pyctrd.connection import Working
from pyctrd.oci.resources import Event

if TYPE_CHECKING:
    import threading


class EventStream:
    """Events from the moment of the subscription on: an iterator, and a context manager that closes it.

    The iteration waits for the next event. It raises DaemonUnreachable if containerd stops, Cancelled if
    `cancel` is set, ClientClosed if the client is closed, and ends after `close`.
    """

    def __init__(self, working: Working, filters: tuple[str, ...], cancel: threading.Event | None) -> None:
        self._closed = False
        with ExitStack() as stack:
            daemon, _ = stack.enter_context(working(cancel))
            self._call = daemon.events.subscribe(filters)
            stack.callback(self._call.close)
            self._stack = stack.pop_all()

    def __iter__(self) -> Iterator[Event]:
        """Return the iterator."""
        return self

    def __next__(self) -> Event:
        """Wait for the next event."""
        if self._closed:
            raise StopIteration
        try:
            return next(self._call)
        except Exception:
            closed = self._closed
            self.close()
            if closed:
                raise StopIteration from None
            raise

    def close(self) -> None:
        """End the subscription, from any thread. Closing a closed stream does nothing."""
        self._closed = True
        self._stack.close()

    def __enter__(self) -> Self:
        """Return the stream."""
        return self

    def __exit__(self, *_exc: object) -> None:
        """End the subscription."""
        self.close()


class Events:
    """The events of one containerd, as `client.events`."""

    def __init__(self, working: Working) -> None:
        self._working = working

    def stream(
        self, filters: str | Iterable[str] = (), *, cancel: threading.Event | None = None
    ) -> EventStream:
        """Subscribe to what happens from now on in all namespaces, and matches any of the filters.

        Filters have containerd's syntax, e.g. `namespace==k8s.io` or `topic~=^/images/`. containerd keeps no
        events: earlier ones cannot be had. A wrong filter is an error of the first step of the iteration.
        """
        return EventStream(self._working, arguments.texts("filters", filters), cancel)

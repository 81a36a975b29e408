"""AsyncClient: Client for asyncio, with the same methods and arguments, awaitable.

A Client does the work in a thread pool that AsyncClient owns: for bulk transfers this is no slower than
grpc.aio, and it does not block the event loop. Several event loops may share one AsyncClient.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import functools
import os
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Iterator
from contextlib import asynccontextmanager
from contextvars import copy_context
from typing import TYPE_CHECKING, Any, Concatenate, Final, ParamSpec, Self, TypeVar

from pyctrd import arguments
from pyctrd.client import Client
from pyctrd.errors import ClientClosed
from pyctrd.images import Images
from pyctrd.oci.resources import DaemonVersion, Event, Plugin
from pyctrd.ports import Chunk
from pyctrd.progress import Progress, no_progress
from pyctrd.services.content import ContentStore
from pyctrd.services.events import EventStream
from pyctrd.services.leases import Leases
from pyctrd.services.namespaces import Namespaces
from pyctrd.services.snapshots import Snapshots

if TYPE_CHECKING:
    from pyctrd.operations.doctor.model import BugReport, DoctorReport
    from pyctrd.registry import RegistryOptions
    from pyctrd.tracing import TracerProvider

_P = ParamSpec("_P")
_T = TypeVar("_T")

# How long a call may take to stop after its task is cancelled. The limits inside it are shorter.
_STOP_SECONDS: Final = 5.0


class ProgressStream:
    """Progress as an async iterator: pass it as `progress`, and iterate over it in another task.

        stream = ProgressStream()
        task = asyncio.create_task(client.images.pull(ref, progress=stream))
        async for event in stream:
            print(event.action)
        result = await task

    The iteration ends when the call does. Use it for one call, in the event loop that makes the call.
    """

    def __init__(self) -> None:
        self._events: asyncio.Queue[Progress | None] = asyncio.Queue()

    def __call__(self, event: Progress) -> None:
        """Add an event."""
        self._events.put_nowait(event)

    def close(self) -> None:
        """End the iteration after the events added so far."""
        self._events.put_nowait(None)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Progress:
        event = await self._events.get()
        if event is None:
            raise StopAsyncIteration
        return event


class _Threads:
    """The threads of one AsyncClient."""

    def __init__(self, count: int) -> None:
        self._pool = concurrent.futures.ThreadPoolExecutor(count, thread_name_prefix="pyctrd-async")

    async def run(
        self,
        work: Callable[[], _T],
        cancel: threading.Event | None = None,
        closing: Callable[[], None] | None = None,
    ) -> _T:
        """Run work in a thread; if the task is cancelled, end the work and wait for it to stop.

        The work ends when `cancel` is set, or when `closing` is called.
        """
        try:
            # With the context of the task, so that its current span is the parent of the operation's.
            future = self._pool.submit(copy_context().run, work)
        except RuntimeError:  # the pool is shut down
            raise ClientClosed("the client is closed") from None
        waiting = asyncio.wrap_future(future)
        try:
            return await asyncio.shield(waiting)
        except asyncio.CancelledError:
            if not future.cancel():
                if cancel is not None:
                    cancel.set()
                if closing is not None:
                    closing()
                await asyncio.wait({waiting}, timeout=_STOP_SECONDS)
            if waiting.done() and not waiting.cancelled():
                waiting.exception()  # mark it as retrieved: the task raises CancelledError instead
            raise

    def close(self) -> None:
        self._pool.shutdown()


class _Part:
    """One part of an AsyncClient (`images`, ...), which calls the same part of its Client."""

    def __init__(self, threads: _Threads, part: Any) -> None:
        self._threads = threads
        self._part = part


def _awaited(
    method: Callable[Concatenate[Any, _P], _T],
) -> Callable[Concatenate[Any, _P], Coroutine[Any, Any, _T]]:
    """Return an awaitable version of a short method."""

    @functools.wraps(method)
    async def call(self: _Part, /, *args: _P.args, **named: _P.kwargs) -> _T:
        return await self._threads.run(lambda: getattr(self._part, method.__name__)(*args, **named))

    return call


def _long(
    method: Callable[Concatenate[Any, _P], _T],
) -> Callable[Concatenate[Any, _P], Coroutine[Any, Any, _T]]:
    """Return an awaitable version of a method that takes `progress` and `cancel`.

    `progress` is called in the event loop's thread, and never after the call has returned.
    """

    @functools.wraps(method)
    async def call(self: _Part, /, *args: _P.args, **named: _P.kwargs) -> _T:
        options: dict[str, Any] = dict(named)
        loop = asyncio.get_running_loop()
        sink = options.get("progress", no_progress)
        if options.get("cancel") is None:
            options["cancel"] = threading.Event()
        arguments.event("cancel", options["cancel"])
        if sink is not no_progress:
            options["progress"] = functools.partial(loop.call_soon_threadsafe, sink)
        try:
            return await self._threads.run(
                lambda: getattr(self._part, method.__name__)(*args, **options), cancel=options["cancel"]
            )
        finally:
            if sink is not no_progress:
                await asyncio.sleep(0)  # the work may have ended before the loop has run its last events
            if isinstance(sink, ProgressStream):
                sink.close()

    return call


class AsyncImages(_Part):
    """The images of one namespace; see Images.

    `progress` is a ProgressStream, or a function that is called in the event loop's thread. Cancelling the
    task stops the call in the same way as setting its `cancel`.
    """

    list = _awaited(Images.list)
    get = _awaited(Images.get)
    overview = _awaited(Images.overview)
    inspect = _awaited(Images.inspect)
    history = _awaited(Images.history)
    diagnose = _awaited(Images.diagnose)
    diagnose_all = _awaited(Images.diagnose_all)
    inventory = _awaited(Images.inventory)
    tag = _awaited(Images.tag)
    pin = _awaited(Images.pin)
    unpin = _awaited(Images.unpin)
    label = _awaited(Images.label)
    usage = _long(Images.usage)
    prune = _long(Images.prune)
    pull = _long(Images.pull)
    unpack = _long(Images.unpack)
    ensure = _long(Images.ensure)
    ensure_all = _long(Images.ensure_all)
    save = _long(Images.save)
    load = _long(Images.load)
    why = _awaited(Images.why)
    verify = _long(Images.verify)
    remove = _long(Images.remove)
    push = _long(Images.push)
    sync = _long(Images.sync)


class AsyncContentStore(_Part):
    """The content store of one namespace; see ContentStore."""

    list = _awaited(ContentStore.list)
    find = _awaited(ContentStore.find)
    get = _awaited(ContentStore.get)
    read = _awaited(ContentStore.read)
    is_document = _awaited(ContentStore.is_document)
    document = _awaited(ContentStore.document)
    save = _long(ContentStore.save)
    label = _awaited(ContentStore.label)
    remove = _awaited(ContentStore.remove)
    ingests = _awaited(ContentStore.ingests)
    abort = _awaited(ContentStore.abort)
    fetch = _long(ContentStore.fetch)

    @asynccontextmanager
    async def open(self, digest: str, *, offset: int = 0) -> AsyncIterator[AsyncIterator[Chunk]]:
        """Open a blob at an offset; the context manager returns its bytes in chunks of at most 1 MiB."""
        run = self._threads.run
        opened = await run(lambda: self._part.open(digest, offset=offset))
        chunks: Iterator[Chunk] = await run(opened.__enter__)

        async def read() -> AsyncIterator[Chunk]:
            while (chunk := await run(lambda: next(chunks, None))) is not None:
                yield chunk

        try:
            yield read()
        finally:
            await run(lambda: opened.__exit__(None, None, None))


class AsyncLeases(_Part):
    """The leases of one namespace; see Leases."""

    list = _awaited(Leases.list)
    overview = _awaited(Leases.overview)
    inspect = _awaited(Leases.inspect)
    create = _awaited(Leases.create)
    remove = _awaited(Leases.remove)


class AsyncNamespaces(_Part):
    """The namespaces of one containerd; see Namespaces."""

    list = _awaited(Namespaces.list)
    overview = _awaited(Namespaces.overview)
    create = _awaited(Namespaces.create)
    label = _awaited(Namespaces.label)
    remove = _awaited(Namespaces.remove)
    having = _awaited(Namespaces.having)


class AsyncSnapshots(_Part):
    """The snapshots of one namespace; see Snapshots."""

    list = _awaited(Snapshots.list)
    snapshotters = _awaited(Snapshots.snapshotters)
    usage = _long(Snapshots.usage)
    tree = _awaited(Snapshots.tree)
    mounts = _awaited(Snapshots.mounts)
    remove = _awaited(Snapshots.remove)


class AsyncEventStream:
    """Events as an async iterator, and an async context manager that closes it; see EventStream.

    It uses a thread of the client as long as it waits.
    """

    def __init__(self, threads: _Threads, opened: Callable[[], EventStream]) -> None:
        self._threads = threads
        self._opened = opened
        self._stream: EventStream | None = None

    async def _open(self) -> EventStream:
        if self._stream is None:
            self._stream = await self._threads.run(self._opened)
        return self._stream

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Event:
        stream = await self._open()
        try:
            found = await self._threads.run(lambda: next(stream, None), closing=stream.close)
        except BaseException:
            stream.close()
            raise
        if found is None:
            raise StopAsyncIteration
        return found

    async def close(self) -> None:
        """End the subscription."""
        if self._stream is not None:
            self._stream.close()

    async def __aenter__(self) -> Self:
        """Subscribe, and return the stream."""
        await self._open()
        return self

    async def __aexit__(self, *_exc: object) -> None:
        """End the subscription."""
        await self.close()


class AsyncEvents(_Part):
    """The events of one containerd; see Events."""

    def stream(
        self, filters: str | Iterable[str] = (), *, cancel: threading.Event | None = None
    ) -> AsyncEventStream:
        """Return the events from the first step on, or from entering the context on; see Events.stream."""
        return AsyncEventStream(self._threads, lambda: self._part.stream(filters, cancel=cancel))


class AsyncClient:
    """A client for one namespace of a containerd, for asyncio; see Client for the arguments.

    An async context manager. `threads` limits how many calls run at once; others wait.
    """

    def __init__(
        self,
        address: str | os.PathLike[str] | None = None,
        namespace: str | None = None,
        *,
        snapshotter: str | None = None,
        registry: RegistryOptions | None = None,
        tracer_provider: TracerProvider | None = None,
        threads: int = 16,
    ) -> None:
        arguments.count("threads", threads)
        self._client = Client(
            address,
            namespace,
            snapshotter=snapshotter,
            registry=registry,
            tracer_provider=tracer_provider,
        )
        self._threads = _Threads(threads)
        self.images = AsyncImages(self._threads, self._client.images)
        self.content = AsyncContentStore(self._threads, self._client.content)
        self.leases = AsyncLeases(self._threads, self._client.leases)
        self.namespaces = AsyncNamespaces(self._threads, self._client.namespaces)
        self.snapshots = AsyncSnapshots(self._threads, self._client.snapshots)
        self.events = AsyncEvents(self._threads, self._client.events)

    def __repr__(self) -> str:
        return f"AsyncClient({self.address!r}, {self.namespace!r})"

    async def __aenter__(self) -> Self:
        """Return the client."""
        return self

    async def __aexit__(self, *_exc: object) -> None:
        """Close all connections."""
        await self.close()

    async def close(self) -> None:
        """Close all connections and stop the threads. Closing a closed client does nothing.

        Calls in progress in other tasks raise ClientClosed within a few seconds.
        """
        # Not in the pool, whose threads may all be busy.
        await asyncio.to_thread(self._close)

    def _close(self) -> None:
        self._client.close()
        self._threads.close()

    async def cancel(self) -> None:
        """Make the calls of all tasks raise Cancelled; afterwards the client can only be closed."""
        await asyncio.to_thread(self._client.cancel)

    @property
    def address(self) -> str:
        """The path of containerd's socket."""
        return self._client.address

    @property
    def namespace(self) -> str:
        """The namespace the client works in."""
        return self._client.namespace

    async def version(self) -> DaemonVersion:
        """Return containerd's version."""
        return await self._threads.run(self._client.version)

    async def plugins(self, filters: str | Iterable[str] = ()) -> tuple[Plugin, ...]:
        """Return the plugins of containerd; see Client.plugins."""
        return await self._threads.run(lambda: self._client.plugins(filters))

    async def doctor(
        self,
        *,
        check: str | Iterable[str] = (),
        skip: str | Iterable[str] = (),
        hosts_dir: str | os.PathLike[str] | None = None,
        cancel: threading.Event | None = None,
    ) -> DoctorReport:
        """Find out what is wrong with the containerd and its machine, and what helps; see Client.doctor."""
        stop = cancel or threading.Event()
        return await self._threads.run(
            lambda: self._client.doctor(check=check, skip=skip, hosts_dir=hosts_dir, cancel=stop), cancel=stop
        )

    async def bug_report(
        self,
        output: str | os.PathLike[str],
        *,
        force: bool = False,
        hosts_dir: str | os.PathLike[str] | None = None,
        cancel: threading.Event | None = None,
    ) -> BugReport:
        """Write a `.tar.gz` for a bug report, without secrets; see Client.bug_report."""
        stop = cancel or threading.Event()
        return await self._threads.run(
            lambda: self._client.bug_report(output, force=force, hosts_dir=hosts_dir, cancel=stop),
            cancel=stop,
        )

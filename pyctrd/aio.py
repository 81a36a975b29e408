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
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Concatenate, Final, ParamSpec, Self, TypeVar

from pyctrd import arguments
from pyctrd.client import Client, ContentStore, Leases, Namespaces, Snapshots
from pyctrd.errors import ClientClosed
from pyctrd.images import Images
from pyctrd.oci.resources import DaemonVersion
from pyctrd.ports import Chunk
from pyctrd.progress import Progress, no_progress

if TYPE_CHECKING:
    from pyctrd.registry import RegistryOptions

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

    async def run(self, work: Callable[[], _T], cancel: threading.Event | None = None) -> _T:
        """Run work in a thread; if the task is cancelled, set `cancel` and wait for the work to stop."""
        try:
            future = self._pool.submit(work)
        except RuntimeError:  # the pool is shut down
            raise ClientClosed("the client is closed") from None
        waiting = asyncio.wrap_future(future)
        try:
            return await asyncio.shield(waiting)
        except asyncio.CancelledError:
            if not future.cancel():
                if cancel is not None:
                    cancel.set()
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
    diagnose = _awaited(Images.diagnose)
    diagnose_all = _awaited(Images.diagnose_all)
    inventory = _awaited(Images.inventory)
    pull = _long(Images.pull)
    ensure = _long(Images.ensure)
    ensure_all = _long(Images.ensure_all)
    save = _long(Images.save)
    load = _long(Images.load)
    verify = _long(Images.verify)
    push = _long(Images.push)
    sync = _long(Images.sync)


class AsyncContentStore(_Part):
    """The content store of one namespace; see ContentStore."""

    list = _awaited(ContentStore.list)
    get = _awaited(ContentStore.get)
    read = _awaited(ContentStore.read)
    ingests = _awaited(ContentStore.ingests)

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


class AsyncNamespaces(_Part):
    """The namespaces of one containerd; see Namespaces."""

    list = _awaited(Namespaces.list)
    having = _awaited(Namespaces.having)


class AsyncSnapshots(_Part):
    """The snapshots of one namespace; see Snapshots."""

    list = _awaited(Snapshots.list)
    snapshotters = _awaited(Snapshots.snapshotters)


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
        threads: int = 16,
    ) -> None:
        arguments.count("threads", threads)
        self._client = Client(address, namespace, snapshotter=snapshotter, registry=registry)
        self._threads = _Threads(threads)
        self.images = AsyncImages(self._threads, self._client.images)
        self.content = AsyncContentStore(self._threads, self._client.content)
        self.leases = AsyncLeases(self._threads, self._client.leases)
        self.namespaces = AsyncNamespaces(self._threads, self._client.namespaces)
        self.snapshots = AsyncSnapshots(self._threads, self._client.snapshots)

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

"""DownloadPool: several downloads at once."""

from __future__ import annotations

import concurrent.futures
import math
import threading
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from contextvars import copy_context
from types import TracebackType
from typing import Final, Self

import msgspec

from pyctrd.oci.model import EMPTY, Descriptor, Digest, ImageRecord, freeze
from pyctrd.progress import Progress, ProgressSink, no_progress
from pyctrd.steps.fetch import FetchResult, Stopped
from pyctrd.waiting import until_done

# How long to wait for the threads after an error: a dead connection must not delay Ctrl-C.
_SHUTDOWN_SECONDS: Final = 2.0
# Without a given limit, blobs start in order while they have at most IN_FLIGHT_BYTES in all, each counted as
# at most LARGE_BYTES: 3 large ones, as in ctr, or up to MOST_AT_ONCE small ones, whose time is that of round
# trips. A blob that was received leaves its place to the next one: the commit, which syncs it to the disk,
# takes a tenth of the time of a fast download.
IN_FLIGHT_BYTES: Final = 16 << 20
LARGE_BYTES: Final = 5 << 20
MOST_AT_ONCE: Final = 16


class DownloadResult(msgspec.Struct, frozen=True, kw_only=True):
    """What was downloaded of an image.

    `resumed` maps the blobs of an interrupted download to the number of bytes that it had already stored.
    """

    image: ImageRecord
    fetched: tuple[Descriptor, ...]
    bytes_fetched: int
    resumed: Mapping[Descriptor, int] = EMPTY

    def __post_init__(self) -> None:
        freeze(self, "resumed")

    @property
    def bytes_resumed(self) -> int:
        """The sum of the bytes in `resumed`."""
        return sum(self.resumed.values())


class DownloadPool:
    """Downloads several blobs at once, each digest once. A context manager, which stops its threads.

    `fetch` calls the function that it is given when a blob has been received and only has to be committed.
    `max_concurrent` is the limit, None the rule of IN_FLIGHT_BYTES. The first error stops all downloads;
    blobs that are already committed stay under the lease.
    """

    def __init__(
        self,
        fetch: Callable[[Descriptor, Callable[[], None]], FetchResult],
        stop: threading.Event,
        *,
        max_concurrent: int | None,
        progress: ProgressSink = no_progress,
    ) -> None:
        self._progress = progress
        self._fetch = fetch
        self._stop = stop
        self._room = _Room(None if max_concurrent else IN_FLIGHT_BYTES)
        self._pool = concurrent.futures.ThreadPoolExecutor(
            max_concurrent or MOST_AT_ONCE, thread_name_prefix="pyctrd-fetch"
        )
        self._futures: dict[Digest, concurrent.futures.Future[FetchResult]] = {}
        self._descriptors: dict[Digest, Descriptor] = {}

    def __enter__(self) -> Self:
        """Return the pool."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Wait for all downloads, or stop them after an error."""
        if kind is not None:
            self._stop.set()
            self._pool.shutdown(wait=False, cancel_futures=True)
            for future in self._futures.values():
                future.cancel()
            # To `wait`, a future that was cancelled before a thread took it never ends.
            running = [future for future in self._futures.values() if not future.cancelled()]
            concurrent.futures.wait(running, timeout=_SHUTDOWN_SECONDS)
        self._pool.shutdown(wait=kind is None)

    def submit(self, descriptors: Sequence[Descriptor]) -> None:
        """Start downloads; blobs that were submitted before are ignored."""
        for descriptor in self._planned(descriptors):
            self._futures[descriptor.digest] = self._pool.submit(
                copy_context().run, self._guarded, descriptor
            )

    def submit_together(
        self,
        descriptors: Sequence[Descriptor],
        fetch: Callable[[Sequence[Descriptor]], Generator[FetchResult]],
    ) -> None:
        """Start a task for several small blobs: `fetch` yields their results, in order."""
        new = self._planned(descriptors)
        for descriptor in new:
            self._futures[descriptor.digest] = concurrent.futures.Future()
        if new:
            self._pool.submit(copy_context().run, self._fetch_together, new, fetch)

    def _planned(self, descriptors: Sequence[Descriptor]) -> Sequence[Descriptor]:
        new = {item.digest: item for item in descriptors if item.digest not in self._futures}
        for descriptor in new.values():
            self._progress(
                Progress(action="planned", descriptor=descriptor, total=descriptor.size, detail="download")
            )
        self._descriptors.update(new)
        return tuple(new.values())

    def _fetch_together(
        self,
        descriptors: Sequence[Descriptor],
        fetch: Callable[[Sequence[Descriptor]], Generator[FetchResult]],
    ) -> None:
        with closing(fetch(descriptors)) as results:
            for descriptor in descriptors:
                future = self._futures[descriptor.digest]
                if not future.set_running_or_notify_cancel():
                    continue
                try:
                    if self._stop.is_set():
                        raise Stopped
                    future.set_result(next(results))
                except BaseException as error:  # noqa: BLE001 - raised by whoever waits for the blob
                    future.set_exception(error)
                    self._stop.set()

    def _guarded(self, descriptor: Descriptor) -> FetchResult:
        with self._room.for_blob(descriptor.size) as leave:
            return self._fetched(descriptor, leave)

    def _fetched(self, descriptor: Descriptor, received: Callable[[], None]) -> FetchResult:
        if self._stop.is_set():
            raise Stopped
        try:
            return self._fetch(descriptor, received)
        except BaseException:
            self._stop.set()
            raise

    def stored(self, digest: Digest) -> concurrent.futures.Future[FetchResult]:
        """Return the future of a submitted blob, which ends when it is in the store."""
        return self._futures[digest]

    def join(self, descriptors: Sequence[Descriptor] | None = None) -> None:
        """Wait until these blobs, or all, are in the store. Raises the first real error."""
        futures = list(self._futures.values())
        if descriptors is not None:
            some = [self._futures[item.digest] for item in descriptors]
            until_done([future for future in some if not future.done()])
            if not any(future.done() and future.exception() for future in some):
                return
        until_done(futures)
        errors = _errors(futures)
        if errors and all(isinstance(error, Stopped) for error in errors):
            # The download whose error has stopped the others has not ended yet.
            concurrent.futures.wait(futures, _SHUTDOWN_SECONDS)
            errors = _errors(futures)
        for error in sorted(errors, key=lambda item: isinstance(item, Stopped)):
            raise error

    def has_fetched(self) -> bool:
        """Whether any blob was downloaded, at least in part; call it after `join`."""
        return any(any(future.result()) for future in self._futures.values())

    @property
    def wanted(self) -> tuple[Descriptor, ...]:
        """All submitted blobs, in order."""
        return tuple(self._descriptors.values())

    def downloaded(self) -> dict[Descriptor, int]:
        """Return the bytes downloaded for each blob, without zeros; call it after `join`."""
        return self._amounts(lambda result: result.downloaded)

    def resumed(self) -> dict[Descriptor, int]:
        """Return the bytes of each blob that an interrupted download had stored; call it after `join`."""
        return self._amounts(lambda result: result.resumed)

    def _amounts(self, of: Callable[[FetchResult], int]) -> dict[Descriptor, int]:
        counts = {self._descriptors[digest]: of(future.result()) for digest, future in self._futures.items()}
        return {descriptor: count for descriptor, count in counts.items() if count}


def _errors(futures: Sequence[concurrent.futures.Future[FetchResult]]) -> list[BaseException]:
    found = [future.exception() for future in futures if future.done()]
    return [error for error in found if error is not None]


class _Room:
    """Room for a number of bytes (None: for any): blobs enter in order, each as soon as it fits."""

    def __init__(self, size: int | None) -> None:
        self._free = math.inf if size is None else size
        self._changed = threading.Condition()
        self._turn = threading.Lock()

    @contextmanager
    def for_blob(self, size: int) -> Iterator[Callable[[], None]]:
        """Wait until there is room for a blob, and take it until the end, or a call of what is yielded."""
        taken = min(size, LARGE_BYTES)
        with self._turn, self._changed:
            self._changed.wait_for(lambda: self._free >= taken)
            self._free -= taken

        def leave() -> None:
            nonlocal taken
            with self._changed:
                self._free += taken
                taken = 0
                self._changed.notify()

        try:
            yield leave
        finally:
            leave()

"""Several downloads at once, and what they came to."""

from __future__ import annotations

import concurrent.futures
import threading
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Final, Self

from pyctrd.oci.model import Descriptor, Digest
from pyctrd.progress import Progress, ProgressSink, no_progress
from pyctrd.steps.fetch import FetchResult, Stopped
from pyctrd.waiting import until_done

# How long a failed run waits for its threads: one that hangs in a dead connection must not hold up Ctrl-C.
_PATIENCE_SECONDS: Final = 2.0


class DownloadPool:
    """Several blobs at once, each digest once; a context that ends its threads.

    The first failure stops all others: half an image is of no use, and what was committed is leased.
    """

    def __init__(
        self,
        fetch: Callable[[Descriptor], FetchResult],
        stop: threading.Event,
        *,
        max_concurrent: int,
        progress: ProgressSink = no_progress,
    ) -> None:
        self._progress = progress
        self._fetch = fetch
        self._stop = stop
        self._pool = concurrent.futures.ThreadPoolExecutor(max_concurrent, thread_name_prefix="pyctrd-fetch")
        self._futures: dict[Digest, concurrent.futures.Future[FetchResult]] = {}
        self._descriptors: dict[Digest, Descriptor] = {}

    def __enter__(self) -> Self:
        """Start with no download."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Wait for all, or, after an error, stop all."""
        if kind is not None:
            self._stop.set()
            self._pool.shutdown(wait=False, cancel_futures=True)
            concurrent.futures.wait(self._futures.values(), timeout=_PATIENCE_SECONDS)
        self._pool.shutdown(wait=kind is None)

    def submit(self, descriptors: Sequence[Descriptor]) -> None:
        """Start bringing blobs; those that were submitted before are left alone."""
        new = {item.digest: item for item in descriptors if item.digest not in self._futures}
        for descriptor in new.values():
            self._progress(
                Progress(action="planned", descriptor=descriptor, total=descriptor.size, detail="download")
            )
        for descriptor in new.values():
            self._descriptors[descriptor.digest] = descriptor
            self._futures[descriptor.digest] = self._pool.submit(self._guarded, descriptor)

    def _guarded(self, descriptor: Descriptor) -> FetchResult:
        if self._stop.is_set():
            raise Stopped
        try:
            return self._fetch(descriptor)
        except BaseException:
            self._stop.set()
            raise

    def wait(self, digest: Digest) -> None:
        """Block until a submitted blob is in the store; raises what its download raised."""
        self._futures[digest].result()

    def join(self) -> None:
        """Block until all submitted blobs are in the store; raises the first real error."""
        futures = self._futures.values()
        until_done(futures)
        errors = [future.exception() for future in futures if future.done() and future.exception()]
        for error in sorted(errors, key=lambda item: isinstance(item, Stopped)):
            if error is not None:
                raise error

    @property
    def wanted(self) -> tuple[Descriptor, ...]:
        """All that was submitted, in order."""
        return tuple(self._descriptors.values())

    def downloaded(self) -> dict[Descriptor, int]:
        """Give the bytes that each blob cost, for those that cost any; only after `join`."""
        return self._amounts(lambda result: result.downloaded)

    def resumed(self) -> dict[Descriptor, int]:
        """Give the bytes of each blob that an interrupted download had left here; only after `join`."""
        return self._amounts(lambda result: result.resumed)

    def _amounts(self, of: Callable[[FetchResult], int]) -> dict[Descriptor, int]:
        counts = {self._descriptors[digest]: of(future.result()) for digest, future in self._futures.items()}
        return {descriptor: count for descriptor, count in counts.items() if count}

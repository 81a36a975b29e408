"""Unpack during the downloads: one thread unpacks a manifest per platform, in document order."""

from __future__ import annotations

import concurrent.futures
import threading
from collections.abc import Mapping, Sequence
from contextvars import copy_context
from types import TracebackType
from typing import Final, Self

from pyctrd.oci import mediatypes, platforms
from pyctrd.oci.model import MAX_MANIFEST_BYTES, Descriptor, Digest, Manifest, Platform
from pyctrd.oci.platforms import Matcher
from pyctrd.ports import Store
from pyctrd.progress import ProgressSink
from pyctrd.steps.unpack import Stored, read_config, unpack
from pyctrd.waiting import until_done

_SHUTDOWN_SECONDS: Final = 2.0


class Unpacking:
    """Unpacks manifests in a thread. A context manager, which waits for the thread at its end.

    `stored` returns the future of a blob; at most `max_concurrent` layers are extracted at the same time.
    Each platform is unpacked once, from its first manifest. As in ctr, an image that is a single manifest is
    unpacked whatever its platform is.
    """

    def __init__(
        self,
        store: Store,
        target: Descriptor,
        snapshotter: str,
        stored: Stored,
        progress: ProgressSink,
        *,
        max_concurrent: int | None = None,
    ) -> None:
        self._store = store
        self._target = target
        self._snapshotter = snapshotter
        self._stored = stored
        self._progress = progress
        self._max_concurrent = max_concurrent
        self._stop = threading.Event()
        self._pool = concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix="pyctrd-unpack")
        self._futures: list[concurrent.futures.Future[None]] = []
        self._configured: dict[Digest, Platform | None] = {}
        self._unpacked: dict[Digest, Digest | None] = {}
        self._claimed: dict[Platform, Digest | None] = {}

    def __enter__(self) -> Self:
        """Return the object."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Wait for the thread; after an error only for a moment, since the lease cleans up."""
        if kind is not None:
            self._stop.set()
            self._pool.shutdown(wait=False, cancel_futures=True)
            concurrent.futures.wait(self._futures, timeout=_SHUTDOWN_SECONDS)
        self._pool.shutdown(wait=kind is None)

    def consider(self, generation: Sequence[Descriptor], targets: Matcher) -> None:
        """Unpack the manifests of a generation that are for a target platform.

        All their children must have been submitted to the downloads.
        """
        for descriptor in generation:
            if mediatypes.is_manifest(descriptor.media_type):
                alone = descriptor.digest == self._target.digest
                matcher = platforms.ALL if alone else targets
                self._futures.append(self._pool.submit(copy_context().run, self._unpack, descriptor, matcher))

    def finish(self) -> tuple[Platform, ...]:
        """Wait for the thread and return the unpacked platforms. Raises the first error."""
        until_done(self._futures)
        for future in self._futures:
            future.result()
        self._pool.shutdown(wait=False)
        return tuple(self._claimed)

    def top_snapshots(self) -> Mapping[Platform, Digest | None]:
        """Return the chain id of the top layer of each unpacked platform, None without layers."""
        return dict(self._claimed)

    def _unpack(self, descriptor: Descriptor, matcher: Matcher) -> None:
        if descriptor.platform is not None and not matcher.match(descriptor.platform):
            return
        configured = self._platform_of(descriptor.digest)
        if configured is None:
            return
        platform = platforms.normalize(descriptor.platform or configured)
        if not matcher.match(platform) or platforms.is_unknown(platform) or platform in self._claimed:
            return
        if descriptor.digest not in self._unpacked:
            manifest = self._manifest(descriptor.digest)
            self._unpacked[descriptor.digest] = unpack(
                self._store,
                manifest,
                read_config(self._store, manifest),
                snapshotter=self._snapshotter or self._store.default_snapshotter(),
                stored=self._stored,
                max_concurrent=self._max_concurrent,
                stop=self._stop,
                progress=self._progress,
            )
        self._claimed[platform] = self._unpacked[descriptor.digest]

    def _platform_of(self, digest: Digest) -> Platform | None:
        """Return the platform in a manifest's config, None for artifacts; reads each once."""
        if digest not in self._configured:
            manifest = self._manifest(digest)
            self._configured[digest] = None
            if _is_image(manifest):
                self._stored(manifest.config.digest).result()
                self._configured[digest] = read_config(self._store, manifest).platform
        return self._configured[digest]

    def _manifest(self, digest: Digest) -> Manifest:
        return Manifest.parse(self._store.content.read_all(digest, limit=MAX_MANIFEST_BYTES))


def _is_image(manifest: Manifest) -> bool:
    """Whether this is an image, not an artifact, whose config has another media type.

    Very old Docker releases wrote `application/octet-stream` for an image config.
    """
    return mediatypes.is_image_config(manifest.config.media_type) or (
        manifest.config.media_type == mediatypes.OCTET_STREAM
    )

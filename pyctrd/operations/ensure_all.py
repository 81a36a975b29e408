"""Ensure all: fetch the missing content of every incomplete image."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec

from pyctrd.errors import (
    DaemonUnreachable,
    NoMatchingPlatform,
    PyctrdError,
    RegistryUnreachable,
    is_interrupt,
)
from pyctrd.oci.model import ImageRecord
from pyctrd.oci.platforms import Selection
from pyctrd.operations.diagnose.all_images import incomplete
from pyctrd.operations.ensure import EnsureResult, ensure
from pyctrd.ports import Fetcher, Fetchers, Store
from pyctrd.progress import ProgressSink, no_progress
from pyctrd.steps.local import LocalImage


class EnsuredImage(msgspec.Struct, frozen=True, kw_only=True):
    """What was done for an incomplete image: `result`, or `error` if it failed.

    `names` are the other records of the same content, which is fetched once.
    """

    image: ImageRecord
    namespace: str
    names: tuple[str, ...] = ()
    result: EnsureResult | None = None
    error: PyctrdError | None = None


class EnsureAllResult(msgspec.Struct, frozen=True, kw_only=True):
    """What was fetched for all images, or with `dry_run` what would be.

    `images` are those that were incomplete, `complete` is the number of the others.
    """

    images: tuple[EnsuredImage, ...]
    complete: int
    dry_run: bool = False

    @property
    def bytes_fetched(self) -> int:
        """The sum of the bytes that were fetched."""
        return sum(item.result.bytes_fetched for item in self.images if item.result)

    @property
    def error(self) -> PyctrdError | None:
        """The first error; one about a platform that an image does not have only if there is no other."""
        found = [item.error for item in self.images if item.error]
        return min(found, key=lambda error: isinstance(error, NoMatchingPlatform), default=None)


def ensure_all(
    stores: Sequence[Store],
    selection: Selection,
    fetchers: Callable[[Store], Fetchers],
    *,
    dry_run: bool = False,
    concurrency: int | None = None,
    progress: ProgressSink = no_progress,
) -> EnsureAllResult:
    """Fetch the missing content of every incomplete image of some namespaces, one image after the other.

    `fetchers` returns the repositories for a namespace. An error of one image does not end the others; those
    of a registry that cannot be reached are not tried again. Raises Cancelled, ClientClosed,
    DaemonUnreachable, and DaemonError if the images cannot be listed.
    """
    images: list[EnsuredImage] = []
    complete = 0
    for store in stores:
        run = _Run(store, selection, fetchers(store), dry_run, concurrency, progress)
        found = incomplete(store, selection)
        complete += found.complete
        images += [run.one(group) for group in found.groups]
    return EnsureAllResult(images=tuple(images), complete=complete, dry_run=dry_run)


class _Run:
    """The images of one namespace."""

    def __init__(
        self,
        store: Store,
        selection: Selection,
        fetchers: Fetchers,
        dry_run: bool,
        concurrency: int | None,
        progress: ProgressSink,
    ) -> None:
        self._store = store
        self._selection = selection
        self._fetchers = fetchers
        self._dry_run = dry_run
        self._concurrency = concurrency
        self._progress = progress
        self._unreachable: dict[str, RegistryUnreachable] = {}

    def one(self, records: Sequence[ImageRecord]) -> EnsuredImage:
        """Fetch what the records of one target lack."""
        self._store.check_open()
        image, *others = records
        remotes: list[Fetcher] = []

        def sources(_image: ImageRecord) -> Sequence[Fetcher]:
            remotes.extend(self._sources(records))
            known = [self._unreachable.get(remote.host) for remote in remotes]
            if known and known[0] and all(known):
                raise known[0]
            return remotes

        result = error = None
        try:
            result = ensure(
                self._store,
                image,
                self._selection.resolve(LocalImage(self._store, image.target).platforms),
                sources,
                dry_run=self._dry_run,
                concurrency=self._concurrency,
                progress=self._progress,
            )
        except PyctrdError as raised:
            if is_interrupt(raised) or isinstance(raised, DaemonUnreachable):
                raise
            if isinstance(raised, RegistryUnreachable):
                self._unreachable.update((remote.host, raised) for remote in remotes if remote.host)
            error = raised
        return EnsuredImage(
            image=image,
            namespace=self._store.namespace,
            names=tuple(record.name for record in others),
            result=result,
            error=error,
        )

    def _sources(self, records: Sequence[ImageRecord]) -> Sequence[Fetcher]:
        """Return the repositories for any of the names."""
        found = {
            (remote.host, remote.repository): remote
            for record in reversed(records)
            for remote in reversed(self._fetchers(record))
        }
        return tuple(reversed(found.values()))

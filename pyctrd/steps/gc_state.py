"""What the garbage collector looks at in one namespace."""

from __future__ import annotations

import datetime as dt
import itertools
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final

import msgspec

from pyctrd.errors import NotFound
from pyctrd.oci.model import (
    EMPTY,
    ContentInfo,
    Digest,
    ImageRecord,
    IngestStatus,
    SnapshotInfo,
)
from pyctrd.oci.resources import Container, Lease, LeaseResource
from pyctrd.ports import Containerd
from pyctrd.steps.blob_table import BlobTable

# The labels that the collector reads begin with this.
GC_PREFIX: Final = "containerd.io/gc."
_EPOCH: Final = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
_MICROSECOND: Final = dt.timedelta(microseconds=1)


class GcState(msgspec.Struct, frozen=True, kw_only=True):
    """The records of one namespace; `snapshots` by snapshotter and name, `leases` with what they hold."""

    namespace: str
    images: Mapping[str, ImageRecord]
    content: Mapping[Digest, ContentInfo]
    snapshots: Mapping[tuple[str, str], SnapshotInfo]
    leases: Mapping[str, tuple[Lease, Sequence[LeaseResource]]]
    containers: Mapping[str, Container]
    ingests: Mapping[str, IngestStatus]


class ContentTable(BlobTable, Mapping[Digest, ContentInfo]):
    """The blobs of a namespace with the labels that the collector reads, and the times of their creation."""

    def __init__(self, infos: Iterable[ContentInfo]) -> None:
        self._created = array("q")  # microseconds
        self._labels: list[tuple[str, ...]] = []  # keys and values in turn
        super().__init__(infos)
        for position, labels in enumerate(self._labels):
            if labels:  # most values are digests of blobs
                self._labels[position] = tuple(map(self._shared, labels))

    def _add(self, info: ContentInfo) -> None:
        super()._add(info)
        self._created.append((info.created_at - _EPOCH) // _MICROSECOND if info.created_at else 0)
        found = (item for item in info.labels.items() if item[0].startswith(GC_PREFIX))
        self._labels.append(tuple(itertools.chain.from_iterable(found)))

    def _sort(self, order: Sequence[int]) -> None:
        super()._sort(order)
        self._created = array("q", (self._created[position] for position in order))
        self._labels = [self._labels[position] for position in order]

    def _shared(self, text: str) -> str:
        """Return the same text, as the digest that is in memory if it is one of the table."""
        position = self.position(text)
        return text if position is None else self.digests[position]

    def __getitem__(self, digest: Digest) -> ContentInfo:
        """Return what is known about a blob."""
        position = self.position(digest)
        if position is None:
            raise KeyError(digest)
        created, labels = self._created[position], self._labels[position]
        return ContentInfo(
            digest=self.digests[position],
            size=self.sizes[position],
            labels=dict(zip(labels[::2], labels[1::2], strict=True)) if labels else EMPTY,
            created_at=_EPOCH + created * _MICROSECOND if created else None,
        )

    def __iter__(self) -> Iterator[Digest]:
        """Yield the digests, sorted."""
        return iter(self.digests)


def read_state(store: Containerd) -> GcState:
    """Read the records of a namespace: a call for each kind, each snapshotter and each lease.

    Leases are read first and containers before snapshots, so that what another client adds meanwhile is not
    taken for unused. Raises DaemonError.
    """
    leases = {lease.id: (lease, _resources(store, lease)) for lease in store.leases.list()}
    containers = {container.id: container for container in store.containers.list()}
    images = {image.name: image for image in store.images.list()}
    ingests = {ingest.ref: ingest for ingest in store.content.ingests()}
    return GcState(
        namespace=store.namespace,
        leases=leases,
        containers=containers,
        images=images,
        ingests=ingests,
        content=ContentTable(store.content.list()),
        snapshots={
            (snapshotter, snapshot.name): snapshot
            for snapshotter in store.snapshotters()
            for snapshot in store.snapshots.list(snapshotter)
        },
    )


_GONE: Final[Sequence[LeaseResource]] = ()


def _resources(store: Containerd, lease: Lease) -> Sequence[LeaseResource]:
    try:
        return store.leases.resources(lease.id)
    except NotFound:  # it was deleted after it was listed
        return _GONE

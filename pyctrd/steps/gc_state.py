"""What the garbage collector looks at in one namespace."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import msgspec

from pyctrd.errors import NotFound
from pyctrd.oci.model import ContentInfo, Digest, ImageRecord, IngestStatus, SnapshotInfo
from pyctrd.oci.resources import Container, Lease, LeaseResource
from pyctrd.ports import Containerd


class GcState(msgspec.Struct, frozen=True, kw_only=True):
    """The records of one namespace; `snapshots` by snapshotter and name, `leases` with what they hold."""

    namespace: str
    images: Mapping[str, ImageRecord]
    content: Mapping[Digest, ContentInfo]
    snapshots: Mapping[tuple[str, str], SnapshotInfo]
    leases: Mapping[str, tuple[Lease, Sequence[LeaseResource]]]
    containers: Mapping[str, Container]
    ingests: Mapping[str, IngestStatus]


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
        content={info.digest: info for info in store.content.list()},
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

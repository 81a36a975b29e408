"""Leases: what each holds, and creating and removing them."""

from __future__ import annotations

import datetime as dt
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from typing import Final

import msgspec

from pyctrd.amounts import listed
from pyctrd.errors import InUse, InvalidInput, NotFound, Remedy
from pyctrd.oci.expiry import EXPIRE_LABEL
from pyctrd.oci.model import ContentInfo, ImageRecord
from pyctrd.oci.resources import Lease, LeaseResource
from pyctrd.operations.ingests import Ingest, ingests, is_active
from pyctrd.operations.pull import check_labels
from pyctrd.ports import Containerd

_SNAPSHOTS: Final = "snapshots/"
_TIME_FORMAT: Final = "%Y-%m-%dT%H:%M:%SZ"


class LeaseOverview(msgspec.Struct, frozen=True, kw_only=True):
    """A lease, and how much it holds itself; gc labels of its content may protect more."""

    lease: Lease
    content: int = 0
    snapshots: int = 0
    ingests: int = 0
    images: int = 0


class LeasedSnapshot(msgspec.Struct, frozen=True, kw_only=True):
    """A snapshot that a lease holds, with its own disk space."""

    snapshotter: str
    key: str
    bytes: int
    inodes: int


class LeaseDetails(msgspec.Struct, frozen=True, kw_only=True):
    """A lease and what it holds. `missing` are objects that do not exist any more."""

    lease: Lease
    content: tuple[ContentInfo, ...] = ()
    snapshots: tuple[LeasedSnapshot, ...] = ()
    ingests: tuple[Ingest, ...] = ()
    images: tuple[ImageRecord, ...] = ()
    missing: tuple[LeaseResource, ...] = ()

    @property
    def bytes(self) -> int:
        """The bytes of the content, of the snapshots, and of what is written of the ingests."""
        return (
            sum(info.size for info in self.content)
            + sum(snapshot.bytes for snapshot in self.snapshots)
            + sum(ingest.offset for ingest in self.ingests)
        )


def overview(store: Containerd, filters: Sequence[str] = ()) -> tuple[LeaseOverview, ...]:
    """Return the leases that match any of the filters, sorted by id, with counts: a call for each lease."""
    return tuple(
        _counted(lease, _resources(store, lease.id))
        for lease in sorted(store.leases.list(filters), key=lambda lease: lease.id)
    )


def _resources(store: Containerd, lease_id: str) -> Sequence[LeaseResource]:
    with suppress(NotFound):  # it was deleted after it was listed
        return store.leases.resources(lease_id)
    return ()


def _counted(lease: Lease, held: Sequence[LeaseResource]) -> LeaseOverview:
    kinds = [item.type.partition("/")[0] for item in held]
    return LeaseOverview(
        lease=lease,
        content=kinds.count("content"),
        snapshots=kinds.count("snapshots"),
        ingests=kinds.count("ingests"),
        images=kinds.count("images"),
    )


def inspect(store: Containerd, lease_id: str) -> LeaseDetails:
    """Return a lease and what it holds, with sizes: a call for each kind and for each snapshot.

    Raises NotFound.
    """
    lease = _find(store, lease_id)
    held = store.leases.resources(lease_id)
    kinds = {item.type for item in held}
    content = {str(info.digest): info for info in store.content.list()} if "content" in kinds else {}
    writes = {ingest.ref: ingest for ingest in ingests(store)} if "ingests" in kinds else {}
    images = {image.name: image for image in store.images.list()} if "images" in kinds else {}
    snapshots = {
        item.id: found
        for item in held
        if item.type.startswith(_SNAPSHOTS) and (found := _snapshot(store, item))
    }
    ids = sorted(item.id for item in held)
    there: Mapping[str, Collection[str]] = {"content": content, "ingests": writes, "images": images}
    return LeaseDetails(
        lease=lease,
        content=tuple(content[name] for name in ids if name in content),
        snapshots=tuple(snapshots[name] for name in ids if name in snapshots),
        ingests=tuple(writes[name] for name in ids if name in writes),
        images=tuple(images[name] for name in ids if name in images),
        missing=tuple(
            item
            for item in held
            if item.id not in (snapshots if item.type.startswith(_SNAPSHOTS) else there.get(item.type, {}))
        ),
    )


def _snapshot(store: Containerd, item: LeaseResource) -> LeasedSnapshot | None:
    snapshotter = item.type.removeprefix(_SNAPSHOTS)
    with suppress(NotFound):
        usage = store.snapshots.usage(snapshotter, item.id)
        return LeasedSnapshot(snapshotter=snapshotter, key=item.id, bytes=usage.bytes, inodes=usage.inodes)
    return None


def create(
    store: Containerd,
    lease_id: str,
    *,
    ttl: dt.timedelta | None,
    labels: Mapping[str, str],
    now: dt.datetime,
) -> Lease:
    """Create a lease that expires after `ttl`, or never. An empty id lets containerd choose one.

    Raises AlreadyExists, InvalidInput for labels that containerd would refuse.
    """
    made = dict(labels)
    if ttl is not None:
        if ttl <= dt.timedelta():
            raise InvalidInput(f"ttl={ttl!r}: must be longer than 0")
        try:
            made[EXPIRE_LABEL] = (now.astimezone(dt.UTC) + ttl).strftime(_TIME_FORMAT)
        except OverflowError:
            raise InvalidInput(f"ttl={ttl!r}: is too long") from None
    check_labels(made)
    return store.leases.create(lease_id, made)


def remove(store: Containerd, ids: Sequence[str], *, sync: bool, force: bool) -> tuple[Lease, ...]:
    """Delete leases, and return them; `sync` waits for the garbage collector at the end.

    Without `force`, nothing is deleted if a client is writing right now what one of them holds. Raises
    NotFound before anything is deleted, InUse.
    """
    leases = [_find(store, lease_id) for lease_id in dict.fromkeys(ids)]
    if not force:
        for lease in leases:
            _check_idle(store, lease)
    removed = []
    for number, lease in enumerate(leases, 1):
        with suppress(NotFound):  # its owner was faster
            store.leases.delete(lease.id, sync=sync and number == len(leases))
            removed.append(lease)
    return tuple(removed)


def _find(store: Containerd, lease_id: str) -> Lease:
    for lease in store.leases.list():
        if lease.id == lease_id:
            return lease
    raise NotFound(
        f'lease "{lease_id}": not found',
        kind="lease",
        name=lease_id,
        hint="list the leases",
        remedy=Remedy(method="leases.list"),
    )


def _check_idle(store: Containerd, lease: Lease) -> None:
    held = {item.id for item in _resources(store, lease.id) if item.type == "ingests"}
    # Opened without the lease, a write would be kept for another day (core/metadata/content.go Writer).
    leased = store.under_lease(lease.id)
    writing = [
        status.ref for status in store.content.ingests() if status.ref in held and is_active(leased, status)
    ]
    if writing:
        by = f" by {lease.purpose}" if lease.purpose else ""
        raise InUse(
            f"lease {lease.id} is in use{by}: {listed(writing)} is being written right now",
            kind="lease",
            name=lease.id,
            users=writing,
            hint="let it end, or pass `force` to make its client fail",
        )

"""Unfinished writes: list them with their writer, and abort those that no client has open."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from contextlib import suppress

import msgspec

from pyctrd.errors import IngestLocked, InvalidInput, NotFound, Remedy
from pyctrd.oci.model import IngestStatus
from pyctrd.oci.resources import Lease
from pyctrd.ports import Containerd


class Ingest(IngestStatus, frozen=True, kw_only=True):
    """An unfinished write, and the leases that keep it; without one, containerd removes it after a day."""

    leases: tuple[Lease, ...] = ()

    @property
    def writer(self) -> str:
        """The command that began to write it, as its lease says, or else the lease's id; "" if unknown."""
        return next((lease.purpose or lease.id for lease in self.leases), "")

    @property
    def touched_at(self) -> dt.datetime | None:
        """When something was last written."""
        return self.updated_at or self.started_at


class AbortResult(msgspec.Struct, frozen=True, kw_only=True):
    """The writes that were aborted, and those that were not because a client is writing them right now."""

    aborted: tuple[Ingest, ...] = ()
    active: tuple[Ingest, ...] = ()


def ingests(store: Containerd) -> tuple[Ingest, ...]:
    """Return the unfinished writes, sorted by ref: one call, and one for each lease. Raises DaemonError."""
    holders: dict[str, list[Lease]] = {}
    for lease in store.leases.list():
        with suppress(NotFound):  # it was deleted after it was listed
            for item in store.leases.resources(lease.id):
                if item.type == "ingests":
                    holders.setdefault(item.id, []).append(lease)
    return tuple(
        Ingest(**msgspec.structs.asdict(status), leases=tuple(holders.get(status.ref, ())))
        for status in sorted(store.content.ingests(), key=lambda status: status.ref)
    )


def abort(
    store: Containerd,
    refs: Sequence[str],
    *,
    older_than: dt.timedelta | None = None,
    everything: bool = False,
    force: bool = False,
    now: dt.datetime,
) -> AbortResult:
    """Abort unfinished writes: those with these refs, those not written to for so long, or all of them.

    Writes that a client has open are left alone without `force`. Raises NotFound if there is no such ref;
    then, nothing is aborted. Raises IngestLocked at the end if one of `refs` is being written, InvalidInput
    if nothing is chosen.
    """
    if sum((bool(refs), older_than is not None, everything)) != 1:
        raise InvalidInput("choose unfinished writes by their refs, by their age, or all of them")
    found = {ingest.ref: ingest for ingest in ingests(store)}
    aborted, active = [], []
    for ingest in _chosen(found, refs, older_than, now):
        store.check_open()
        if force:
            store.content.abort(ingest.ref)
        elif not abort_if_idle(store, ingest):
            active.append(ingest)
            continue
        aborted.append(ingest)
    if refs and active:
        raise active_error(active[0])
    return AbortResult(aborted=tuple(aborted), active=tuple(active))


def _chosen(
    found: Mapping[str, Ingest], refs: Sequence[str], older_than: dt.timedelta | None, now: dt.datetime
) -> Sequence[Ingest]:
    for ref in refs:
        if ref not in found:
            raise NotFound(
                f"ingest {ref}: not found",
                kind="ingest",
                name=ref,
                hint="list the unfinished writes",
                remedy=Remedy(method="content.ingests"),
            )
    if refs:
        return [found[ref] for ref in dict.fromkeys(refs)]
    if older_than is None:
        return list(found.values())
    touched = ((ingest, ingest.touched_at) for ingest in found.values())
    return [ingest for ingest, when in touched if when is not None and now - when > older_than]


def abort_if_idle(store: Containerd, ingest: IngestStatus) -> bool:
    """Abort a write, and return True, unless a client has it open.

    Only an open write is locked (containerd plugins/content/local/locks.go), so it is opened first: whoever
    wants to continue it in the meantime waits, and then begins anew. The expected size has to be the same, or
    containerd would truncate the data at once.
    """
    try:
        with store.content.open_ingest(ingest.ref, digest=None, size=ingest.total, expected=False):
            store.content.abort(ingest.ref)
    except IngestLocked:
        return False
    return True


def is_active(store: Containerd, ingest: IngestStatus) -> bool:
    """Whether a client has a write open right now; found out by opening it for a moment."""
    try:
        with store.content.open_ingest(ingest.ref, digest=None, size=ingest.total, expected=False):
            return False
    except IngestLocked:
        return True


def active_error(ingest: Ingest) -> IngestLocked:
    """Return the error for a write that a client has open."""
    by = f" by {ingest.writer}" if ingest.writer else ""
    return IngestLocked(
        f"ref {ingest.ref} locked: it is being written right now{by}: unavailable",
        code="UNAVAILABLE",
        kind="ingest",
        name=ingest.ref,
        hint="let it end, or pass `force` to make its client fail",
    )

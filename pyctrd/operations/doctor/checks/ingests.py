"""Unfinished writes that have not grown for an hour."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator, Mapping
from typing import Final

from pyctrd.amounts import count, size
from pyctrd.oci.model import IngestStatus
from pyctrd.oci.resources import Lease
from pyctrd.operations.doctor.checks.leases import age
from pyctrd.operations.doctor.examination import Examination
from pyctrd.operations.doctor.model import Advice, DoctorFinding, operands
from pyctrd.steps.gc_state import GcState

CODES: Final = ("ingest-stale",)

# Every client aborts a connection that stalls for a few minutes.
STALE: Final = dt.timedelta(hours=1)
_MOST_REMOVED: Final = 100


def find(examination: Examination) -> Iterator[DoctorFinding]:
    """Find unfinished writes that have not grown for an hour."""
    for space in examination.spaces:
        state = examination.state(space)
        stale = [item for item in state.ingests.values() if _is_stale(item, examination.now)]
        if not stale:
            continue
        stale.sort(key=lambda item: item.ref)
        writers = _writers(state)
        shown = stale[:_MOST_REMOVED]
        yield DoctorFinding(
            code="ingest-stale",
            severity="warning",
            what=f"namespace {space.namespace}: {count(len(stale), 'write')} interrupted more than an hour "
            f"ago, {size(sum(item.offset for item in stale))} on the disk",
            evidence=tuple(_describe(item, writers, examination.now) for item in shown),
            remedy=Advice(
                text="repeat the pull, which resumes them, or abort them",
                commands=(
                    (
                        "pyctrd",
                        "-n",
                        space.namespace,
                        "ingests",
                        "abort",
                        *operands(*(item.ref for item in shown)),
                    ),
                ),
            ),
        )


def _is_stale(ingest: IngestStatus, now: dt.datetime) -> bool:
    last = ingest.updated_at or ingest.started_at
    return last is not None and now - last > STALE


def _writers(state: GcState) -> Mapping[str, Lease]:
    return {
        item.id: lease for lease, held in state.leases.values() for item in held if item.type == "ingests"
    }


def _describe(ingest: IngestStatus, writers: Mapping[str, Lease], now: dt.datetime) -> str:
    last = ingest.updated_at or ingest.started_at
    assert last is not None
    lease = writers.get(ingest.ref)
    purpose = lease.purpose if lease else ""
    writer = (
        f"written by pyctrd {purpose}"
        if purpose
        else f"held by the lease {lease.id}"
        if lease
        else ("without a lease: containerd removes it a day after it was started")
    )
    total = f" of {size(ingest.total)}" if ingest.total else ""
    return f"{ingest.ref}: {size(ingest.offset)}{total}, unchanged for {age(now - last)}, {writer}"

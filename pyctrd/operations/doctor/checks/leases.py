"""Expired leases, and old ones that never expire."""

from __future__ import annotations

import datetime as dt
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Final

from pyctrd.amounts import count, listed
from pyctrd.oci.resources import Lease, LeaseResource
from pyctrd.operations.doctor.examination import Examination
from pyctrd.operations.doctor.model import Advice, DoctorFinding, Severity
from pyctrd.steps.gc_graph import FLAT_LABEL

CODES: Final = ("lease-expired", "lease-without-expiry")

# The longest that a client works with one lease is a day (containerd client/lease.go).
STALE: Final = dt.timedelta(hours=24)
# Docker keeps its images by leases, and removes them itself.
_DOCKER: Final = "moby"
_MOST_REMOVED: Final = 100


def find(examination: Examination) -> Iterator[DoctorFinding]:
    """Find expired leases, and leases without an expiry that are older than a day."""
    for space in examination.spaces:
        leases = sorted(examination.state(space).leases.values(), key=lambda item: item[0].id)
        expired = [item for item in leases if item[0].is_expired(examination.now)]
        yield from _found(
            "lease-expired",
            "info",
            space.namespace,
            expired,
            lambda number: f"{count(number, 'lease')} expired, but the garbage collector has not run since",
            lambda lease: _age(lease, examination.now),
        )
        endless = [item for item in leases if _is_endless(item[0], examination.now)]
        yield from _found(
            "lease-without-expiry",
            "warning",
            space.namespace,
            [] if space.namespace == _DOCKER else endless,
            lambda number: (
                f"{count(number, 'lease')} without an expiry, older than a day: what they hold "
                "stays until they are removed"
            ),
            lambda lease: _age(lease, examination.now),
        )


def _is_endless(lease: Lease, now: dt.datetime) -> bool:
    """Whether a lease is old and does not expire; a flat one belongs to a cache, like that of BuildKit."""
    if lease.expires_at is not None or FLAT_LABEL in lease.labels:
        return False
    return lease.created_at is None or now - lease.created_at > STALE


def _found(
    code: str,
    severity: Severity,
    namespace: str,
    leases: Sequence[tuple[Lease, Sequence[LeaseResource]]],
    what: Callable[[int], str],
    age: Callable[[Lease], str],
) -> Iterator[DoctorFinding]:
    if not leases:
        return
    shown = leases[:_MOST_REMOVED]
    yield DoctorFinding(
        code=code,
        severity=severity,
        what=f"namespace {namespace}: {what(len(leases))}",
        evidence=tuple(f"{lease.id}{age(lease)}{_purpose(lease)}: {_held(held)}" for lease, held in shown),
        remedy=Advice(
            text="remove them, if the program that created them has ended",
            commands=(("pyctrd", "-n", namespace, "leases", "rm", *(lease.id for lease, _ in shown)),),
        ),
    )


def _age(lease: Lease, now: dt.datetime) -> str:
    if lease.expires_at is not None:
        return f", expired at {lease.expires_at:%Y-%m-%dT%H:%M:%SZ}"
    if lease.created_at is None:
        return ""
    return f", {age(now - lease.created_at)} old"


def age(span: dt.timedelta) -> str:
    """Format an age in whole minutes, hours or days."""
    minutes = int(span.total_seconds()) // 60
    if minutes < 120:
        return count(minutes, "minute")
    return count(minutes // 60, "hour") if minutes < 48 * 60 else count(minutes // 1440, "day")


def _purpose(lease: Lease) -> str:
    return f", of pyctrd {lease.purpose}" if lease.purpose else ""


def _held(held: Sequence[LeaseResource]) -> str:
    kinds = Counter(item.type.partition("/")[0] for item in held)
    return (
        f"holds {listed([f'{number} {kind}' for kind, number in sorted(kinds.items())])}"
        if held
        else ("holds nothing")
    )

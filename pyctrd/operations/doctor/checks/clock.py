"""containerd's clock, by which leases and images expire, compared with this machine's."""

from __future__ import annotations

import datetime as dt
import secrets
from collections.abc import Iterator
from contextlib import suppress
from typing import Final

from pyctrd.amounts import count
from pyctrd.errors import NotFound
from pyctrd.oci.expiry import EXPIRE_LABEL
from pyctrd.oci.resources import PURPOSE_LABEL
from pyctrd.operations.doctor.checks.leases import age
from pyctrd.operations.doctor.examination import CannotCheck, Examination
from pyctrd.operations.doctor.model import Advice, DoctorFinding

CODES: Final = ("clock-skew", "clock-set-back")

# More than a call takes, and less than what makes certificates and tokens fail.
_TOLERANCE: Final = dt.timedelta(seconds=30)
_SYNCHRONIZE: Final = Advice(
    text="synchronize the clocks: see `timedatectl status` on both machines, and enable NTP",
    commands=(("timedatectl", "set-ntp", "true"),),
)


def find(examination: Examination) -> Iterator[DoctorFinding]:
    """Find a clock that differs from this machine's, and records from the future.

    The clock of a containerd on this machine is this machine's. That of another one is read off a new lease,
    which is removed at once.
    """
    if examination.host.process() is None:
        yield from _skew(examination)
    future = sorted(
        (moment, f"namespace {space.namespace}: {kind} {name} was created at {moment:%Y-%m-%dT%H:%M:%SZ}")
        for space in examination.spaces
        for kind, name, moment in _created(examination, space.namespace)
        if moment > examination.now + _TOLERANCE
    )
    if future:
        yield DoctorFinding(
            code="clock-set-back",
            severity="warning",
            what=f"{count(len(future), 'record')} with a time in the future: a clock was or is wrong, so "
            "leases and images expire too late or too early",
            evidence=(f"it is {examination.now:%Y-%m-%dT%H:%M:%SZ} here", *(text for _, text in future[:5])),
            remedy=_SYNCHRONIZE,
        )


def _created(examination: Examination, namespace: str) -> Iterator[tuple[str, str, dt.datetime]]:
    space = examination.containerd.in_namespace(namespace)
    state = examination.state(space)
    for name, (lease, _) in state.leases.items():
        if lease.created_at:
            yield "lease", name, lease.created_at
    for name, image in state.images.items():
        if image.created_at:
            yield "image", name, image.created_at


def _skew(examination: Examination) -> Iterator[DoctorFinding]:
    space = next(iter(examination.spaces), None)
    if space is None:
        raise CannotCheck("containerd has no namespace to create a lease in")
    before = dt.datetime.now(dt.UTC)
    name = f"pyctrd-doctor-{secrets.token_hex(4)}"
    expiry = (before + dt.timedelta(hours=1)).strftime("%Y-%m-%dT%H:%M:%SZ")
    lease = space.leases.create(name, {EXPIRE_LABEL: expiry, PURPOSE_LABEL: "doctor"})
    after = dt.datetime.now(dt.UTC)
    with suppress(NotFound):  # its clock may be so far ahead that it has expired
        space.leases.delete(name)
    there = lease.created_at
    if there is None:
        raise CannotCheck("containerd does not say when it created a lease")
    if before - _TOLERANCE <= there <= after + _TOLERANCE:
        return
    ahead = there > after
    difference = there - after if ahead else before - there
    shown = age(difference) if difference >= dt.timedelta(minutes=2) else f"{difference.seconds} seconds"
    yield DoctorFinding(
        code="clock-skew",
        severity="warning",
        what=f"containerd's clock is {shown} {'ahead of' if ahead else 'behind'} this machine's: what "
        f"expires there is removed too {'early' if ahead else 'late'}",
        evidence=(f"it is {there:%Y-%m-%dT%H:%M:%SZ} there, and {after:%Y-%m-%dT%H:%M:%SZ} here",),
        remedy=_SYNCHRONIZE,
    )

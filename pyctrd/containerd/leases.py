"""containerd's leases: what keeps content, ingests and snapshots from the garbage collector while we work.

Source: containerd api/services/leases/v1/leases.proto, client/lease.go, core/leases/id.go,
core/metadata/gc.go.
"""

from __future__ import annotations

import datetime as dt
import secrets
import time
from collections.abc import Mapping, Sequence

import msgspec

from pyctrd.containerd import convert
from pyctrd.containerd.channel import UNARY_SECONDS, WORK_SECONDS, Connection
from pyctrd.errors import LeaseLost
from pyctrd.oci.mediatypes import GC_REF_SNAPSHOT
from pyctrd.oci.model import ContentInfo
from pyctrd.protos.services.leases.v1 import leases_pb2, leases_pb2_grpc

EXPIRE_LABEL = "containerd.io/gc.expire"
PURPOSE_LABEL = "pyctrd.io/command"
LIFETIME = dt.timedelta(hours=24)
# The server refuses a label whose key and value together are longer (pkg/labels/validate.go).
_LABEL_BYTES = 4096
_TIME_FORMAT = "%Y-%m-%dT%H:%M:%SZ"


_KIND = "lease"


class Lease(msgspec.Struct, frozen=True, kw_only=True):
    """A lease of the namespace."""

    id: str
    labels: Mapping[str, str] = msgspec.field(default_factory=dict)
    created_at: dt.datetime | None = None


class LeaseResource(msgspec.Struct, frozen=True, kw_only=True):
    """What a lease holds: `type` is `content`, `ingests` or `snapshots/<snapshotter>`."""

    type: str
    id: str


def new_lease_id() -> str:
    """Make an id of containerd's form. The client makes it, so that a lost answer can't lose the lease."""
    return f"{time.time_ns() % 1_000_000_000}-{secrets.token_urlsafe(3)}"


def lease_labels(purpose: str, now: dt.datetime) -> dict[str, str]:
    """Give the labels of a lease for a command: when it expires by itself, and whose it is."""
    expires = (now.astimezone(dt.UTC) + LIFETIME).strftime(_TIME_FORMAT)
    room = _LABEL_BYTES - len(PURPOSE_LABEL)
    return {EXPIRE_LABEL: expires, PURPOSE_LABEL: purpose.encode()[:room].decode(errors="ignore")}


def lease_lost(
    lease_id: str, labels: Mapping[str, str], now: dt.datetime, detail: str = "", *, address: str = ""
) -> LeaseLost:
    """Make the error for a lease that went away under us: it says whether it had expired, or was deleted.

    `detail` is what failed for want of it, `address` the socket.
    """
    expired = labels[EXPIRE_LABEL] <= now.astimezone(dt.UTC).strftime(_TIME_FORMAT)
    how = f"expired at {labels[EXPIRE_LABEL]}" if expired else "was deleted by another client"
    message = f"lease {lease_id}: not found: it {how} while `pyctrd {labels[PURPOSE_LABEL]}` worked under it"
    return LeaseLost(
        f"{message}: {detail}" if detail else message,
        code="NOT_FOUND",
        kind=_KIND,
        name=lease_id,
        hint=f"or {address} leads to another containerd now; the garbage collector may have taken what it "
        "kept: run the command again, what is still here is not fetched again",
    )


class LeaseService:
    """Leases of one namespace."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._stub = leases_pb2_grpc.LeasesStub(connection.channel)

    def create(self, lease_id: str, labels: Mapping[str, str]) -> Lease:
        """Create a lease; raises AlreadyExists."""
        with self._connection.calling(_KIND, lease_id):
            answer = self._stub.Create(leases_pb2.CreateRequest(id=lease_id, labels=labels))
        return _to_lease(answer.lease)

    def delete(self, lease_id: str, *, sync: bool = False) -> None:
        """Delete a lease; with `sync` the garbage collector has run when this returns. Raises NotFound."""
        with self._connection.calling(_KIND, lease_id):
            request = leases_pb2.DeleteRequest(id=lease_id, sync=sync)
            self._stub.Delete(request, timeout=WORK_SECONDS if sync else UNARY_SECONDS)

    def list(self, filters: Sequence[str] = ()) -> Sequence[Lease]:
        """List leases that match any of the filters (containerd filter syntax)."""
        with self._connection.calling(_KIND, "list"):
            answer = self._stub.List(leases_pb2.ListRequest(filters=filters))
        return tuple(map(_to_lease, answer.leases))

    def add(self, lease_id: str, resource: LeaseResource) -> None:
        """Put something under a lease; a second time does nothing. Raises NotFound."""
        item = leases_pb2.Resource(id=resource.id, type=resource.type)
        with self._connection.calling(_KIND, lease_id):
            self._stub.AddResource(leases_pb2.AddResourceRequest(id=lease_id, resource=item))

    def resources(self, lease_id: str) -> Sequence[LeaseResource]:
        """List what a lease holds; raises NotFound."""
        with self._connection.calling(_KIND, lease_id):
            answer = self._stub.ListResources(leases_pb2.ListResourcesRequest(id=lease_id))
        return tuple(LeaseResource(type=item.type, id=item.id) for item in answer.resources)


def held_with(info: ContentInfo) -> Sequence[LeaseResource]:
    """List a blob and the snapshots that its gc labels keep, as a lease would name them.

    Source: containerd core/metadata/gc.go (sendLabelRefs).
    """
    snapshots = [
        LeaseResource(type=f"snapshots/{key.removeprefix(GC_REF_SNAPSHOT).partition('/')[0]}", id=value)
        for key, value in info.labels.items()
        if key.startswith(GC_REF_SNAPSHOT)
    ]
    return [LeaseResource(type="content", id=str(info.digest)), *snapshots]


def _to_lease(message: leases_pb2.Lease) -> Lease:
    return Lease(
        id=message.id, labels=dict(message.labels), created_at=convert.to_datetime(message.created_at)
    )

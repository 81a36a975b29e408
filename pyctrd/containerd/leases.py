"""containerd's leases, which protect content, ingests and snapshots from the garbage collector.

Source: containerd api/services/leases/v1/leases.proto, client/lease.go, core/leases/id.go,
core/metadata/gc.go.
"""

from __future__ import annotations

import datetime as dt
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from google.protobuf import empty_pb2

from pyctrd.containerd import convert
from pyctrd.containerd.calls import Call, ahead
from pyctrd.containerd.channel import UNARY_SECONDS, WORK_SECONDS, Connection
from pyctrd.errors import LeaseLost
from pyctrd.oci.expiry import EXPIRE_LABEL
from pyctrd.oci.mediatypes import GC_REF_SNAPSHOT
from pyctrd.oci.model import ContentInfo
from pyctrd.oci.resources import PURPOSE_LABEL, Lease, LeaseResource
from pyctrd.protos.services.leases.v1 import leases_pb2, leases_pb2_grpc

LIFETIME = dt.timedelta(hours=24)
# The limit for the length of a label's key and value together (pkg/labels/validate.go).
_LABEL_BYTES = 4096
_ADD = "/containerd.services.leases.v1.Leases/AddResource"
# How many entries are requested before the first one is written.
_AHEAD = 16
_TIME_FORMAT = "%Y-%m-%dT%H:%M:%SZ"


_KIND = "lease"


def new_lease_id() -> str:
    """Return a new id in containerd's form. The client chooses it, so a lost response does not lose it."""
    return f"{time.time_ns() % 1_000_000_000}-{secrets.token_urlsafe(3)}"


def lease_labels(purpose: str, now: dt.datetime) -> dict[str, str]:
    """Return the labels of a lease for a command: its expiry and its purpose."""
    expires = (now.astimezone(dt.UTC) + LIFETIME).strftime(_TIME_FORMAT)
    room = _LABEL_BYTES - len(PURPOSE_LABEL)
    return {EXPIRE_LABEL: expires, PURPOSE_LABEL: purpose.encode()[:room].decode(errors="ignore")}


def lease_lost(
    lease_id: str, labels: Mapping[str, str], now: dt.datetime, detail: str = "", *, address: str = ""
) -> LeaseLost:
    """Return the error for a lost lease, which says whether it expired or was deleted.

    `detail` is the error that followed, `address` the socket.
    """
    expired = labels[EXPIRE_LABEL] <= now.astimezone(dt.UTC).strftime(_TIME_FORMAT)
    how = f"expired at {labels[EXPIRE_LABEL]}" if expired else "was deleted by another client"
    message = f"lease {lease_id}: not found: it {how} while {labels[PURPOSE_LABEL]!r} was using it"
    return LeaseLost(
        f"{message}: {detail}" if detail else message,
        code="NOT_FOUND",
        kind=_KIND,
        name=lease_id,
        hint=f"or {address} now belongs to another containerd; the garbage collector may have removed "
        "content: try again, only what is missing is fetched",
    )


class LeaseService:
    """The leases of one namespace."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._stub = leases_pb2_grpc.LeasesStub(connection.channel)
        channel: Any = connection.channel
        self._add: Callable[..., Call] = channel.unary_future(
            _ADD,
            request_serializer=leases_pb2.AddResourceRequest.SerializeToString,
            response_deserializer=empty_pb2.Empty.FromString,
        )

    def create(self, lease_id: str, labels: Mapping[str, str]) -> Lease:
        """Create a lease. Raises AlreadyExists."""
        with self._connection.calling(_KIND, lease_id):
            answer = self._stub.Create(leases_pb2.CreateRequest(id=lease_id, labels=labels))
        return _to_lease(answer.lease)

    def delete(self, lease_id: str, *, sync: bool = False) -> None:
        """Delete a lease; `sync` waits for a run of the garbage collector. Raises NotFound."""
        with self._connection.calling(_KIND, lease_id):
            request = leases_pb2.DeleteRequest(id=lease_id, sync=sync)
            self._stub.Delete(request, timeout=WORK_SECONDS if sync else UNARY_SECONDS)

    def list(self, filters: Sequence[str] = ()) -> Sequence[Lease]:
        """Return the leases that match any of the filters (containerd filter syntax)."""
        with self._connection.calling(_KIND, "list"):
            answer = self._stub.List(leases_pb2.ListRequest(filters=filters))
        return tuple(map(_to_lease, answer.leases))

    def add(self, lease_id: str, resource: LeaseResource) -> None:
        """Add an object to a lease; adding it again does nothing. Raises NotFound."""
        self.add_all(lease_id, [resource])

    def add_all(self, lease_id: str, resources: Sequence[LeaseResource]) -> None:
        """Add objects to a lease. Raises NotFound."""

        def start(resource: LeaseResource) -> Call:
            item = leases_pb2.Resource(id=resource.id, type=resource.type)
            return self._add(leases_pb2.AddResourceRequest(id=lease_id, resource=item))

        for _, call in ahead(start, resources, _AHEAD):
            with self._connection.calling(_KIND, lease_id):
                call.result()

    def remove(self, lease_id: str, resource: LeaseResource) -> None:
        """Remove an object from a lease; if the lease does not have it, nothing happens. Raises NotFound."""
        item = leases_pb2.Resource(id=resource.id, type=resource.type)
        with self._connection.calling(_KIND, lease_id):
            self._stub.DeleteResource(leases_pb2.DeleteResourceRequest(id=lease_id, resource=item))

    def resources(self, lease_id: str) -> Sequence[LeaseResource]:
        """Return the objects that a lease protects. Raises NotFound."""
        with self._connection.calling(_KIND, lease_id):
            answer = self._stub.ListResources(leases_pb2.ListResourcesRequest(id=lease_id))
        return tuple(LeaseResource(type=item.type, id=item.id) for item in answer.resources)


def lease_resources(info: ContentInfo) -> Sequence[LeaseResource]:
    """Return the lease resources for a blob and the snapshots that its gc labels protect.

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

"""containerd's containers, which keep their snapshots, and the images they were made from in use.

Source: containerd api/services/containers/v1/containers.proto.
"""

from __future__ import annotations

from collections.abc import Sequence

from pyctrd.containerd import convert
from pyctrd.containerd.channel import Connection
from pyctrd.oci.resources import Container
from pyctrd.protos.services.containers.v1 import containers_pb2, containers_pb2_grpc

_KIND = "container"


class ContainerService:
    """The containers of one namespace. Implements ports.ContainerStore."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._stub = containers_pb2_grpc.ContainersStub(connection.channel)

    def list(self, filters: Sequence[str] = ()) -> Sequence[Container]:
        """Return the containers that match any of the filters (containerd filter syntax)."""
        with self._connection.calling(_KIND, "list"):
            answer = self._stub.List(containers_pb2.ListContainersRequest(filters=filters))
        return tuple(map(_to_container, answer.containers))


def _to_container(message: containers_pb2.Container) -> Container:
    return Container(
        id=message.id,
        image=message.image,
        snapshotter=message.snapshotter,
        snapshot_key=message.snapshot_key,
        runtime=message.runtime.name,
        sandbox=message.sandbox,
        labels=dict(message.labels),
        created_at=convert.to_datetime(message.created_at),
        updated_at=convert.to_datetime(message.updated_at),
    )

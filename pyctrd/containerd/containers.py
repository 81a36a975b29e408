"""containerd's containers, which keep their snapshots, and the images they were made from in use.

Source: containerd api/services/containers/v1/containers.proto.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from pyctrd.containerd import convert
from pyctrd.containerd.channel import Connection
from pyctrd.oci.resources import Container
from pyctrd.protos.services.containers.v1 import containers_pb2, containers_pb2_grpc

_KIND = "container"
_CRI_METADATA = "io.cri-containerd.container.metadata"


class _Metadata(msgspec.Struct):
    image_ref: str = msgspec.field(default="", name="ImageRef")


class _Versioned(msgspec.Struct):
    metadata: _Metadata = msgspec.field(default_factory=_Metadata, name="Metadata")


class ContainerService:
    """The containers of one namespace. Implements ports.ContainerStore."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._stub = containers_pb2_grpc.ContainersStub(connection.channel)

    def list(self, filters: Sequence[str] = ()) -> Sequence[Container]:
        """Return the containers that match any of the filters (containerd filter syntax)."""
        with self._connection.calling(_KIND, "list"):
            answer = self._stub.List(containers_pb2.ListContainersRequest(filters=filters))
        return tuple(map(to_container, answer.containers))


def to_container(message: containers_pb2.Container) -> Container:
    """Convert a container's record."""
    return Container(
        id=message.id,
        image=message.image,
        image_id=_image_id(message),
        snapshotter=message.snapshotter,
        snapshot_key=message.snapshot_key,
        runtime=message.runtime.name,
        sandbox=message.sandbox,
        labels=dict(message.labels),
        created_at=convert.to_datetime(message.created_at),
        updated_at=convert.to_datetime(message.updated_at),
    )


def _image_id(message: containers_pb2.Container) -> str:
    """Return the id of the image in CRI's own record (internal/cri/store/container/metadata.go), or ""."""
    if _CRI_METADATA not in message.extensions:
        return ""
    try:
        found = msgspec.json.decode(message.extensions[_CRI_METADATA].value, type=_Versioned)
    except msgspec.MsgspecError:
        return ""
    return found.metadata.image_ref

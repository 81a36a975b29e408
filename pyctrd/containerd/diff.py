"""containerd's diff service: unpacks a layer.

Source: containerd api/services/diff/v1/diff.proto, plugins/services/diff/local.go.
"""

from __future__ import annotations

from collections.abc import Sequence

from pyctrd.containerd import convert
from pyctrd.containerd.channel import WORK_SECONDS, Connection
from pyctrd.oci.model import Descriptor, Mount
from pyctrd.protos.services.diff.v1 import diff_pb2, diff_pb2_grpc


class DiffService:
    """Implements ports.DiffService."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._stub = diff_pb2_grpc.DiffStub(connection.channel)

    def apply(self, descriptor: Descriptor, mounts: Sequence[Mount]) -> Descriptor:
        """Unpack a layer onto mounts; return the descriptor of its uncompressed form (digest = diff id).

        Raises NotFound if the layer is not in the store, Unsupported if no differ supports its media type.
        """
        request = diff_pb2.ApplyRequest(
            diff=convert.from_descriptor(descriptor), mounts=convert.from_mounts(mounts)
        )
        with self._connection.calling("layer", descriptor.digest):
            answer = self._stub.Apply(request, timeout=WORK_SECONDS)
        return convert.to_descriptor(answer.applied)

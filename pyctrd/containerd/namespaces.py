"""containerd's namespaces and their labels.

Source: containerd api/services/namespaces/v1/namespace.proto, core/metadata/namespaces.go.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pyctrd.containerd.channel import Connection
from pyctrd.oci.resources import Namespace
from pyctrd.protos.services.namespaces.v1 import namespace_pb2, namespace_pb2_grpc

_KIND = "namespace"


class NamespaceService:
    """The namespaces of one containerd. A namespace exists as soon as something in it does."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._stub = namespace_pb2_grpc.NamespacesStub(connection.channel)

    def list(self) -> Sequence[Namespace]:
        """Return all namespaces."""
        with self._connection.calling(_KIND, "list"):
            answer = self._stub.List(namespace_pb2.ListNamespacesRequest())
        return tuple(map(_to_namespace, answer.namespaces))

    def get(self, name: str) -> Namespace:
        """Return a namespace; as in containerd, one that does not exist yet is returned without labels."""
        with self._connection.calling(_KIND, name):
            answer = self._stub.Get(namespace_pb2.GetNamespaceRequest(name=name))
        return _to_namespace(answer.namespace)

    def create(self, name: str, labels: Mapping[str, str] | None = None) -> Namespace:
        """Create a namespace. Raises AlreadyExists."""
        message = namespace_pb2.Namespace(name=name, labels=labels)
        with self._connection.calling(_KIND, name):
            answer = self._stub.Create(namespace_pb2.CreateNamespaceRequest(namespace=message))
        return _to_namespace(answer.namespace)

    def set_labels(self, name: str, labels: Mapping[str, str]) -> None:
        """Set labels without changing the others; an empty value removes a label. Raises NotFound."""
        if not labels:
            return
        message = namespace_pb2.Namespace(name=name, labels=labels)
        request = namespace_pb2.UpdateNamespaceRequest(namespace=message)
        request.update_mask.paths.extend(f"labels.{key}" for key in labels)
        with self._connection.calling(_KIND, name):
            self._stub.Update(request)

    def delete(self, name: str) -> None:
        """Delete an empty namespace. Raises NotFound, FailedPrecondition if it is not empty."""
        with self._connection.calling(_KIND, name):
            self._stub.Delete(namespace_pb2.DeleteNamespaceRequest(name=name))


def _to_namespace(message: namespace_pb2.Namespace) -> Namespace:
    return Namespace(name=message.name, labels=dict(message.labels))

"""containerd's version service.

Source: containerd api/services/version/v1/version.proto.
"""

from __future__ import annotations

import grpc
from google.protobuf import empty_pb2

from pyctrd.containerd.channel import CONNECT_SECONDS, Connection, status_of
from pyctrd.oci.resources import DaemonVersion
from pyctrd.protos.services.version.v1 import version_pb2_grpc


def ask_version(connection: Connection) -> DaemonVersion:
    """Return the version. Raises DaemonUnreachable if no containerd answers."""
    stub = version_pb2_grpc.VersionStub(connection.channel)
    try:
        answer = stub.Version(empty_pb2.Empty(), timeout=CONNECT_SECONDS)
    except grpc.RpcError as error:
        code, details = status_of(error)
        raise connection.explain(_not_containerd(code, details)) from error
    if not answer.version:
        raise connection.explain("its response to a version call is empty, so it is not containerd")
    return DaemonVersion(version=answer.version, revision=answer.revision)


def _not_containerd(code: grpc.StatusCode, details: str) -> str:
    match code:
        case grpc.StatusCode.UNAVAILABLE:
            return details
        case grpc.StatusCode.DEADLINE_EXCEEDED:
            return f"no answer within {CONNECT_SECONDS:.0f} seconds"
        case grpc.StatusCode.UNIMPLEMENTED:
            return "another gRPC server answers there, not containerd"
        case _:
            return f"its response to a version call is not containerd's ({code.name}: {details})"

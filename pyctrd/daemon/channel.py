"""The gRPC channel to containerd: headers, deadlines, and the one place where its errors become ours.

Source: containerd client/client.go, pkg/namespaces/grpc.go, core/leases/grpc.go, defaults/defaults.go;
the mapping of codes is that of github.com/containerd/errdefs/pkg/errgrpc.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final, NamedTuple, Self
from urllib.parse import quote

import grpc

from pyctrd.daemon import address
from pyctrd.errors import (
    AlreadyExists,
    DaemonError,
    DaemonUnreachable,
    FailedPrecondition,
    NotFound,
    PyctrdError,
    Unsupported,
)

MAX_MESSAGE_BYTES: Final = 16 * 1024 * 1024
CONNECT_SECONDS: Final = 10.0
UNARY_SECONDS: Final = 60.0
# For calls that do work in proportion to an image: applying a layer, a garbage collection.
WORK_SECONDS: Final = 3600.0

_BY_CODE: Final[Mapping[grpc.StatusCode, type[DaemonError]]] = {
    grpc.StatusCode.ALREADY_EXISTS: AlreadyExists,
    grpc.StatusCode.FAILED_PRECONDITION: FailedPrecondition,
    grpc.StatusCode.UNIMPLEMENTED: Unsupported,
}


class Subject(NamedTuple):
    """The object that a call is about: its kind in the field's words, and its name."""

    kind: str
    name: str


class _CallDetails(NamedTuple):
    method: str
    timeout: float | None
    metadata: tuple[tuple[str, str], ...]
    credentials: Any
    wait_for_ready: bool | None
    compression: Any


class _Headers(
    grpc.UnaryUnaryClientInterceptor,
    grpc.UnaryStreamClientInterceptor,
    grpc.StreamStreamClientInterceptor,
):
    """Puts namespace and lease on every call, and a deadline on those that are not streams.

    Every call: even Namespaces.Create does its work and then fails when the namespace header is absent.
    """

    def __init__(self, namespace: str, lease: str) -> None:
        self._metadata: tuple[tuple[str, str], ...] = (("containerd-namespace", namespace),)
        if lease:
            self._metadata += (("containerd-lease", lease),)

    def _details(self, details: grpc.ClientCallDetails, timeout: float | None) -> _CallDetails:
        return _CallDetails(
            method=details.method,
            timeout=details.timeout if details.timeout is not None else timeout,
            metadata=self._metadata,
            credentials=details.credentials,
            wait_for_ready=details.wait_for_ready,
            compression=details.compression,
        )

    def intercept_unary_unary(
        self, continuation: Callable[..., Any], client_call_details: grpc.ClientCallDetails, request: Any
    ) -> Any:
        return continuation(self._details(client_call_details, UNARY_SECONDS), request)

    def intercept_unary_stream(
        self, continuation: Callable[..., Any], client_call_details: grpc.ClientCallDetails, request: Any
    ) -> Any:
        return continuation(self._details(client_call_details, None), request)

    def intercept_stream_stream(
        self,
        continuation: Callable[..., Any],
        client_call_details: grpc.ClientCallDetails,
        request_iterator: Any,
    ) -> Any:
        return continuation(self._details(client_call_details, None), request_iterator)


class Connection:
    """A channel to one containerd, seen in one namespace and perhaps through one lease."""

    def __init__(
        self, base: grpc.Channel, *, path: str, namespace: str, lease: str, environ: Mapping[str, str]
    ) -> None:
        self._base = base
        self._environ = environ
        self.path = path
        self.namespace = namespace
        self.lease = lease
        self.channel = grpc.intercept_channel(base, _Headers(namespace, lease))

    @classmethod
    def open(cls, path: str, namespace: str, environ: Mapping[str, str]) -> Self:
        """Open a channel to the unix socket at `path`; raises DaemonUnreachable when nobody serves it."""
        address.check_socket(path, environ)
        options = [
            ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
            ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
            ("grpc.default_authority", "localhost"),
            # How far gRPC reads ahead of a slow reader, per call: its own estimate grows to tens of MiB.
            ("grpc.http2.bdp_probe", 0),
            ("grpc.http2.lookahead_bytes", 1024 * 1024),
            # Fewer, larger writes to the socket: measured, it takes a tenth off the CPU time of an ingest.
            ("grpc.http2.write_buffer_size", 4 * 1024 * 1024),
            # A socket costs nothing to try: a daemon that was restarted is found again within a second.
            ("grpc.initial_reconnect_backoff_ms", 100),
            ("grpc.max_reconnect_backoff_ms", 1000),
        ]
        base = grpc.insecure_channel(f"unix:{quote(path)}", options=options)
        return cls(base, path=path, namespace=namespace, lease="", environ=environ)

    def leased(self, lease: str) -> Connection:
        """Give a view through a lease that shares this channel."""
        return Connection(
            self._base, path=self.path, namespace=self.namespace, lease=lease, environ=self._environ
        )

    def close(self) -> None:
        """Close the channel; calls that are under way end as cancelled."""
        self._base.close()

    def explain(self, detail: str) -> DaemonUnreachable:
        """Find out why calls get no useful answer; `detail` is what the last one failed with."""
        return address.unreachable(self.path, self._environ, detail)

    @contextmanager
    def calling(self, kind: str, name: str) -> Iterator[None]:
        """Turn the gRPC errors of a call about an object into ours."""
        try:
            yield
        except grpc.RpcError as error:
            raise self.translate(error, Subject(kind, name)) from error

    def translate(self, error: grpc.RpcError, subject: Subject) -> PyctrdError:
        """Give our exception for a gRPC error: by its code, with containerd's own phrase."""
        code, details = status_of(error)
        if code is grpc.StatusCode.UNAVAILABLE:
            return self.explain(details)
        message = details or f"containerd answered {code.name}"
        if subject.name not in message:
            message = f"{subject.kind} {subject.name}: {message}"
        if code is grpc.StatusCode.NOT_FOUND:
            return NotFound(message, kind=subject.kind, name=subject.name)
        kind = _BY_CODE.get(code, DaemonError)
        return kind(message, code=code.name, kind=subject.kind, name=subject.name, hint=_hint(code, message))


def status_of(error: grpc.RpcError) -> tuple[grpc.StatusCode, str]:
    """Give code and text of a gRPC error."""
    return error.code(), error.details() or ""


# What the kernel said to containerd, which passes it on in its message, under a code that says nothing.
_ADVICE: Final[Mapping[str, str]] = {
    "no space left on device": (
        "containerd's disk is full: make room there (df shows it; delete images that nobody needs), "
        "and run the same command again"
    ),
    "disk quota exceeded": "containerd's disk quota is used up: make room, and run the same command again",
    "read-only file system": (
        "containerd cannot write to its root directory: see how that is mounted (findmnt), and its log; "
        "what is there already can still be saved"
    ),
}


def _hint(code: grpc.StatusCode, message: str) -> str | None:
    for phrase, advice in _ADVICE.items():
        if phrase in message:
            return advice
    match code:
        case grpc.StatusCode.UNIMPLEMENTED:
            return "this containerd is too old for that, or has the service disabled (ctr plugins ls)"
        case grpc.StatusCode.DEADLINE_EXCEEDED:
            return "containerd did not answer in time; see its log (journalctl -u containerd)"
        case _:
            return None

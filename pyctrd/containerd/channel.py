"""The gRPC channel to containerd: headers, deadlines, and the translation of its errors.

Source: containerd client/client.go, pkg/namespaces/grpc.go, core/leases/grpc.go, defaults/defaults.go;
the mapping of codes is that of github.com/containerd/errdefs/pkg/errgrpc.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from functools import cache, partial
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Self, cast

import grpc

from pyctrd.containerd.address import Place
from pyctrd.containerd.calls import STALL_SECONDS, Call, Calls
from pyctrd.containerd.telemetry import CallReports, Headers
from pyctrd.errors import (
    AlreadyExists,
    Cancelled,
    ClientClosed,
    DaemonError,
    DaemonUnreachable,
    FailedPrecondition,
    ImageNotFound,
    InvalidInput,
    NotFound,
    PyctrdError,
    Unsupported,
)

if TYPE_CHECKING:
    from pyctrd.tracing import Tracing

MAX_MESSAGE_BYTES: Final = 16 * 1024 * 1024
# Shorter than the 20 seconds after which gRPC itself gives up with an unhelpful message.
CONNECT_SECONDS: Final = 15.0
UNARY_SECONDS: Final = 60.0
# For calls whose duration depends on the size of an image: applying a layer, a garbage collection.
WORK_SECONDS: Final = 3600.0

_BY_CODE: Final[Mapping[grpc.StatusCode, type[DaemonError]]] = {
    grpc.StatusCode.ALREADY_EXISTS: AlreadyExists,
    grpc.StatusCode.FAILED_PRECONDITION: FailedPrecondition,
    grpc.StatusCode.UNIMPLEMENTED: Unsupported,
}


class Subject(NamedTuple):
    """The object of a call: its kind (image, content, lease ...) and its name."""

    kind: str
    name: str


class Channel:
    """The channel for the generated stubs: adds the namespace and the lease to every call.

    To every call, because even Namespaces.Create creates the namespace and then fails without the header.
    Unary calls get a deadline.
    """

    def __init__(
        self, base: grpc.Channel, calls: Calls, namespace: str, lease: str, reports: CallReports
    ) -> None:
        self._base: Any = base
        self._calls = calls
        self._reports = reports
        self._metadata: tuple[tuple[str, str], ...] = (("containerd-namespace", namespace),)
        if lease:
            self._metadata += (("containerd-lease", lease),)

    def unary_unary(self, method: str, **how: Any) -> Callable[..., Any]:
        """Return a function that makes a call and waits for the response."""
        start = self.unary_future(method, **how)
        return lambda request, timeout=None: start(request, timeout).result()

    def unary_future(self, method: str, **how: Any) -> Callable[..., Call]:
        """Return a function that starts a call with one response."""
        made = cache(lambda: self._base.unary_unary(method, **how))

        def call(request: Any, timeout: float | None = None) -> Call:
            def begin(seconds: float | None) -> Any:
                def send(headers: Headers) -> Any:
                    return made().future(request, timeout=seconds, metadata=(*self._metadata, *headers))

                return self._reports.begun(method, request, send)

            return self._calls.start(method, begin, UNARY_SECONDS if timeout is None else timeout)

        return call

    def unary_stream(self, method: str, **how: Any) -> Callable[..., Call]:
        """Return a function that starts a call with a stream of responses."""
        return self._streaming(method, cache(lambda: self._base.unary_stream(method, **how)))

    def stream_stream(self, method: str, **how: Any) -> Callable[..., Call]:
        """Return a function that starts a call with streams in both directions."""
        return self._streaming(method, cache(lambda: self._base.stream_stream(method, **how)))

    def _streaming(self, method: str, made: Callable[[], Callable[..., Any]]) -> Callable[..., Call]:
        def call(request: Any, subject: str = "") -> Call:
            def begin(_seconds: float | None) -> Any:
                def send(headers: Headers) -> Any:
                    return made()(request, metadata=(*self._metadata, *headers))

                return self._reports.begun(method, subject or request, send)

            return self._calls.start(method, begin, None)

        return call


class Connection:
    """A channel to one containerd, for one namespace and optionally one lease."""

    def __init__(
        self,
        base: grpc.Channel,
        calls: Calls,
        *,
        namespace: str,
        lease: str,
        place: Place,
        tracing: Tracing | None = None,
    ) -> None:
        self._base = base
        self._tracing = tracing
        self._calls = calls
        self.place = place
        self.namespace = namespace
        self.lease = lease
        reports = CallReports(place.name, namespace, tracing)
        self.channel = cast("grpc.Channel", Channel(base, calls, namespace, lease, reports))

    @classmethod
    def open(
        cls,
        path: str,
        namespace: str,
        place: Place,
        stall_seconds: float = STALL_SECONDS,
        tracing: Tracing | None = None,
    ) -> Self:
        """Open a channel to the unix socket at `path`. Raises DaemonUnreachable if no server listens there.

        Calls raise DaemonUnreachable if the daemon does not answer any call for `stall_seconds`. `place` says
        why.
        """
        place.check()
        options = [
            ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
            ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
            ("grpc.default_authority", "localhost"),
            # How far gRPC reads ahead of a slow reader, per call: its own estimate is tens of MiB.
            ("grpc.http2.bdp_probe", 0),
            ("grpc.http2.lookahead_bytes", 1024 * 1024),
            # Fewer, larger writes to the socket: measured, an ingest takes 10 % less CPU time.
            ("grpc.http2.write_buffer_size", 4 * 1024 * 1024),
            # Trying a socket costs nothing; a restarted daemon is found again within a second.
            ("grpc.initial_reconnect_backoff_ms", 100),
            ("grpc.max_reconnect_backoff_ms", 1000),
        ]
        base = grpc.insecure_channel(f"unix:{_quoted(path)}", options=options)
        calls = Calls(base, partial(place.silent, stall_seconds), stall_seconds)
        return cls(base, calls, namespace=namespace, lease="", place=place, tracing=tracing)

    def leased(self, lease: str) -> Connection:
        """Return a connection under a lease that shares this channel."""
        return self._view(self.namespace, lease)

    def in_namespace(self, namespace: str) -> Connection:
        """Return a connection for another namespace, without a lease, that shares this channel."""
        return self._view(namespace, "")

    def scope(self) -> Connection:
        """Return a connection that shares this channel, and whose `cancel` only ends its own calls."""
        return self._view(self.namespace, self.lease, self._calls.scope())

    def _view(self, namespace: str, lease: str, calls: Calls | None = None) -> Connection:
        return Connection(
            self._base,
            calls or self._calls,
            namespace=namespace,
            lease=lease,
            place=self.place,
            tracing=self._tracing,
        )

    def working(self) -> AbstractContextManager[None]:
        """Mark work that cleans up at its end: `cancel` and `close` wait a moment for it."""
        return self._calls.working()

    @property
    def is_over(self) -> bool:
        """Whether `cancel` or `close` has been called."""
        return self._calls.is_over

    @property
    def stall_seconds(self) -> float:
        """How long the daemon may be silent, or another client make no progress."""
        return self._calls.stall_seconds

    def check_open(self) -> None:
        """Raise Cancelled or ClientClosed after `cancel` or `close`."""
        self._calls.check_open()

    def cancel(self) -> None:
        """Make calls in progress in all threads raise Cancelled, and refuse new ones.

        Calls that clean up are allowed for a moment; returns when they are done.
        """
        self._calls.end(lambda: Cancelled("the operation was cancelled"))

    def close(self) -> None:
        """Make calls in progress raise ClientClosed, as `cancel` does, then close the channel."""
        self._calls.close(lambda: ClientClosed("the client is closed"))

    def explain(self, detail: str) -> DaemonUnreachable:
        """Find out why calls fail; `detail` is the error of the last one."""
        return self.place.unreachable(detail)

    @contextmanager
    def calling(self, kind: str, name: str) -> Iterator[None]:
        """Translate the gRPC errors of a call about an object."""
        try:
            yield
        except grpc.RpcError as error:
            raise self.translate(error, Subject(kind, name)) from error

    def translate(self, error: grpc.RpcError, subject: Subject) -> PyctrdError:
        """Return the pyctrd error for a gRPC error, chosen by its code, with containerd's own message."""
        code, details = status_of(error)
        if code is grpc.StatusCode.UNAVAILABLE:
            return self.explain(details)
        if code is grpc.StatusCode.DEADLINE_EXCEEDED and self._calls.is_silent():
            return self.place.silent()
        message = details or f"containerd returned {code.name}"
        if _BAD_FILTER in message:
            return InvalidInput(f"invalid filter: {message}", hint=_FILTER_SYNTAX)
        if subject.name not in message:
            message = f"{subject.kind} {subject.name}: {message}"
        if code is grpc.StatusCode.NOT_FOUND:
            absent = ImageNotFound if subject.kind == "image" else NotFound
            return absent(message, kind=subject.kind, name=subject.name)
        kind = _BY_CODE.get(code, DaemonError)
        return kind(message, code=code.name, kind=subject.kind, name=subject.name, hint=_hint(code, message))


def _quoted(path: str) -> str:
    """Return a path as gRPC takes it from a URI."""
    if re.fullmatch("[A-Za-z0-9_.~/-]+", path):
        return path
    from urllib.parse import quote

    return quote(path)


def status_of(error: grpc.RpcError) -> tuple[grpc.StatusCode, str]:
    """Return the code and the message of a gRPC error."""
    return error.code(), error.details() or ""


# containerd pkg/filters/parser.go.
_BAD_FILTER: Final = "filters: parse error"
_FILTER_SYNTAX: Final = (
    "a filter is FIELD==VALUE, FIELD!=VALUE or FIELD~=REGEXP, several joined by commas; quote a field's "
    'part with dots or slashes: labels."example.com/team"==web'
)
# Errors that containerd passes on in its message, most of them the kernel's, with an unspecific code.
_ADVICE: Final[Mapping[str, str]] = {
    "no space left on device": (
        "containerd's disk is full: free some space (see df; delete unused images), and try again"
    ),
    "disk quota exceeded": "containerd's disk quota is used up: free some space, and try again",
    "read-only file system": (
        "containerd cannot write to its root directory: check its mount (findmnt) and containerd's log; "
        "images that are already complete can still be saved"
    ),
}


def _hint(code: grpc.StatusCode, message: str) -> str | None:
    for phrase, advice in _ADVICE.items():
        if phrase in message:
            return advice
    match code:
        case grpc.StatusCode.UNIMPLEMENTED:
            return "this containerd is too old, or the service is disabled (see `ctr plugins ls`)"
        case grpc.StatusCode.DEADLINE_EXCEEDED:
            return "containerd did not answer in time; see its log (journalctl -u containerd)"
        case _:
            return None

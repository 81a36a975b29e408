"""A log record for each call to containerd, and a span if tracing is on.

Otherwise a call costs one look at the level of the logger, and a message of a stream nothing.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import grpc

from pyctrd import redact

if TYPE_CHECKING:
    from pyctrd.tracing import Span, Tracing

Headers: TypeAlias = Sequence[tuple[str, str]]

_log = redact.logger("pyctrd.containerd")

# The fields that name what a request is about; the first one that is set is logged.
_SUBJECTS: Final = ("name", "digest", "id", "expected", "ref", "key", "namespace")
# The messages in a request that may have such a field.
_PARTS: Final = ("image", "info", "lease", "snapshot", "namespace")


class CallReports:
    """Reports the calls of one channel in one namespace."""

    def __init__(self, address: str, namespace: str, tracing: Tracing | None = None) -> None:
        self._address = address
        self._namespace = namespace
        self._tracing = tracing

    def begun(self, method: str, subject: Any, begin: Callable[[Headers], Any]) -> Any:
        """Begin a call, and return it; its end is reported before a thread that waits for it goes on.

        `subject` is what the call is about: a text, or the request that says so. `begin` gets the headers
        with which containerd continues the trace.
        """
        if self._tracing is None and not _log.isEnabledFor(logging.DEBUG):
            return begin(())
        about = subject if isinstance(subject, str) else _subject(subject)
        started = time.monotonic()

        def ended(raw: Any) -> None:
            seconds = time.monotonic() - started
            if span is not None:
                status = raw.code()
                error = "" if status is grpc.StatusCode.OK else status.name
                span.end({"rpc.grpc.status_code": status.value[0]}, error=error)
            if not _log.isEnabledFor(logging.DEBUG):
                return
            code, short = raw.code().name, method.rpartition(".")[2].replace("/", ".")
            _log.debug(
                "%s%s: %s, %.1f ms",
                short,
                f" {about}" if about else "",
                code,
                seconds * 1000,
                extra={
                    "method": method.removeprefix("/"),
                    "address": self._address,
                    "namespace": self._namespace,
                    "subject": about,
                    "code": code,
                    "seconds": seconds,
                },
            )

        span = self._span(self._tracing, method, about) if self._tracing else None
        try:
            return _Watched(begin(span.headers() if span else ()), ended)
        except BaseException as error:
            if span is not None:
                span.end(error=type(error).__name__)
            raise

    def _span(self, tracing: Tracing, method: str, about: str) -> Span:
        """Start a span, with the names of OpenTelemetry's conventions for gRPC."""
        service, _, name = method.removeprefix("/").partition("/")
        return tracing.client_span(
            f"{service}/{name}",
            {
                "rpc.system": "grpc",
                "rpc.service": service,
                "rpc.method": name,
                "server.address": self._address,
                "network.transport": "unix",
                "containerd.namespace": self._namespace,
                **({"containerd.subject": redact.strike(about)} if about else {}),
            },
        )


class _Watched:
    """A call of gRPC that reports its end once: in the thread that waits for it, or in gRPC's own."""

    def __init__(self, raw: Any, ended: Callable[[Any], None]) -> None:
        self._raw = raw
        self._ended = ended
        self._lock = threading.Lock()
        self._reported = False
        if not raw.add_callback(self._report):
            self._report()

    def add_callback(self, callback: Callable[[], None]) -> bool:
        added: bool = self._raw.add_callback(callback)
        return added

    def cancel(self) -> None:
        self._raw.cancel()

    def result(self) -> Any:
        try:
            return self._raw.result()
        finally:
            self._report()

    def __next__(self) -> Any:
        try:
            return self._raw.__next__()
        except (StopIteration, grpc.RpcError):
            self._report()
            raise

    def _report(self) -> None:
        # Under the lock, so that a thread does not go on while the other one is still reporting.
        with self._lock:
            # An interrupt may end the wait before the call.
            if self._reported or not self._raw.done():
                return
            self._reported = True
            self._ended(self._raw)


def _subject(request: Any) -> str:
    """Return the name, digest or key that a request is about, "" if it has none."""
    parts = (getattr(request, part, None) for part in _PARTS)
    for message in (request, *parts):
        for name in _SUBJECTS:
            value = getattr(message, name, "")
            if value and isinstance(value, str):
                return value
    return ""

"""OpenTelemetry spans for operations, calls to containerd and requests to registries.

Only this module imports opentelemetry, and only when a tracer provider is given. Spans have no secrets: URLs
come without user and query, and texts of errors are redacted.
"""

from __future__ import annotations

import functools
import inspect
import threading
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final, Protocol, TypeVar

from pyctrd import redact
from pyctrd.errors import InvalidInput
from pyctrd.version import __version__

_T = TypeVar("_T")

# These end other operations.
_NOT_TRACED: Final = frozenset({"close", "cancel"})
# The names of a first parameter that is an image.
_IMAGE_PARAMETERS: Final = frozenset({"ref", "refs"})


class TracerProvider(Protocol):
    """What is used of opentelemetry.trace.TracerProvider."""

    def get_tracer(self, name: str, version: str | None = None, /) -> Any:
        """Return the tracer of a library."""


class Span:
    """A span of a call or a request. It is ended once; later ends are ignored. Thread safe."""

    def __init__(self, raw: Any) -> None:
        self._raw = raw
        self._lock = threading.Lock()
        self._ended = False

    def set(self, attributes: Mapping[str, object]) -> None:
        """Set attributes."""
        self._raw.set_attributes(attributes)

    def end(self, attributes: Mapping[str, object] = MappingProxyType({}), *, error: str = "") -> None:
        """End the span with more attributes; `error` is the type of the error, "" if there was none."""
        with self._lock:
            if self._ended:
                return
            self._ended = True
        self.set(attributes)
        if error:
            _fail(self._raw, error)
        self._raw.end()

    def headers(self) -> Sequence[tuple[str, str]]:
        """Return the headers with the context of the span, for a server that continues the trace."""
        from opentelemetry import propagate, trace

        carrier: dict[str, str] = {}
        propagate.inject(carrier, context=trace.set_span_in_context(self._raw))
        return [(key.lower(), value) for key, value in carrier.items()]


class Tracing:
    """Creates spans. Raises InvalidInput if the provider is none, or opentelemetry is not installed."""

    def __init__(self, provider: TracerProvider) -> None:
        try:
            from opentelemetry.trace import SpanKind
        except ImportError as error:
            raise InvalidInput(
                "`tracer_provider` needs opentelemetry", hint="install pyctrd[otel]"
            ) from error
        if not callable(getattr(provider, "get_tracer", None)):
            raise InvalidInput(f"tracer_provider={provider!r}: is not a TracerProvider of opentelemetry")
        self._tracer = provider.get_tracer("pyctrd", __version__)
        self._client_kind = SpanKind.CLIENT

    def client_span(self, name: str, attributes: Mapping[str, object]) -> Span:
        """Start the span of a call to another program, as a child of the current span."""
        return Span(self._tracer.start_span(name, kind=self._client_kind, attributes=attributes))

    def traced(self, part: _T, name: str, attributes: Mapping[str, object]) -> _T:
        """Make each call of a public method of an object a span `name.method`; return the object."""
        for method, _ in inspect.getmembers(type(part), inspect.isfunction):
            if not method.startswith("_") and method not in _NOT_TRACED:
                setattr(part, method, self._operation(getattr(part, method), f"{name}.{method}", attributes))
        return part

    def _operation(
        self, method: Callable[..., Any], name: str, attributes: Mapping[str, object]
    ) -> Callable[..., Any]:
        first = next(iter(inspect.signature(method).parameters), "")

        @functools.wraps(method)
        def traced(*args: Any, **named: Any) -> Any:
            given = args[0] if args else named.get(first)
            image = {}
            if first in _IMAGE_PARAMETERS and isinstance(given, str):
                image = {"container.image.name": redact.strike(given)}
            with self._tracer.start_as_current_span(
                name,
                attributes={**attributes, **image},
                # Messages of other libraries' errors may have secrets.
                record_exception=False,
                set_status_on_exception=False,
            ) as span:
                try:
                    return method(*args, **named)
                except BaseException as error:
                    _fail(span, type(error).__name__, redact.strike(str(error)))
                    raise

        return traced


def _fail(raw: Any, kind: str, text: str = "") -> None:
    from opentelemetry.trace import Status, StatusCode

    raw.set_attribute("error.type", kind)
    raw.set_status(Status(StatusCode.ERROR, text or None))

"""A log record for each request to a registry, and a span if tracing is on.

Otherwise a request costs one look at the level of the logger.
"""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from pyctrd import redact
from pyctrd.registry.config.proxy import without_secrets

if TYPE_CHECKING:
    from pyctrd.tracing import Span, Tracing

_log = redact.logger("pyctrd.registry")


class Exchange:
    """A request that is logged when the head of its response has arrived, or when it has failed.

    Its span ends with the body of the response.
    """

    def __init__(self, method: str, url: str, host: str, tracing: Tracing | None = None) -> None:
        self.started = time.monotonic()
        self._method = method
        self._url = url
        self._host = host
        self._span = _span(tracing, method, url) if tracing else None
        self._error = ""

    def answered(self, status: int, length: int | None) -> None:
        """Log the response; `length` is the size of its body, as far as it is known."""
        if self._span is not None:
            self._span.set({"http.response.status_code": status})
            self._error = str(status) if status >= 400 else ""
        if not _log.isEnabledFor(logging.DEBUG):
            return
        seconds, url = time.monotonic() - self.started, without_secrets(self._url)
        _log.debug(
            "%s %s: %d, %.1f ms",
            self._method,
            url,
            status,
            seconds * 1000,
            extra={
                "method": self._method,
                "url": url,
                "host": self._host,
                "status": status,
                "bytes": length,
                "seconds": seconds,
            },
        )

    def failed(self, error: BaseException) -> None:
        """Log that there was no response."""
        if self._span is not None:
            self._span.end(error=type(error).__name__)
        if not _log.isEnabledFor(logging.DEBUG):
            return
        seconds, url = time.monotonic() - self.started, without_secrets(self._url)
        kind = type(error).__name__
        _log.debug(
            "%s %s: %s, %.1f ms",
            self._method,
            url,
            kind,
            seconds * 1000,
            extra={
                "method": self._method,
                "url": url,
                "host": self._host,
                "error": kind,
                "seconds": seconds,
            },
        )

    def ended(self, size: int, error: BaseException | None = None) -> None:
        """End the span: `size` bytes of the body were read, then it was closed or an error occurred."""
        if self._span is not None:
            kind = type(error).__name__ if error else self._error
            self._span.end({"http.response.body.size": size}, error=kind)


def _span(tracing: Tracing, method: str, url: str) -> Span:
    """Start a span, with the names of OpenTelemetry's conventions for HTTP."""
    shown = without_secrets(url)
    parts = urlsplit(shown)
    return tracing.client_span(
        method,
        {
            "http.request.method": method,
            "url.full": redact.strike(shown),
            "server.address": parts.hostname or "",
            "server.port": parts.port or (443 if parts.scheme == "https" else 80),
        },
    )

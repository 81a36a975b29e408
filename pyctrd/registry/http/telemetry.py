"""A log record for each request to a registry; one look at the level of the logger unless it is DEBUG."""

from __future__ import annotations

import logging
import time

from pyctrd import redact
from pyctrd.registry.config.proxy import without_secrets

_log = redact.logger("pyctrd.registry")


class Exchange:
    """A request that is logged when the head of its response has arrived, or when it has failed."""

    def __init__(self, method: str, url: str, host: str) -> None:
        self.started = time.monotonic()
        self._method = method
        self._url = url
        self._host = host

    def answered(self, status: int, length: int | None) -> None:
        """Log the response; `length` is the size of its body, as far as it is known."""
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

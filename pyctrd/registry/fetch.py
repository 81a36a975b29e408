"""Request the content of a descriptor from any offset, at the first host that has it.

Sources: OCI distribution-spec ("Pulling blobs"); containerd core/remotes/docker/fetcher.go.
"""

from __future__ import annotations

import functools
import re
from collections import Counter
from collections.abc import Callable
from typing import Final
from urllib.parse import urlsplit

import msgspec

from pyctrd import redact
from pyctrd.errors import RegistryContentError, RegistryError
from pyctrd.oci import mediatypes
from pyctrd.oci.model import Descriptor
from pyctrd.registry.hosts import RepositoryHosts, kind_of, severity, with_tries
from pyctrd.registry.http.response import Response
from pyctrd.registry.http.retry import MAX_CUTS_PER_HOST

CONTENT_RANGE: Final = re.compile(r"bytes (\d{1,18})-(\d{1,18})/(\d{1,18}|\*)")

# Foreign layers have few URLs; a manifest must not direct requests to any hosts forever.
MAX_URLS: Final = 8

_log = redact.logger("pyctrd.registry")


class Opened(msgspec.Struct, frozen=True):
    """A response whose body begins at byte `start` of the blob, which is 0 if the host ignored Range."""

    response: Response
    start: int


class BlobRequests:
    """Requests for the content of one descriptor: each goes to the first host that has it."""

    def __init__(self, repository: RepositoryHosts, descriptor: Descriptor) -> None:
        self.repository = repository
        self.descriptor = descriptor
        self._cuts: Counter[str] = Counter()
        self._serving = ""

    def open(self, position: int) -> Opened:
        """Open the content at a byte offset; call it again if the connection was cut.

        Raises RegistryError, with status 404 if no host has the content.
        """
        if self._serving:
            self._cuts[self._serving] += 1
            self._serving = ""
        errors: list[RegistryError] = []
        for source, send in self._sources(position):
            if source in self.descriptor.urls and self.repository.transport.budget.is_overdrawn:
                errors.append(self._not_asked(source))
                continue
            try:
                opened = self._opened(send(), position)
            except RegistryError as error:
                _log.info(
                    "%s",
                    error.message,
                    extra={
                        "host": error.host,
                        "status": error.status,
                        "digest": str(self.descriptor.digest),
                    },
                )
                errors.append(error)
            else:
                self._serving = source
                return opened
        if not errors:
            errors = [RegistryError("no host is configured that may pull", host=self.repository.host)]
        raise self._fetch_error(max(errors, key=severity))

    def content_error(self, text: str) -> RegistryContentError:
        """Return the error for content that does not match the descriptor."""
        return RegistryContentError(
            f"{self._what}: {self.repository.host}/{self.repository.repository}: {text}",
            host=self.repository.host,
            repository=self.repository.repository,
        )

    def _sources(self, position: int) -> list[tuple[str, Callable[[], Response]]]:
        """List the sources in order: the URLs of a foreign layer before the registry, of any other after it.

        Hosts with several cut connections come last, since otherwise the first one would be tried after every
        cut.
        """
        repository, descriptor = self.repository, self.descriptor
        headers = {"Accept": f"{descriptor.media_type}, */*"}
        if position:
            headers["Range"] = f"bytes={position}-"
        parts = (kind_of(descriptor), str(descriptor.digest))
        hosts = repository.allowed({"pull"})
        hosts.sort(key=lambda item: self._cuts[item.url("")] // MAX_CUTS_PER_HOST)
        registry: list[tuple[str, Callable[[], Response]]] = [
            (
                host.url(""),
                functools.partial(
                    repository.send, host, "GET", repository.url(host, *parts), headers, tries=tries
                ),
            )
            for host, tries in with_tries(hosts)
        ]
        named = [url for url in descriptor.urls if url.startswith(("http://", "https://"))][:MAX_URLS]
        urls: list[tuple[str, Callable[[], Response]]] = [
            (url, functools.partial(repository.send_elsewhere, url, headers, tries))
            for url, tries in with_tries(named)
        ]
        foreign = mediatypes.is_nondistributable(descriptor.media_type)
        return [*urls, *registry] if foreign else [*registry, *urls]

    def _not_asked(self, url: str) -> RegistryError:
        host = urlsplit(url).netloc.rpartition("@")[2]
        return RegistryError(
            f"{host}: not asked, the retry budget is used up by waiting for answers",
            host=host,
            hint="Raise `retry_budget` to wait longer.",
        )

    def _opened(self, response: Response, position: int) -> Opened:
        """Check a response before its body is read; close it if anything is wrong."""
        try:
            if response.status == 416:
                raise self.repository.content_error(
                    response, f"short read: expected {self.descriptor.size} bytes but got {position}"
                )
            if response.status not in (200, 206):
                raise self.repository.status_error(response)
            self.repository.check_encoding(response)
            start = self._start_of(response, position)
            self._check_length(response, start)
        except RegistryError:
            response.close()
            raise
        return Opened(response, start)

    def _start_of(self, response: Response, position: int) -> int:
        if response.status == 200:
            return 0
        text = response.header("Content-Range").strip()
        if not text:
            return position
        found = CONTENT_RANGE.fullmatch(text)
        if not found or int(found[1]) != position or found[3] not in ("*", str(self.descriptor.size)):
            raise self.repository.content_error(
                response,
                f"unhandled content range {text[:80]!r} for bytes {position}-/{self.descriptor.size}",
            )
        return position

    def _check_length(self, response: Response, start: int) -> None:
        size = self.descriptor.size
        total = None if response.length is None else start + response.length
        if total == size:
            return
        self.repository.refuse_html(response, "a blob")
        if total is not None and total > size:
            raise self.repository.content_error(response, f"has {total} bytes, expected {size}")
        if total is not None:
            raise self.repository.content_error(
                response, f"short read: expected {size} bytes but got {total}"
            )

    @property
    def _what(self) -> str:
        found = self.descriptor
        return f"could not fetch content descriptor {found.digest} ({found.media_type}) from remote"

    def _fetch_error(self, error: RegistryError) -> RegistryError:
        if error.status != 404:
            return self.repository.with_context(error, self._what)
        return RegistryError(
            f"{self._what}: not found",
            host=error.host,
            repository=self.repository.repository,
            status=404,
            hint=f"{error.host}/{self.repository.repository} does not have it, or has lost it.",
        )

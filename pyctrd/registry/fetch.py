"""The bytes of a descriptor from any offset, from the first host that has them.

Sources: OCI distribution-spec ("Pulling blobs"); containerd core/remotes/docker/fetcher.go.
"""

from __future__ import annotations

import contextlib
import logging
import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import urlsplit

from pyctrd.errors import RegistryContentError, RegistryError
from pyctrd.oci import mediatypes
from pyctrd.oci.model import Descriptor
from pyctrd.registry.http.response import DOCUMENT_STALLS, Response
from pyctrd.registry.range_control import Governor
from pyctrd.registry.ranges import RangedDownload, Segments
from pyctrd.registry.repository import Repository, media_type_of, severity, with_patience
from pyctrd.registry.resuming import Opened, ResumingBody

_CONTENT_RANGE = re.compile(r"bytes (\d{1,18})-(\d{1,18})/(\d{1,18}|\*)")

# One cut may be an accident, and the first host is the nearest: after two the next one goes on.
_CUTS_IN_A_ROW: Final = 2

# Foreign layers have one URL, or a few; a manifest must not have us ask a host of its choice for ever.
MAX_URLS: Final = 8

_log = logging.getLogger(__name__)


@dataclass
class _Cuts:
    """How often each place broke off while it sent one blob, and which one sends now."""

    counts: Counter[str] = field(default_factory=Counter)
    serving: str = ""

    def reopening(self) -> None:
        """Take note that the place which sent until now is to be replaced."""
        if self.serving:
            self.counts[self.serving] += 1
            self.serving = ""


class BlobFetcher:
    """Opens content of one repository."""

    def __init__(self, repository: Repository, *, sleep: Callable[[float], None], governor: Governor) -> None:
        self._repository = repository
        self._sleep = sleep
        self._governor = governor
        self._segments = Segments(repository)

    @contextlib.contextmanager
    def fetch(self, descriptor: Descriptor, offset: int = 0) -> Iterator[Iterator[bytes]]:
        """Open a descriptor's content at a byte offset; the iterator's chunks have at most 1 MiB.

        A cut connection is re-opened at the byte reached, at another host if that broke off twice. Raises
        RegistryError with status 404 when no host has the content, RegistryContentError when it is shorter or
        longer than the descriptor says, other RegistryErrors as they come. Bytes are not hashed here: whoever
        keeps them checks the digest. Source: containerd core/remotes/docker/fetcher.go.
        """
        cuts = _Cuts()

        def plain(position: int) -> ResumingBody:
            return ResumingBody(
                lambda position: self._open(descriptor, position, cuts),
                offset=position,
                size=descriptor.size,
                fail=lambda text: RegistryContentError(
                    f"{_what(descriptor)}: {self._repository.host}/{self._repository.name}: {text}",
                    host=self._repository.host,
                    repository=self._repository.name,
                ),
                sleep=self._sleep,
                budget=self._repository.transport.budget,
                seconds=DOCUMENT_STALLS * self._repository.transport.stall_timeout
                if _is_manifest(descriptor)
                else None,
            )

        download = RangedDownload(descriptor, offset, plain, self._segments, self._governor)
        try:
            yield download.chunks()
        finally:
            download.close()

    def _open(self, descriptor: Descriptor, position: int, cuts: _Cuts) -> Opened:
        cuts.reopening()
        errors: list[RegistryError] = []
        for place, send in self._ways(descriptor, position, cuts):
            if place in descriptor.urls and self._repository.transport.budget.is_overdrawn:
                errors.append(self._not_asked(place))
                continue
            try:
                opened = self._opened(send(), descriptor, position)
            except RegistryError as error:
                _log.info("%s", error.message)
                errors.append(error)
            else:
                cuts.serving = place
                return opened
        if not errors:
            errors = [RegistryError("no host is configured that may pull", host=self._repository.host)]
        raise self._fetch_error(descriptor, max(errors, key=severity))

    def _ways(
        self, descriptor: Descriptor, position: int, cuts: _Cuts
    ) -> list[tuple[str, Callable[[], Response]]]:
        """List the places to ask: a foreign layer's own URLs come before the registry, any other's after.

        A mirror that keeps breaking off would else be asked first at every cut, and never be left.
        """
        headers = {"Accept": f"{descriptor.media_type}, */*"}
        if position:
            headers["Range"] = f"bytes={position}-"
        kind = "manifests" if _is_manifest(descriptor) else "blobs"
        hosts = self._repository.able({"pull"})
        hosts.sort(key=lambda item: cuts.counts[item.url("")] // _CUTS_IN_A_ROW)
        registry: list[tuple[str, Callable[[], Response]]] = [
            (
                endpoint.url(""),
                lambda e=endpoint, p=patience: self._repository.send(  # type: ignore[misc]
                    e, "GET", e.url(self._repository.name, kind, str(descriptor.digest)), headers, p
                ),
            )
            for endpoint, patience in with_patience(hosts)
        ]
        urls = [url for url in descriptor.urls if url.startswith(("http://", "https://"))][:MAX_URLS]
        elsewhere: list[tuple[str, Callable[[], Response]]] = [
            (url, lambda u=url, p=patience: self._repository.send_elsewhere(u, headers, p))  # type: ignore[misc]
            for url, patience in with_patience(urls)
        ]
        foreign = mediatypes.is_nondistributable(descriptor.media_type)
        return [*elsewhere, *registry] if foreign else [*registry, *elsewhere]

    def _not_asked(self, url: str) -> RegistryError:
        host = urlsplit(url).netloc.rpartition("@")[2]
        return RegistryError(
            f"{host}: not asked, the retry budget is used up by waiting for answers",
            host=host,
            hint="Allow to wait longer: --retry-budget.",
        )

    def _opened(self, response: Response, descriptor: Descriptor, position: int) -> Opened:
        """Check an answer before a byte of it is used; whatever is wrong closes it."""
        try:
            if response.status == 416:
                raise self._repository.content_error(
                    response, f"short read: expected {descriptor.size} bytes but got {position}"
                )
            if response.status not in (200, 206):
                raise self._repository.status_error(response)
            self._repository.check_encoding(response)
            start = self._start_of(response, descriptor, position)
            self._check_length(response, descriptor, start)
        except RegistryError:
            response.close()
            raise
        return Opened(response, start)

    def _start_of(self, response: Response, descriptor: Descriptor, position: int) -> int:
        if response.status == 200:
            return 0
        text = response.header("Content-Range").strip()
        if not text:
            return position
        found = _CONTENT_RANGE.fullmatch(text)
        if not found or int(found[1]) != position or found[3] not in ("*", str(descriptor.size)):
            raise self._repository.content_error(
                response, f"unhandled content range {text[:80]!r} for bytes {position}-/{descriptor.size}"
            )
        return position

    def _check_length(self, response: Response, descriptor: Descriptor, start: int) -> None:
        total = None if response.length is None else start + response.length
        if total == descriptor.size:
            return
        if media_type_of(response) == "text/html":
            raise self._repository.content_error(
                response, "answered with an HTML page where a blob was asked for"
            )
        if total is None:
            return
        if total > descriptor.size:
            raise self._repository.content_error(response, f"has {total} bytes, expected {descriptor.size}")
        raise self._repository.content_error(
            response, f"short read: expected {descriptor.size} bytes but got {total}"
        )

    def _fetch_error(self, descriptor: Descriptor, error: RegistryError) -> RegistryError:
        what = _what(descriptor)
        if error.status != 404:
            return self._repository.retold(error, what)
        return RegistryError(
            f"{what}: not found",
            host=error.host,
            repository=self._repository.name,
            status=404,
            hint=f"{error.host}/{self._repository.name} does not have it (any more).",
        )


def _what(descriptor: Descriptor) -> str:
    return f"could not fetch content descriptor {descriptor.digest} ({descriptor.media_type}) from remote"


def _is_manifest(descriptor: Descriptor) -> bool:
    return mediatypes.is_manifest(descriptor.media_type) or mediatypes.is_index(descriptor.media_type)

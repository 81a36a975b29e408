"""The bytes of a descriptor from any offset, from the first host that has them.

Sources: OCI distribution-spec ("Pulling blobs"); containerd core/remotes/docker/fetcher.go.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator

from pyctrd import mediatypes
from pyctrd.errors import RegistryContentError, RegistryError
from pyctrd.model import Descriptor
from pyctrd.registry.body import Opened, ResumingBody
from pyctrd.registry.governor import Governor
from pyctrd.registry.ranges import RangedDownload, Segments
from pyctrd.registry.repository import Repository, media_type_of, severity, with_patience
from pyctrd.registry.transport import Request, Response

_CONTENT_RANGE = re.compile(r"bytes (\d{1,18})-(\d{1,18})/(\d{1,18}|\*)")


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

        A cut connection is re-opened at the byte reached, at the next host if need be. Raises RegistryError
        with status 404 when no host has the content, RegistryContentError when it is shorter or longer than
        the descriptor says, other RegistryErrors as they come. Bytes are not hashed here: whoever keeps
        them checks the digest. Source: containerd core/remotes/docker/fetcher.go.
        """

        def plain(position: int) -> ResumingBody:
            return ResumingBody(
                lambda position: self._open(descriptor, position),
                offset=position,
                size=descriptor.size,
                fail=lambda text: RegistryContentError(
                    f"{_what(descriptor)}: {text}",
                    host=self._repository.host,
                    repository=self._repository.name,
                ),
                sleep=self._sleep,
            )

        download = RangedDownload(descriptor, offset, plain, self._segments, self._governor)
        try:
            yield download.chunks()
        finally:
            download.close()

    def _open(self, descriptor: Descriptor, position: int) -> Opened:
        errors: list[RegistryError] = []
        for send in self._ways(descriptor, position):
            try:
                return self._opened(send(), descriptor, position)
            except RegistryError as error:
                errors.append(error)
        if not errors:
            errors = [RegistryError("no host is configured that may pull", host=self._repository.host)]
        raise self._fetch_error(descriptor, max(errors, key=severity))

    def _ways(self, descriptor: Descriptor, position: int) -> list[Callable[[], Response]]:
        """List the places to ask: a foreign layer's own URLs come before the registry, any other's after."""
        headers = {"Accept": f"{descriptor.media_type}, */*"}
        if position:
            headers["Range"] = f"bytes={position}-"
        kind = "manifests" if _is_manifest(descriptor) else "blobs"
        hosts = [item for item in self._repository.endpoints if "pull" in item.capabilities]
        registry: list[Callable[[], Response]] = [
            lambda e=endpoint, p=patience: self._repository.send(  # type: ignore[misc]
                e, "GET", e.url(self._repository.name, kind, str(descriptor.digest)), headers, p
            )
            for endpoint, patience in with_patience(hosts)
        ]
        elsewhere: list[Callable[[], Response]] = [
            lambda u=url: self._repository.transport.send(Request("GET", u, headers=headers))  # type: ignore[misc]
            for url in descriptor.urls
            if url.startswith(("http://", "https://"))
        ]
        foreign = mediatypes.is_nondistributable(descriptor.media_type)
        return [*elsewhere, *registry] if foreign else [*registry, *elsewhere]

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

"""A repository in a registry: what a reference points at, and the bytes of a descriptor from any offset.

Sources: OCI distribution-spec ("Pulling manifests", "Pulling blobs"); containerd core/remotes/docker/
resolver.go and fetcher.go for the order of hosts, the phrases and the limits.
"""

from __future__ import annotations

import contextlib
import copy
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Final

from pyctrd import mediatypes
from pyctrd.errors import (
    AuthenticationFailed,
    ContentError,
    InvalidReference,
    NotFound,
    RegistryContentError,
    RegistryError,
    RegistryUnreachable,
)
from pyctrd.model import MAX_MANIFEST_BYTES, Descriptor, Digest, parse_json
from pyctrd.reference import Reference
from pyctrd.registry import backoff
from pyctrd.registry.auth import Authorizer, reason_in
from pyctrd.registry.body import Opened, ResumingBody
from pyctrd.registry.hosts import Endpoint
from pyctrd.registry.transport import Request, Response, Transport

# What containerd accepts (resolver.go), in its order: registries convert for clients that ask for less.
ACCEPT: Final = ", ".join(
    (
        mediatypes.DOCKER_MANIFEST,
        mediatypes.DOCKER_LIST,
        mediatypes.OCI_MANIFEST,
        mediatypes.OCI_INDEX,
        "*/*",
    )
)

# Types that say nothing about a manifest: then the document itself is asked.
_VAGUE: Final = frozenset({"", "application/json", "text/json", "text/plain", mediatypes.OCTET_STREAM})
_HEAD_REFUSED: Final = frozenset({403, 405, 501})
_CONTENT_RANGE = re.compile(r"bytes (\d{1,18})-(\d{1,18})/(\d{1,18}|\*)")


class RegistryRemote:
    """The repository of one reference, asked at its endpoints in order. Implements ports.Remote."""

    def __init__(
        self,
        reference: Reference,
        endpoints: Sequence[Endpoint],
        authorizer: Authorizer,
        transport: Transport,
        *,
        sleep: Callable[[float], None],
    ) -> None:
        self._reference = reference
        self._endpoints = endpoints
        self._authorizer = authorizer
        self._transport = transport
        self._sleep = sleep

    @property
    def host(self) -> str:
        """The registry's host[:port], as the reference names it."""
        return self._reference.domain

    @property
    def repository(self) -> str:
        """The repository's path, e.g. `library/alpine`."""
        return self._reference.repository

    # --- resolve ------------------------------------------------------------------------------------------

    def resolve(self) -> Descriptor:
        """Ask what the reference points at: HEAD, or GET where HEAD does not tell; the next host on failure.

        Raises NotFound when no host knows it (containerd's phrase), else RegistryError of the host that
        got furthest. Source: containerd core/remotes/docker/resolver.go Resolve.
        """
        needed = {"pull"} if self._reference.digest else {"pull", "resolve"}
        hosts = [item for item in self._endpoints if needed <= item.capabilities]
        errors: list[RegistryError] = []
        for endpoint, patience in _with_patience(hosts):
            try:
                return self._resolve_at(endpoint, patience)
            except RegistryError as error:
                errors.append(error)
        raise self._unresolved(errors)

    def _unresolved(self, errors: Sequence[RegistryError]) -> NotFound | RegistryError:
        name = str(self._reference)
        prefix = f'failed to resolve reference "{name}"'
        if not errors:
            return RegistryError(f"{prefix}: no host is configured that may pull and resolve", host=self.host)
        worst = max(errors, key=_severity)
        if worst.status == 404:
            return NotFound(
                f"{prefix}: {name}: not found",
                kind="image",
                name=name,
                hint=f"Asked {worst.host}: check the spelling of repository and tag.",
            )
        return self._retold(worst, prefix)

    def _resolve_at(self, endpoint: Endpoint, patience: backoff.Patience) -> Descriptor:
        target = str(self._reference.digest or self._reference.tag)
        url = endpoint.url(self.repository, "manifests", target)
        response = self._send(endpoint, "HEAD", url, {"Accept": ACCEPT}, patience)
        with contextlib.closing(response):
            if response.status == 200:
                descriptor = self._from_headers(response)
                if descriptor is not None:
                    return descriptor
            elif response.status not in _HEAD_REFUSED:
                raise self._status_error(response)
        response = self._send(endpoint, "GET", url, {"Accept": ACCEPT}, patience)
        with contextlib.closing(response):
            if response.status != 200:
                raise self._status_error(response)
            return self._from_document(response)

    def _from_headers(self, response: Response) -> Descriptor | None:
        """Make the descriptor of what HEAD told, or None when that is not enough."""
        media_type = self._media_type(response)
        self._check_manifest_size(response)
        digest = self._stated_digest(response)
        wanted = self._reference.digest
        if not digest or response.length is None or media_type in _VAGUE:
            return None
        if wanted and digest.algorithm != wanted.algorithm:
            return None  # the same bytes may well have both digests: only they can tell
        self._check_digest(response, digest)
        return Descriptor(media_type=media_type, digest=digest, size=response.length)

    def _from_document(self, response: Response) -> Descriptor:
        media_type = self._media_type(response)
        self._check_manifest_size(response)
        self._check_encoding(response)
        raw = response.read(MAX_MANIFEST_BYTES)
        digest = Digest.of(raw, self._reference.digest.algorithm if self._reference.digest else "sha256")
        self._check_digest(response, digest)
        stated = self._stated_digest(response)
        if stated and stated.algorithm == digest.algorithm and stated != digest:
            raise self._content_error(response, f"says that the digest is {stated}, but sent {digest}")
        if media_type in _VAGUE:
            media_type = _own_media_type(raw) or media_type or mediatypes.OCTET_STREAM
        return Descriptor(media_type=media_type, digest=digest, size=len(raw))

    def _media_type(self, response: Response) -> str:
        media_type = _media_type(response)
        if media_type == "text/html":
            raise self._content_error(
                response,
                "answered with an HTML page where a manifest was asked for",
                hint="This is not a registry, or a login page or proxy stands before it.",
            )
        return media_type

    def _check_manifest_size(self, response: Response) -> None:
        if response.length is not None and response.length > MAX_MANIFEST_BYTES:
            raise self._content_error(
                response, f"rejecting {response.length} byte manifest: more than {MAX_MANIFEST_BYTES} bytes"
            )

    def _stated_digest(self, response: Response) -> Digest | None:
        text = response.header("Docker-Content-Digest").strip()
        if not text:
            return None
        try:
            return Digest(text)
        except InvalidReference as error:
            raise self._content_error(response, f"Docker-Content-Digest: {error.message[:200]}") from error

    def _check_digest(self, response: Response, digest: Digest) -> None:
        wanted = self._reference.digest
        if wanted and wanted != digest:
            raise self._content_error(response, f"{wanted} was asked for, {digest} is what it has")

    # --- fetch --------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def fetch(self, descriptor: Descriptor, offset: int = 0) -> Iterator[Iterator[bytes]]:
        """Open a descriptor's content at a byte offset; the iterator's chunks have at most 1 MiB.

        A cut connection is re-opened at the byte reached, at the next host if need be. Raises RegistryError
        with status 404 when no host has the content, RegistryContentError when it is shorter or longer than
        the descriptor says, other RegistryErrors as they come. Bytes are not hashed here: whoever keeps
        them checks the digest. Source: containerd core/remotes/docker/fetcher.go.
        """
        body = ResumingBody(
            lambda position: self._open(descriptor, position),
            offset=offset,
            size=descriptor.size,
            fail=lambda text: RegistryContentError(
                f"{_what(descriptor)}: {text}", host=self.host, repository=self.repository
            ),
            sleep=self._sleep,
        )
        try:
            yield body.chunks()
        finally:
            body.close()

    def _open(self, descriptor: Descriptor, position: int) -> Opened:
        errors: list[RegistryError] = []
        for send in self._ways(descriptor, position):
            try:
                return self._opened(send(), descriptor, position)
            except RegistryError as error:
                errors.append(error)
        if not errors:
            errors = [RegistryError("no host is configured that may pull", host=self.host)]
        raise self._fetch_error(descriptor, max(errors, key=_severity))

    def _ways(self, descriptor: Descriptor, position: int) -> list[Callable[[], Response]]:
        """List the places to ask: a foreign layer's own URLs come before the registry, any other's after."""
        headers = {"Accept": f"{descriptor.media_type}, */*"}
        if position:
            headers["Range"] = f"bytes={position}-"
        kind = "manifests" if _is_manifest(descriptor) else "blobs"
        hosts = [item for item in self._endpoints if "pull" in item.capabilities]
        registry: list[Callable[[], Response]] = [
            lambda e=endpoint, p=patience: self._send(  # type: ignore[misc]
                e, "GET", e.url(self.repository, kind, str(descriptor.digest)), headers, p
            )
            for endpoint, patience in _with_patience(hosts)
        ]
        elsewhere: list[Callable[[], Response]] = [
            lambda u=url: self._transport.send(Request("GET", u, headers=headers))  # type: ignore[misc]
            for url in descriptor.urls
            if url.startswith(("http://", "https://"))
        ]
        foreign = mediatypes.is_nondistributable(descriptor.media_type)
        return [*elsewhere, *registry] if foreign else [*registry, *elsewhere]

    def _opened(self, response: Response, descriptor: Descriptor, position: int) -> Opened:
        """Check an answer before a byte of it is used; whatever is wrong closes it."""
        try:
            if response.status == 416:
                raise self._content_error(
                    response, f"short read: expected {descriptor.size} bytes but got {position}"
                )
            if response.status not in (200, 206):
                raise self._status_error(response)
            self._check_encoding(response)
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
            raise self._content_error(
                response, f"unhandled content range {text[:80]!r} for bytes {position}-/{descriptor.size}"
            )
        return position

    def _check_length(self, response: Response, descriptor: Descriptor, start: int) -> None:
        total = None if response.length is None else start + response.length
        if total == descriptor.size:
            return
        if _media_type(response) == "text/html":
            raise self._content_error(response, "answered with an HTML page where a blob was asked for")
        if total is None:
            return
        if total > descriptor.size:
            raise self._content_error(response, f"has {total} bytes, expected {descriptor.size}")
        raise self._content_error(response, f"short read: expected {descriptor.size} bytes but got {total}")

    # --- both ---------------------------------------------------------------------------------------------

    def _send(
        self,
        endpoint: Endpoint,
        method: str,
        url: str,
        headers: Mapping[str, str],
        patience: backoff.Patience,
    ) -> Response:
        request = Request(
            method,
            url,
            headers=headers,
            private=dict(endpoint.headers),
            tls=endpoint.tls,
            connect_timeout=endpoint.dial_timeout,
            patience=patience,
        )
        return self._authorizer.send(endpoint, request, [f"repository:{self.repository}:pull"])

    def _check_encoding(self, response: Response) -> None:
        encoding = response.header("Content-Encoding").strip().lower()
        if encoding not in ("", "identity"):
            raise self._content_error(
                response, f"sent Content-Encoding {encoding[:40]!r}, though identity was asked for"
            )

    def _content_error(
        self, response: Response, text: str, *, hint: str | None = None
    ) -> RegistryContentError:
        return RegistryContentError(
            f"{response.host}/{self.repository}: {self._authorizer.redact(text)}",
            host=response.host,
            repository=self.repository,
            status=response.status,
            hint=hint,
        )

    def _status_error(self, response: Response) -> RegistryError:
        status = response.status
        reason = self._authorizer.redact(reason_in(response.excerpt()))
        text = f"{response.host}: unexpected status {status}{f' ({reason})' if reason else ''}"
        if status in (401, 403):
            return AuthenticationFailed(
                f"pull access denied, repository does not exist or may require authorization: {text}",
                host=response.host,
                repository=self.repository,
                status=status,
                hint=f"Give credentials with -u USER, or log in with `docker login {self.host}`.",
            )
        hint = "The registry limits how much it serves: wait, or log in." if status == 429 else None
        return RegistryError(text, host=response.host, repository=self.repository, status=status, hint=hint)

    def _fetch_error(self, descriptor: Descriptor, error: RegistryError) -> RegistryError:
        what = _what(descriptor)
        if error.status != 404:
            return self._retold(error, what)
        return RegistryError(
            f"{what}: not found",
            host=error.host,
            repository=self.repository,
            status=404,
            hint=f"{error.host}/{self.repository} does not have it (any more).",
        )

    def _retold(self, error: RegistryError, prefix: str) -> RegistryError:
        """Give the same error, saying what it prevented."""
        told = copy.copy(error)
        told.message = f"{prefix}: {error.message}"
        told.args = (told.message,)
        told.repository = self.repository
        told.__cause__ = error
        return told


def _with_patience(hosts: Sequence[Endpoint]) -> list[tuple[Endpoint, backoff.Patience]]:
    """Wait for the last host only: while there is another one, that is asked at once."""
    return [
        (host, backoff.PATIENT if number == len(hosts) else backoff.NONE)
        for number, host in enumerate(hosts, start=1)
    ]


def _what(descriptor: Descriptor) -> str:
    return f"could not fetch content descriptor {descriptor.digest} ({descriptor.media_type}) from remote"


def _severity(error: RegistryError) -> int:
    """Rank how far a host got (containerd resolver.go firstErrPriority)."""
    if isinstance(error, RegistryUnreachable):
        return 1
    if error.status == 404:
        return 2
    return 4 if isinstance(error, RegistryContentError) else 3


def _is_manifest(descriptor: Descriptor) -> bool:
    return mediatypes.is_manifest(descriptor.media_type) or mediatypes.is_index(descriptor.media_type)


def _media_type(response: Response) -> str:
    return response.header("Content-Type").partition(";")[0].strip().lower()


def _own_media_type(raw: bytes) -> str:
    """Give the media type that a manifest states in itself, "" when it states none."""
    try:
        document = parse_json(raw)
    except ContentError:
        return ""
    found = document.get("mediaType") if isinstance(document, dict) else None
    return found if isinstance(found, str) else ""

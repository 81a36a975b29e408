"""The hosts of one repository: authorized requests to them, and errors that name the host.

Resolve, fetch, list and upload use these. Source: containerd core/remotes/docker/resolver.go for the order of
hosts, and for which of several errors is reported.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from functools import cached_property
from types import MappingProxyType
from typing import ClassVar, Final, Literal, TypeVar

import msgspec

from pyctrd.errors import AuthenticationFailed, RegistryContentError, RegistryError, RegistryUnreachable
from pyctrd.oci import mediatypes
from pyctrd.oci.model import Descriptor
from pyctrd.oci.reference import Reference
from pyctrd.registry.auth import scopes
from pyctrd.registry.auth.authorizer import Authorizer, reason_in
from pyctrd.registry.config.endpoints import Endpoint, split_port
from pyctrd.registry.config.proxy import without_secrets
from pyctrd.registry.http import errors, retry
from pyctrd.registry.http.request_body import Stream
from pyctrd.registry.http.response import Response
from pyctrd.registry.http.retry import in_words, parse_retry_after
from pyctrd.registry.http.transport import Request, Transport
from pyctrd.registry.http.warnings import WarningLog

_T = TypeVar("_T")

# Errors that take time; a refused connection does not.
_SLOW: Final = frozenset({errors.Kind.CONNECT_TIMEOUT, errors.Kind.READ_TIMEOUT, errors.Kind.NO_SUCH_NAME})


class RepositoryHosts:
    """The hosts that serve one repository, and what is needed to send requests to them."""

    action: ClassVar[Literal["pull", "push"]] = "pull"

    def __init__(
        self,
        reference: Reference,
        find_endpoints: Callable[[], Sequence[Endpoint]],
        authorizer: Authorizer,
        transport: Transport,
    ) -> None:
        self.reference = reference
        self._find_endpoints = find_endpoints
        self.authorizer = authorizer
        self.transport = transport
        self._without_tls: set[str] = set()
        self._timed_out: set[Endpoint] = set()
        self._warnings = WarningLog()

    @cached_property
    def endpoints(self) -> Sequence[Endpoint]:
        """The hosts to ask, in order. Raises InvalidInput for a host configuration that cannot be used."""
        return self._find_endpoints()

    @property
    def host(self) -> str:
        """The registry's host[:port], as the reference names it."""
        return self.reference.domain

    @property
    def repository(self) -> str:
        """The repository's path, e.g. `library/alpine`."""
        return self.reference.repository

    def url(self, endpoint: Endpoint, *parts: str) -> str:
        """Return the URL of an object of this repository at a host, e.g. `url(host, "manifests", "v1")`."""
        return endpoint.url(self.repository, *parts)

    def allowed(self, needed: Set[str]) -> list[Endpoint]:
        """List the endpoints with the capabilities that are needed, in order.

        One that has timed out is skipped if there is another, since each layer would wait for it again.
        """
        hosts = [item for item in self.endpoints if needed <= item.capabilities]
        return [item for item in hosts if item not in self._timed_out] or hosts

    def send(
        self,
        endpoint: Endpoint,
        method: str,
        url: str,
        headers: Mapping[str, str] = MappingProxyType({}),
        *,
        tries: int = retry.TRIES,
        body: Stream | None = None,
        read_also: Sequence[str] = (),
    ) -> Response:
        """Send a request to an endpoint, with authorization; return the response, of any status.

        `read_also` are repositories of the same registry that the request reads from.
        """
        request = Request(
            method,
            url,
            headers=headers,
            private=_joined(endpoint.headers),
            body=body,
            tls=endpoint.tls,
            connect_timeout=endpoint.dial_timeout,
            tries=tries,
            proxy=endpoint.proxy,
            named_by=endpoint.base,
        )
        own = scopes.push if self.action == "push" else scopes.pull
        needed = [own(self.repository), *map(scopes.pull, read_also)]
        try:
            response = self._send(endpoint, request, needed)
        except errors.Unreachable as error:
            if error.kind in _SLOW:
                self._timed_out.add(endpoint)
            if error.kind is errors.Kind.TLS_ANSWER:
                error.hint = endpoint.tls_hint
            raise
        self._warnings.log(response.host, response.header_values("Warning"))
        return response

    def _send(self, endpoint: Endpoint, request: Request, needed: Sequence[str]) -> Response:
        """Send; over plain HTTP if the configuration allows it and the host has no TLS, like containerd."""
        if endpoint.host not in self._without_tls or not endpoint.plain_fallback:
            try:
                return self.authorizer.send(endpoint, request, needed)
            except errors.Unreachable as error:
                if not endpoint.plain_fallback or not _has_no_tls(endpoint, error):
                    raise
            self._without_tls.add(endpoint.host)
        plain = msgspec.structs.replace(request, url=request.url.replace("https:", "http:", 1))
        return self.authorizer.send(msgspec.structs.replace(endpoint, scheme="http"), plain, needed)

    def send_elsewhere(self, url: str, headers: Mapping[str, str], tries: int) -> Response:
        """Send a GET without credentials to a URL that a manifest names; return any status.

        The URL is allowed if the registry itself may name it, even if a local mirror served the manifest.
        """
        own = next((endpoint.base for endpoint in self.endpoints if endpoint.is_own), f"https://{self.host}")
        return self.transport.send(Request("GET", url, headers=headers, tries=tries, named_by=own))

    def check_encoding(self, response: Response) -> None:
        """Refuse a body with a content encoding: digests are of the bytes as they are stored."""
        encoding = response.header("Content-Encoding").strip().lower()
        if encoding not in ("", "identity"):
            raise self.content_error(
                response, f"sent Content-Encoding {encoding[:40]!r}, though identity was asked for"
            )

    def refuse_html(self, response: Response, what: str) -> None:
        """Raise RegistryContentError for an HTML page instead of the requested content."""
        if media_type_of(response) == "text/html":
            raise self.content_error(
                response,
                f"answered with an HTML page where {what} was asked for",
                hint="This is not a registry, or a login page or proxy stands before it.",
            )

    def content_error(
        self, response: Response, text: str, *, hint: str | None = None
    ) -> RegistryContentError:
        """Return the error for a response with the wrong content."""
        return RegistryContentError(
            f"{response.host}/{self.repository}: {text}",
            host=response.host,
            repository=self.repository,
            status=response.status,
            hint=hint,
        )

    def status_error(self, response: Response) -> RegistryError:
        """Return the error for a response with an unexpected status, with the registry's own reason."""
        status = response.status
        body = response.excerpt()
        reason = reason_in(body)
        text = f"{response.host}: unexpected status {status}{f' ({reason})' if reason else ''}"
        if response.proxy:
            text += f" (through proxy {without_secrets(response.proxy)})"
        if status in (401, 403):
            return AuthenticationFailed(
                f"{self.action} access denied, repository does not exist or may require authorization: "
                f"{text}",
                host=response.host,
                repository=self.repository,
                status=status,
                hint=self.authorizer.advice(self.host),
            )
        asked = parse_retry_after(response.header("Retry-After"), now=time.time())
        hint = None
        if asked and status in (429, 503):
            text += f"; it asks to wait {in_words(asked)}, and the retry budget has less left"
            hint = f"Try again in {in_words(asked)}, or raise `retry_budget` to wait that long."
        elif status == 429:
            hint = "The registry limits how much it serves: wait, or log in."
        elif b"HTTP request to an HTTPS server" in body:  # Go's TLS server, after a plain http request
            hint = next((item.tls_hint for item in self.endpoints if item.host == response.host), None)
        return RegistryError(text, host=response.host, repository=self.repository, status=status, hint=hint)

    def with_context(self, error: RegistryError, prefix: str) -> RegistryError:
        """Return the same error with `prefix`, which says what failed because of it."""
        found = copy.copy(error)
        text = error.message
        if f"/{self.repository}" not in f"{prefix}{text}":
            # Errors of connections name the host only.
            text = text.replace(error.host, f"{error.host}/{self.repository}", 1) if error.host else text
        found.message = f"{prefix}: {text}"
        found.args = (found.message,)
        found.repository = self.repository
        found.__cause__ = error
        return found


def _joined(headers: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Return one value for each header: several are joined by commas (RFC 9110 section 5.2)."""
    found: dict[str, str] = {}
    for name, value in headers:
        found[name] = f"{found[name]}, {value}" if name in found else value
    return found


def _has_no_tls(endpoint: Endpoint, error: errors.Unreachable) -> bool:
    """Whether plain HTTP may work: by default it has another port than TLS."""
    refused = error.kind is errors.Kind.REFUSED and not split_port(endpoint.host)[1]
    return refused or error.kind is errors.Kind.PLAIN_HTTP


def with_tries(hosts: Sequence[_T]) -> list[tuple[_T, int]]:
    """Return how often to try each host: the last one several times, the others once."""
    return [(host, retry.TRIES if number == len(hosts) else 1) for number, host in enumerate(hosts, start=1)]


def severity(error: RegistryError) -> int:
    """Return how informative an error is about the content (containerd resolver.go firstErrPriority)."""
    if isinstance(error, RegistryUnreachable):
        return 1
    if error.status == 404:
        return 2
    return 4 if isinstance(error, RegistryContentError) else 3


def kind_of(descriptor: Descriptor) -> Literal["manifests", "blobs"]:
    """Return the part of the API's path under which a registry serves a descriptor's content."""
    is_document = mediatypes.is_manifest(descriptor.media_type) or mediatypes.is_index(descriptor.media_type)
    return "manifests" if is_document else "blobs"


def media_type_of(response: Response) -> str:
    """Return the Content-Type without its parameters, in lower case."""
    return response.header("Content-Type").partition(";")[0].strip().lower()

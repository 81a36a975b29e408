"""One repository at all its endpoints: authorized requests, and errors that say where they come from.

Resolving, fetching and uploading are made of these. Source: containerd core/remotes/docker/resolver.go for
the order of hosts and which of several errors counts.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import replace
from typing import Final, Literal, TypeVar

from pyctrd.errors import AuthenticationFailed, RegistryContentError, RegistryError, RegistryUnreachable
from pyctrd.oci.reference import Reference
from pyctrd.registry.auth.authorizer import Authorizer, reason_in
from pyctrd.registry.config.endpoints import Endpoint, split_port
from pyctrd.registry.config.proxy import without_secrets
from pyctrd.registry.http import errors, retry
from pyctrd.registry.http.request_body import Stream
from pyctrd.registry.http.retry import in_words, parse_retry_after
from pyctrd.registry.http.transport import Request, Response, Transport
from pyctrd.registry.http.warnings import Notices

_Place = TypeVar("_Place")

# What takes its time to fail; a refused connection is no loss.
_SLOW: Final = frozenset({errors.Kind.CONNECT_TIMEOUT, errors.Kind.READ_TIMEOUT, errors.Kind.NO_SUCH_NAME})


class Repository:
    """A repository in a registry, with all that is needed to ask for it."""

    def __init__(
        self,
        reference: Reference,
        endpoints: Sequence[Endpoint],
        authorizer: Authorizer,
        transport: Transport,
        *,
        action: Literal["pull", "push"] = "pull",
    ) -> None:
        self.reference = reference
        self.action = action
        self.endpoints = endpoints
        self.authorizer = authorizer
        self.transport = transport
        self._without_tls: set[str] = set()
        self._silent: set[Endpoint] = set()
        self._notices = Notices()

    @property
    def host(self) -> str:
        """The registry's host[:port], as the reference names it."""
        return self.reference.domain

    @property
    def name(self) -> str:
        """The repository's path, e.g. `library/alpine`."""
        return self.reference.repository

    def able(self, needed: Set[str]) -> list[Endpoint]:
        """List the endpoints that may do what is needed, in order.

        One that has let us wait in vain is left out while there is another: a layer more must not cost a
        time-out more.
        """
        hosts = [item for item in self.endpoints if needed <= item.capabilities]
        return [item for item in hosts if item not in self._silent] or hosts

    def send(
        self,
        endpoint: Endpoint,
        method: str,
        url: str,
        headers: Mapping[str, str],
        patience: retry.Patience,
        *,
        body: Stream | None = None,
        read_also: Sequence[str] = (),
    ) -> Response:
        """Send one request to one endpoint with the authorization that it wants; gives any status.

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
            patience=patience,
            proxy=endpoint.proxy,
            named_by=endpoint.base,
        )
        actions = "pull,push" if self.action == "push" else "pull"
        scopes = [f"repository:{self.name}:{actions}", *(f"repository:{name}:pull" for name in read_also)]
        try:
            response = self._send(endpoint, request, scopes)
        except errors.Unreachable as error:
            if error.kind in _SLOW:
                self._silent.add(endpoint)
            if error.kind is errors.Kind.TLS_ANSWER:
                error.hint = endpoint.tls_hint
            raise
        self._notices.tell(response.host, response.header_values("Warning"))
        return response

    def _send(self, endpoint: Endpoint, request: Request, scopes: Sequence[str]) -> Response:
        """Send; over plain HTTP where the configuration allows it and the host has no TLS, as containerd."""
        if endpoint.host not in self._without_tls or not endpoint.plain_fallback:
            try:
                return self.authorizer.send(endpoint, request, scopes)
            except errors.Unreachable as error:
                if not endpoint.plain_fallback or not _has_no_tls(endpoint, error):
                    raise
            self._without_tls.add(endpoint.host)
        plain = replace(request, url=request.url.replace("https:", "http:", 1))
        return self.authorizer.send(replace(endpoint, scheme="http"), plain, scopes)

    def send_elsewhere(self, url: str, headers: Mapping[str, str], patience: retry.Patience) -> Response:
        """Ask a place that a document names, without credentials; gives any status.

        It has the rights of the reference's own registry, also where a mirror nearby gave the document.
        """
        own = next((endpoint.base for endpoint in self.endpoints if endpoint.is_own), f"https://{self.host}")
        return self.transport.send(Request("GET", url, headers=headers, patience=patience, named_by=own))

    def check_encoding(self, response: Response) -> None:
        """Refuse a body that is compressed on its way: digests are of the bytes as they are stored."""
        encoding = response.header("Content-Encoding").strip().lower()
        if encoding not in ("", "identity"):
            raise self.content_error(
                response, f"sent Content-Encoding {encoding[:40]!r}, though identity was asked for"
            )

    def content_error(
        self, response: Response, text: str, *, hint: str | None = None
    ) -> RegistryContentError:
        """Make the error for an answer that is not what it ought to be."""
        return RegistryContentError(
            f"{response.host}/{self.name}: {self.authorizer.redact(text)}",
            host=response.host,
            repository=self.name,
            status=response.status,
            hint=hint,
        )

    def status_error(self, response: Response) -> RegistryError:
        """Make the error for an answer with an unexpected status, with the registry's own reason."""
        status = response.status
        body = response.excerpt()
        reason = self.authorizer.redact(reason_in(body))
        text = f"{response.host}: unexpected status {status}{f' ({reason})' if reason else ''}"
        if response.proxy:
            text += f" (through proxy {without_secrets(response.proxy)})"
        if status in (401, 403):
            return AuthenticationFailed(
                f"{self.action} access denied, repository does not exist or may require authorization: "
                f"{text}",
                host=response.host,
                repository=self.name,
                status=status,
                hint=self.authorizer.advice(self.host),
            )
        asked = parse_retry_after(response.header("Retry-After"), now=time.time())
        hint = None
        if asked and status in (429, 503):
            text += f"; it asks to wait {in_words(asked)}, and the retry budget has less left"
            hint = f"Try again in {in_words(asked)}, or allow to wait as long: --retry-budget."
        elif status == 429:
            hint = "The registry limits how much it serves: wait, or log in."
        elif b"HTTP request to an HTTPS server" in body:  # Go's server, spoken to in plain http
            hint = next((item.tls_hint for item in self.endpoints if item.host == response.host), None)
        return RegistryError(text, host=response.host, repository=self.name, status=status, hint=hint)

    def retold(self, error: RegistryError, prefix: str) -> RegistryError:
        """Give the same error, saying what it prevented."""
        told = copy.copy(error)
        text = error.message
        if f"/{self.name}" not in f"{prefix}{text}":
            # Errors of a connection know the host only.
            text = text.replace(error.host, f"{error.host}/{self.name}", 1) if error.host else text
        told.message = f"{prefix}: {text}"
        told.args = (told.message,)
        told.repository = self.name
        told.__cause__ = error
        return told


def _joined(headers: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Give each header one value: several are a list with commas (RFC 9110 section 5.2)."""
    found: dict[str, str] = {}
    for name, value in headers:
        found[name] = f"{found[name]}, {value}" if name in found else value
    return found


def _has_no_tls(endpoint: Endpoint, error: errors.Unreachable) -> bool:
    """Tell whether plain HTTP may work: without a port, TLS and plain HTTP have different ones."""
    refused = error.kind is errors.Kind.REFUSED and not split_port(endpoint.host)[1]
    return refused or error.kind is errors.Kind.PLAIN_HTTP


def with_patience(hosts: Sequence[_Place]) -> list[tuple[_Place, retry.Patience]]:
    """Wait for the last host only: while there is another one, that is asked at once."""
    return [
        (host, retry.PATIENT if number == len(hosts) else retry.NONE)
        for number, host in enumerate(hosts, start=1)
    ]


def severity(error: RegistryError) -> int:
    """Rank how far a host got (containerd resolver.go firstErrPriority)."""
    if isinstance(error, RegistryUnreachable):
        return 1
    if error.status == 404:
        return 2
    return 4 if isinstance(error, RegistryContentError) else 3


def media_type_of(response: Response) -> str:
    """Give the Content-Type without its parameters, in lower case."""
    return response.header("Content-Type").partition(";")[0].strip().lower()

"""One repository at all its endpoints: authorized requests, and errors that say where they come from.

Resolving, fetching and uploading are made of these. Source: containerd core/remotes/docker/resolver.go for
the order of hosts and which of several errors counts.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Literal

from pyctrd.errors import AuthenticationFailed, RegistryContentError, RegistryError, RegistryUnreachable
from pyctrd.reference import Reference
from pyctrd.registry import backoff
from pyctrd.registry.auth import Authorizer, reason_in
from pyctrd.registry.hosts import Endpoint
from pyctrd.registry.stream import Stream
from pyctrd.registry.transport import Request, Response, Transport


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

    @property
    def host(self) -> str:
        """The registry's host[:port], as the reference names it."""
        return self.reference.domain

    @property
    def name(self) -> str:
        """The repository's path, e.g. `library/alpine`."""
        return self.reference.repository

    def send(
        self,
        endpoint: Endpoint,
        method: str,
        url: str,
        headers: Mapping[str, str],
        patience: backoff.Patience,
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
            private=dict(endpoint.headers),
            body=body,
            tls=endpoint.tls,
            connect_timeout=endpoint.dial_timeout,
            patience=patience,
        )
        actions = "pull,push" if self.action == "push" else "pull"
        scopes = [f"repository:{self.name}:{actions}", *(f"repository:{name}:pull" for name in read_also)]
        return self.authorizer.send(endpoint, request, scopes)

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
        reason = self.authorizer.redact(reason_in(response.excerpt()))
        text = f"{response.host}: unexpected status {status}{f' ({reason})' if reason else ''}"
        if status in (401, 403):
            return AuthenticationFailed(
                f"{self.action} access denied, repository does not exist or may require authorization: "
                f"{text}",
                host=response.host,
                repository=self.name,
                status=status,
                hint=f"Give credentials with -u USER, or log in with `docker login {self.host}`.",
            )
        hint = "The registry limits how much it serves: wait, or log in." if status == 429 else None
        return RegistryError(text, host=response.host, repository=self.name, status=status, hint=hint)

    def retold(self, error: RegistryError, prefix: str) -> RegistryError:
        """Give the same error, saying what it prevented."""
        told = copy.copy(error)
        told.message = f"{prefix}: {error.message}"
        told.args = (told.message,)
        told.repository = self.name
        told.__cause__ = error
        return told


def with_patience(hosts: Sequence[Endpoint]) -> list[tuple[Endpoint, backoff.Patience]]:
    """Wait for the last host only: while there is another one, that is asked at once."""
    return [
        (host, backoff.PATIENT if number == len(hosts) else backoff.NONE)
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

"""Answer the challenges of registries with bearer tokens and basic authentication.

Sources: RFC 6750 and RFC 9110 section 11; the distribution spec's "Token Authentication"; containerd
core/remotes/docker/authorizer.go.
"""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final

import msgspec

from pyctrd import redact
from pyctrd.errors import AuthenticationFailed
from pyctrd.registry.auth import challenge as challenges
from pyctrd.registry.auth import scopes as scoping
from pyctrd.registry.auth.challenge import Challenge
from pyctrd.registry.auth.keychain import Credential, Keychain
from pyctrd.registry.auth.tokens import Refused, Token, TokenServers
from pyctrd.registry.config.endpoints import Endpoint
from pyctrd.registry.config.proxy import without_secrets
from pyctrd.registry.http.response import Response
from pyctrd.registry.http.transport import Request, Transport

INSUFFICIENT_SCOPE: Final = "insufficient_scope"

_MAX_REASON_CHARACTERS: Final = 300
# Headers of hosts.toml whose values are secrets.
_PRIVATE_NAME = re.compile(r"auth|cookie|key|pass|secret|sign|token", re.IGNORECASE)

_log = redact.logger("pyctrd.registry.auth")


class _Session(msgspec.Struct):
    """What is known about one host, under its lock.

    Its challenge, the scopes that it requires in addition to those of a request, and the tokens by realm,
    service, scopes and credential.
    """

    lock: threading.Lock = msgspec.field(default_factory=threading.Lock)
    challenge: Challenge | None = None
    widened: dict[tuple[str, ...], tuple[str, ...]] = msgspec.field(default_factory=dict)
    tokens: dict[tuple[str, str, tuple[str, ...], Credential | None], Token] = msgspec.field(
        default_factory=dict
    )


class Authorizer:
    """Sends requests with the authorization that each endpoint requires; thread safe.

    Tokens are stored per host as well as per realm, service and scope: a registry that names the realm of
    another one must not get a token for that one. If several threads need the same token, one requests it.
    """

    def __init__(
        self, transport: Transport, keychain: Keychain, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._transport = transport
        self._keychain = keychain
        self._clock = clock
        self._servers = TokenServers(transport, clock)
        self._lock = threading.Lock()
        self._sessions: dict[tuple[str, str, bool], _Session] = {}

    def send(self, endpoint: Endpoint, request: Request, scopes: Iterable[str]) -> Response:
        """Send a request; answer one challenge, and refresh a refused token once.

        `scopes` (see `auth.scopes`) are requested in one token; the first names the repository whose
        credential is used. The response is a 401 only if there is no supported challenge. Raises
        AuthenticationFailed if the registry denies access, RegistryError and RegistryUnreachable as the
        transport does; no message contains a secret, whatever the registry echoes.
        """
        wanted = tuple(scopes)
        redact.remember(*_secrets_in(request.private))
        try:
            response = self._send(endpoint, request, wanted)
        except AuthenticationFailed:
            if not self._unlock(endpoint, wanted):
                raise
        else:
            if response.status not in (401, 403) or not self._unlock(endpoint, wanted):
                return response
            response.close()
        return self._send(endpoint, request, wanted)

    def advice(self, account: str, *, own: bool = True) -> str:
        """Return the hint for a registry (its host[:port]) that denies access."""
        return self._keychain.advice(account, own=own)

    def _unlock(self, endpoint: Endpoint, wanted: tuple[str, ...]) -> bool:
        repository = scoping.repository_of(wanted)
        return self._keychain.unlock(endpoint.account, own=endpoint.is_own, repository=repository)

    def _send(self, endpoint: Endpoint, request: Request, wanted: tuple[str, ...]) -> Response:
        session = self._session(endpoint)
        authorization = self._known(session, endpoint, wanted)
        response = self._transport.send(_with_authorization(request, authorization))
        found = _challenge_in(response)
        if found is None:
            return response
        response.close()
        authorization = self._answer(session, endpoint, found, wanted, refused=authorization)
        response = self._transport.send(_with_authorization(request, authorization))
        again = _challenge_in(response)
        if again is not None or response.status == 401:
            self._forget(session, authorization)
            raise self._denied(endpoint, response, again, wanted)
        return response

    def _session(self, endpoint: Endpoint) -> _Session:
        with self._lock:
            return self._sessions.setdefault((endpoint.scheme, endpoint.host, endpoint.is_own), _Session())

    def _credential(self, endpoint: Endpoint, wanted: Sequence[str]) -> Credential | None:
        repository = scoping.repository_of(wanted)
        return self._keychain.find(endpoint.account, own=endpoint.is_own, repository=repository)

    # --- the Authorization of a request

    def _known(self, session: _Session, endpoint: Endpoint, wanted: tuple[str, ...]) -> str:
        """Return the Authorization for a host whose challenge is known; "" for a new one."""
        with session.lock:
            if session.challenge is None:
                return ""
            return self._authorization(session, endpoint, session.challenge, wanted)

    def _answer(
        self,
        session: _Session,
        endpoint: Endpoint,
        found: Challenge,
        wanted: tuple[str, ...],
        *,
        refused: str,
    ) -> str:
        with session.lock:
            if refused:
                _drop(session, refused)
            session.challenge = found
            session.widened[wanted] = scoping.merge(*wanted, found["scope"])
            self._log_challenge(endpoint, found, wanted)
            return self._authorization(session, endpoint, found, wanted)

    def _forget(self, session: _Session, authorization: str) -> None:
        with session.lock:
            _drop(session, authorization)

    def _authorization(
        self, session: _Session, endpoint: Endpoint, found: Challenge, wanted: tuple[str, ...]
    ) -> str:
        credential = self._credential(endpoint, wanted)
        if found.scheme == "basic":
            if credential is None or not credential.basic:
                raise self._failed(endpoint, wanted, "no basic auth credentials")
            return credential.basic
        if credential is not None and credential.registry_token:
            return f"Bearer {credential.registry_token}"
        scopes = session.widened.get(wanted) or scoping.merge(*wanted)
        key = (found["realm"], found["service"], scopes, credential)
        token = session.tokens.get(key)
        if token is None or token.expires_at <= self._clock():
            token = self._fetch_token(endpoint, found, scopes, credential, wanted)
            session.tokens[key] = token
        return f"Bearer {token.value}"

    def _fetch_token(
        self,
        endpoint: Endpoint,
        found: Challenge,
        scopes: Sequence[str],
        credential: Credential | None,
        wanted: Sequence[str],
    ) -> Token:
        try:
            return self._servers.ask(endpoint, found, scopes, credential)
        except Refused as refusal:
            if refusal.response is None:
                raise self._failed(endpoint, wanted, refusal.message) from refusal
            raise self._denied(endpoint, refusal.response, None, wanted) from refusal

    def _log_challenge(self, endpoint: Endpoint, found: Challenge, wanted: Sequence[str]) -> None:
        credential = self._credential(endpoint, wanted)
        _log.debug(
            "%s: asks for %s%s, credentials: %s",
            endpoint.host,
            found.scheme,
            f" from {without_secrets(found['realm'])}" if found.scheme == "bearer" else "",
            f"{credential.username or 'a token'}, from {credential.source}" if credential else "none",
            extra={"host": endpoint.host},
        )

    # --- errors

    def _denied(
        self, endpoint: Endpoint, response: Response, found: Challenge | None, wanted: Sequence[str]
    ) -> AuthenticationFailed:
        """Return the error for denied access, with the message of the registry or of its token server."""
        reason = reason_in(response.excerpt()) or f"status {response.status}"
        if found is not None and found["error"] == INSUFFICIENT_SCOPE:
            lacking = " ".join(scoping.merge(*wanted, found["scope"]))
            reason = (
                f"{INSUFFICIENT_SCOPE}: the token does not allow {redact.excerpt(lacking, 200)} ({reason})"
            )
        elif found is not None and found["error"]:
            reason = f"{redact.excerpt(found['error'], 64)} ({reason})"
        return self._failed(endpoint, wanted, f"{reason}: authorization failed", status=response.status)

    def _failed(
        self, endpoint: Endpoint, wanted: Sequence[str], reason: str, *, status: int = 401
    ) -> AuthenticationFailed:
        credential = self._credential(endpoint, wanted)
        hint = self.advice(endpoint.account, own=endpoint.is_own)
        if credential is not None:
            hint = f"The credentials from {credential.source} were not enough. {hint}"
        return AuthenticationFailed(
            f"{endpoint.host}: {reason}",
            host=endpoint.host,
            repository=scoping.repository_of(wanted),
            status=status,
            hint=hint,
        )


def reason_in(body: bytes) -> str:
    """Return the message in an error body (distribution spec "Error Codes") without secrets; "" for none."""
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        return ""
    listed = document.get("errors", document) if isinstance(document, dict) else None
    texts = [_reason(item) for item in (listed[:3] if isinstance(listed, list) else [listed])]
    return ", ".join(text for text in texts if text)


def _reason(item: Any) -> str:
    if not isinstance(item, dict):
        return ""
    code = item.get("code") or item.get("error")
    message = item.get("message") or item.get("error_description") or item.get("details")
    texts = [text for text in (code, message) if isinstance(text, str) and text]
    return redact.excerpt(": ".join(texts), _MAX_REASON_CHARACTERS)


def _challenge_in(response: Response) -> Challenge | None:
    """Return the challenge of a 401, or of a 403 for a missing scope (RFC 6750 section 3.1)."""
    if response.status not in (401, 403):
        return None
    found = challenges.choose(challenges.parse(response.header_values("WWW-Authenticate")))
    if found is None or response.status == 401:
        return found
    return found if found.scheme == "bearer" and found["error"] == INSUFFICIENT_SCOPE else None


def _secrets_in(headers: Mapping[str, str]) -> list[str]:
    """List the values of private headers, and what follows the scheme of an Authorization."""
    values = [value for name, value in headers.items() if _PRIVATE_NAME.search(name)]
    return values + [value.partition(" ")[2] for value in values]


def _with_authorization(request: Request, authorization: str) -> Request:
    if not authorization:
        return request
    others = {name: value for name, value in request.private.items() if name.lower() != "authorization"}
    return msgspec.structs.replace(request, private={**others, "Authorization": authorization})


def _drop(session: _Session, authorization: str) -> None:
    for key, token in list(session.tokens.items()):
        if authorization == f"Bearer {token.value}":
            del session.tokens[key]

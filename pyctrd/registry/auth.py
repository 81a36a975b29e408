"""Answers a registry's challenges: bearer tokens and basic authentication.

Sources: distribution spec "Token Authentication" (docs/spec/auth/token.md, oauth.md), RFC 6750; containerd
core/remotes/docker/authorizer.go for the order POST, then GET.
"""

from __future__ import annotations

import json
import logging
import re
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Any, Final
from urllib.parse import urlencode, urlsplit

from pyctrd.errors import AuthenticationFailed
from pyctrd.registry import challenge as challenges
from pyctrd.registry.challenge import Challenge
from pyctrd.registry.credentials import Credential, Keychain
from pyctrd.registry.hosts import Endpoint, Tls
from pyctrd.registry.proxy import without_secrets
from pyctrd.registry.transport import Request, Response, Transport

CLIENT_ID: Final = "pyctrd"
# The token spec's own default, and the shortest life it allows a server to state.
DEFAULT_TOKEN_SECONDS: Final = 60

_MAX_TOKEN_SECONDS: Final = 86400
_MAX_ANSWER_BYTES: Final = 1 << 20
# Answers to a POST after which the GET of the older protocol is tried (containerd authorizer.go).
_NO_POST: Final = frozenset({400, 401, 404, 405})
_TOKEN = re.compile(r"[\x21-\x7e]+")

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Token:
    value: str = field(repr=False)
    expires_at: float


@dataclass
class _Session:
    """What is known about one host, under its lock: the challenge that it makes, the tokens that we hold."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    challenge: Challenge | None = None
    tokens: dict[tuple[str, str, str], _Token] = field(default_factory=dict, repr=False)


class Authorizer:
    """Sends requests with the authorization that each endpoint wants; thread safe.

    Tokens are kept per host as well as per realm, service and scope: a registry that names another one's
    realm must not be handed that one's token.
    """

    def __init__(
        self, transport: Transport, keychain: Keychain, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._transport = transport
        self._keychain = keychain
        self._clock = clock
        self._lock = threading.Lock()
        self._sessions: dict[tuple[str, str, bool], _Session] = {}

    def send(self, endpoint: Endpoint, request: Request, scopes: Iterable[str]) -> Response:
        """Send, answering one challenge and refreshing a refused token once.

        Gives the response, which is a 401 only when we have no answer to its challenge. Raises
        AuthenticationFailed when the registry refuses what we answered, RegistryError and
        RegistryUnreachable as the transport does.
        """
        session = self._session(endpoint)
        wanted = frozenset(scopes)
        authorization = self._known(session, endpoint, wanted)
        response = self._transport.send(_with_authorization(request, authorization))
        if response.status != 401:
            return response
        found = challenges.choose(challenges.parse(response.header_values("WWW-Authenticate")))
        if found is None:
            return response
        response.close()
        authorization = self._answer(session, endpoint, found, wanted, refused=authorization)
        response = self._transport.send(_with_authorization(request, authorization))
        if response.status == 401:
            self._forget(session, authorization)
            raise self._refused(endpoint, response)
        return response

    def redact(self, text: str) -> str:
        """Strike out every secret and token that we hold: a registry may echo what it was sent."""
        text = self._keychain.redact(text)
        with self._lock:
            sessions = list(self._sessions.values())
        for session in sessions:
            for token in tuple(session.tokens.values()):
                text = text.replace(token.value, "***")
        return text

    def _session(self, endpoint: Endpoint) -> _Session:
        with self._lock:
            return self._sessions.setdefault((endpoint.scheme, endpoint.host, endpoint.is_own), _Session())

    def _credential(self, endpoint: Endpoint) -> Credential | None:
        return self._keychain.find(endpoint.account, own=endpoint.is_own)

    def _known(self, session: _Session, endpoint: Endpoint, scopes: frozenset[str]) -> str:
        """Give the Authorization for a host that has challenged us before; "" for a new one."""
        with session.lock:
            if session.challenge is None:
                return ""
            return self._authorization(session, endpoint, session.challenge, scopes)

    def _answer(
        self, session: _Session, endpoint: Endpoint, found: Challenge, scopes: frozenset[str], *, refused: str
    ) -> str:
        with session.lock:
            if refused:
                _drop(session, refused)
            session.challenge = found
            return self._authorization(session, endpoint, found, scopes)

    def _forget(self, session: _Session, authorization: str) -> None:
        with session.lock:
            _drop(session, authorization)

    def _authorization(
        self, session: _Session, endpoint: Endpoint, found: Challenge, scopes: frozenset[str]
    ) -> str:
        if found.scheme == "basic":
            credential = self._credential(endpoint)
            if credential is None or not credential.basic:
                raise self._failed(endpoint, "no basic auth credentials")
            return credential.basic
        scope = " ".join(sorted(scopes | frozenset(found["scope"].split())))
        key = (found["realm"], found["service"], scope)
        token = session.tokens.get(key)
        if token is None or token.expires_at <= self._clock():
            token = self._fetch_token(endpoint, found, scope)
            session.tokens[key] = token
        return f"Bearer {token.value}"

    def _fetch_token(self, endpoint: Endpoint, found: Challenge, scope: str) -> _Token:
        realm = found["realm"]
        self._check_realm(endpoint, realm)
        credential = self._credential(endpoint)
        started = self._clock()
        response = self._post(endpoint, found, scope, credential) if credential else None
        if response is not None and response.status in _NO_POST and credential and credential.basic:
            response.close()
            response = None
        if response is None:
            response = self._get(endpoint, found, scope, credential)
        if response.status != 200:
            raise self._refused(endpoint, response)
        try:
            document = json.loads(response.read(_MAX_ANSWER_BYTES))
        except (ValueError, RecursionError) as error:
            raise self._failed(endpoint, f"{without_secrets(realm)} did not answer with JSON") from error
        finally:
            response.close()
        return self._read_token(endpoint, document, started)

    def _check_realm(self, endpoint: Endpoint, realm: str) -> None:
        try:
            parts = urlsplit(realm) if _TOKEN.fullmatch(realm) else None
        except ValueError:
            parts = None
        if parts is None or parts.scheme not in ("http", "https") or not parts.netloc or "@" in parts.netloc:
            raise self._failed(endpoint, f"the realm {realm[:200]!r} is not the URL of a token server")
        if endpoint.scheme == "https" and parts.scheme == "http":
            raise self._failed(
                endpoint, f"the token server {without_secrets(realm)} is plain http, the registry is https"
            )

    def _post(self, endpoint: Endpoint, found: Challenge, scope: str, credential: Credential) -> Response:
        realm = found["realm"]
        form = {"client_id": CLIENT_ID, "scope": scope, "service": found["service"]}
        if credential.identity_token:
            form |= {"grant_type": "refresh_token", "refresh_token": credential.identity_token}
        else:
            form |= {
                "grant_type": "password",
                "username": credential.username,
                "password": credential.password,
            }
        headers = {"Content-Type": "application/x-www-form-urlencoded"}
        body = urlencode(form).encode()
        return self._transport.send(
            Request(
                "POST",
                realm,
                headers=headers,
                body=body,
                tls=_realm_tls(endpoint, realm),
                named_by=endpoint.base,
            )
        )

    def _get(
        self, endpoint: Endpoint, found: Challenge, scope: str, credential: Credential | None
    ) -> Response:
        fields = [("service", found["service"])] if found["service"] else []
        fields += [("scope", item) for item in scope.split()]
        realm = found["realm"]
        url = f"{realm}{'&' if '?' in realm else '?'}{urlencode(fields)}" if fields else realm
        private = {"Authorization": credential.basic} if credential and credential.basic else {}
        return self._transport.send(
            Request("GET", url, private=private, tls=_realm_tls(endpoint, realm), named_by=endpoint.base)
        )

    def _read_token(self, endpoint: Endpoint, document: Any, started: float) -> _Token:
        fields = document if isinstance(document, dict) else {}
        value = fields.get("access_token") or fields.get("token")
        if not isinstance(value, str) or not _TOKEN.fullmatch(value):
            raise self._failed(endpoint, "authorization server did not include a token in the response")
        stated = fields.get("expires_in")
        seconds = DEFAULT_TOKEN_SECONDS
        if isinstance(stated, int) and not isinstance(stated, bool) and stated > 0:
            seconds = min(stated, _MAX_TOKEN_SECONDS)
        # A tenth is kept back, so that a token does not run out on its way.
        return _Token(value, started + seconds * 0.9)

    def _refused(self, endpoint: Endpoint, response: Response) -> AuthenticationFailed:
        reason = self.redact(reason_in(response.excerpt())) or f"status {response.status}"
        return self._failed(endpoint, f"{reason}: authorization failed", status=response.status)

    def _failed(self, endpoint: Endpoint, reason: str, *, status: int | None = 401) -> AuthenticationFailed:
        account = endpoint.account
        hint = f"Give credentials with -u USER, or log in with `docker login {account}` (or nerdctl login)."
        if self._keychain.problems:
            hint += f" Not used: {'; '.join(self._keychain.problems)}."
        return AuthenticationFailed(
            f"{endpoint.host}: {self.redact(reason)}", host=endpoint.host, status=status, hint=hint
        )


def reason_in(body: bytes) -> str:
    """Give the registry's own words in an error body (distribution spec "Error Codes"), or ""."""
    try:
        document = json.loads(body)
        listed = document.get("errors", [document])
        texts = [_reason(item) for item in listed[:3]]
    except (ValueError, RecursionError, TypeError, AttributeError):
        return ""
    return ", ".join(text for text in texts if text)


def _reason(item: Any) -> str:
    if not isinstance(item, dict):
        return ""
    code = item.get("code") or item.get("error")
    message = item.get("message") or item.get("error_description") or item.get("details")
    texts = [text for text in (code, message) if isinstance(text, str) and text]
    return "".join(letter if letter.isprintable() else " " for letter in ": ".join(texts))[:300]


def _with_authorization(request: Request, authorization: str) -> Request:
    if not authorization:
        return request
    return replace(request, private={**request.private, "Authorization": authorization})


def _drop(session: _Session, authorization: str) -> None:
    for key, token in list(session.tokens.items()):
        if authorization == f"Bearer {token.value}":
            del session.tokens[key]


def _realm_tls(endpoint: Endpoint, realm: str) -> Tls:
    """Trust for the token server what is trusted for the registry; the certificate that names us stays."""
    if urlsplit(realm).netloc == endpoint.host:
        return endpoint.tls
    return replace(endpoint.tls, client_certs=())

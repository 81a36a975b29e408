"""Request tokens from token servers, by either of the two protocols.

Sources: distribution spec "Token Authentication" (docs/spec/auth/token.md: GET; oauth.md: POST); containerd
core/remotes/docker/authorizer.go for the order POST, then GET.
"""

from __future__ import annotations

import datetime as dt
import json
import re
import time
from collections.abc import Callable, Sequence
from email.utils import parsedate_to_datetime
from typing import Any, Final
from urllib.parse import urlencode, urlsplit

import msgspec

from pyctrd import redact
from pyctrd.errors import PyctrdError
from pyctrd.registry.auth.challenge import Challenge
from pyctrd.registry.auth.keychain import Credential
from pyctrd.registry.config.endpoints import Endpoint
from pyctrd.registry.config.proxy import without_secrets
from pyctrd.registry.http.response import Response
from pyctrd.registry.http.transport import Request, Transport
from pyctrd.registry.values import Confidential

CLIENT_ID: Final = "pyctrd"
# The default of the token spec, and the shortest lifetime that it allows.
DEFAULT_TOKEN_SECONDS: Final = 60

_MAX_TOKEN_SECONDS: Final = 86400
_MAX_ANSWER_BYTES: Final = 1 << 20
# Responses to a POST after which the GET of the older protocol is tried (containerd authorizer.go).
_NO_POST: Final = frozenset({400, 401, 404, 405})
_TOKEN = re.compile(r"[\x21-\x7e]+")


class Token(Confidential, frozen=True):
    """A token, and when it expires by the clock of `TokenServers`."""

    HIDDEN = frozenset({"value"})

    value: str
    expires_at: float


class Refused(PyctrdError):
    """There is no token: `response` is that of the token server, or `message` gives another reason."""

    def __init__(self, message: str = "", response: Response | None = None) -> None:
        super().__init__(message)
        self.response = response


class TokenServers:
    """Requests tokens from the servers that registries name; `clock` measures their lifetime in seconds."""

    def __init__(self, transport: Transport, clock: Callable[[], float]) -> None:
        self._transport = transport
        self._clock = clock

    def ask(
        self, endpoint: Endpoint, found: Challenge, scopes: Sequence[str], credential: Credential | None
    ) -> Token:
        """Return a token for the scopes; without a credential, an anonymous one.

        Raises Refused, and RegistryError and RegistryUnreachable as the transport does.
        """
        _check_realm(endpoint, found["realm"])
        started = self._clock()
        response = self._response(endpoint, found, scopes, credential)
        if response.status != 200:
            raise Refused(response=response)
        issued_at_server = response.header("Date")
        try:
            document = json.loads(response.read(_MAX_ANSWER_BYTES))
        except (ValueError, RecursionError) as error:
            raise Refused(f"{without_secrets(found['realm'])} did not answer with JSON") from error
        finally:
            response.close()
        return _read_token(document, started, issued_at_server)

    def _response(
        self, endpoint: Endpoint, found: Challenge, scopes: Sequence[str], credential: Credential | None
    ) -> Response:
        if credential is None:
            return self._get(endpoint, found, scopes, "")
        response = self._post(endpoint, found, scopes, credential)
        if response.status not in _NO_POST or not credential.basic:
            return response
        response.close()
        return self._get(endpoint, found, scopes, credential.basic)

    def _post(
        self, endpoint: Endpoint, found: Challenge, scopes: Sequence[str], credential: Credential
    ) -> Response:
        realm = found["realm"]
        form = {"client_id": CLIENT_ID, "scope": " ".join(scopes), "service": found["service"]}
        if credential.identity_token:
            form |= {"grant_type": "refresh_token", "refresh_token": credential.identity_token}
        else:
            form |= {
                "grant_type": "password",
                "username": credential.username,
                "password": credential.password,
            }
        headers = {"Content-Type": "application/x-www-form-urlencoded"}
        body = urlencode(form, errors="surrogateescape").encode("ascii")
        return self._send(endpoint, Request("POST", realm, headers=headers, body=body))

    def _get(self, endpoint: Endpoint, found: Challenge, scopes: Sequence[str], basic: str) -> Response:
        fields = [("service", found["service"])] if found["service"] else []
        fields += [("scope", scope) for scope in scopes]
        realm = found["realm"]
        query = urlencode(fields, errors="replace")
        url = f"{realm}{'&' if '?' in realm else '?'}{query}" if fields else realm
        private = {"Authorization": basic} if basic else {}
        return self._send(endpoint, Request("GET", url, private=private))

    def _send(self, endpoint: Endpoint, request: Request) -> Response:
        """Send to a token server: with the TLS settings of the registry, but not its client certificates."""
        tls = (
            endpoint.tls
            if request.host == endpoint.host
            else msgspec.structs.replace(endpoint.tls, client_certs=())
        )
        return self._transport.send(
            msgspec.structs.replace(request, tls=tls, proxy=endpoint.proxy, named_by=endpoint.base)
        )


def _check_realm(endpoint: Endpoint, realm: str) -> None:
    try:
        parts = urlsplit(realm) if _TOKEN.fullmatch(realm) else None
    except ValueError:
        parts = None
    if parts is None or parts.scheme not in ("http", "https") or not parts.netloc or "@" in parts.netloc:
        raise Refused(f"the realm {redact.excerpt(realm, 200)!r} is not the URL of a token server")
    if endpoint.scheme == "https" and parts.scheme == "http":
        raise Refused(f"the token server {without_secrets(realm)} is plain http, the registry is https")


def _read_token(document: Any, started: float, date: str) -> Token:
    fields = document if isinstance(document, dict) else {}
    value = fields.get("access_token") or fields.get("token")
    if not isinstance(value, str) or not _TOKEN.fullmatch(value):
        raise Refused("authorization server did not include a token in the response")
    redact.remember(value)
    stated = fields.get("expires_in")
    seconds: float = DEFAULT_TOKEN_SECONDS
    if isinstance(stated, int) and not isinstance(stated, bool) and stated > 0:
        seconds = min(stated, _MAX_TOKEN_SECONDS)
    seconds -= _age(fields.get("issued_at"), date, seconds)
    # A token must not expire in transit, so the last tenth of its lifetime is not used.
    return Token(value, started + seconds * 0.9)


def _age(issued_at: Any, date: str, life: float) -> float:
    """Return the age of a token in seconds: token servers may return the same one again.

    It is compared with the Date of the response, since the server's clock may differ from ours. An
    implausible age counts as 0: an expired token is refused, and then requested again.
    """
    if not isinstance(issued_at, str):
        return 0.0
    try:
        issued = dt.datetime.fromisoformat(issued_at)
        now = parsedate_to_datetime(date).timestamp() if date else time.time()
        age = now - (issued if issued.tzinfo else issued.replace(tzinfo=dt.UTC)).timestamp()
    except (ValueError, TypeError, OverflowError, IndexError):
        return 0.0
    return age if 0 < age < life else 0.0

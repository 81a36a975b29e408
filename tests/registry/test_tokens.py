"""Tokens: scopes, lifetime, and the errors if one is refused."""

from __future__ import annotations

import datetime as dt
import json
import logging
import threading
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from pyctrd import redact
from pyctrd.errors import AuthenticationFailed, RegistryError
from pyctrd.registry.auth import scopes
from pyctrd.registry.auth.authorizer import Authorizer
from pyctrd.registry.auth.keychain import Credential, Keychain
from pyctrd.registry.config.endpoints import Endpoint
from pyctrd.registry.http.transport import Request, Transport
from tests.registry.conftest import RemoteMaker
from tests.registry.samples import DIGEST, TAG
from tests.registry.server import Answer, ScriptedServer, Seen
from tests.registry.test_authorizer import BASIC, PASSWORD, SCOPE, bearer, needs, token

URLLIB3 = "urllib3.connectionpool"
NOW = dt.datetime(2026, 5, 1, 12, tzinfo=dt.UTC)


class Asking:
    """An Authorizer for a registry and its token server, with a clock that tests advance."""

    def __init__(self, server: ScriptedServer, transport: Transport, keychain: Keychain) -> None:
        self.now = 1000.0
        self.server = server
        self.endpoint = Endpoint("http", server.host, account=server.host, is_own=True)
        self.authorizer = Authorizer(transport, keychain, clock=lambda: self.now)

    def ask(self, *wanted: str, path: str = "/x") -> int:
        request = Request("GET", f"{self.server.url}{path}")
        with_closed = self.authorizer.send(self.endpoint, request, wanted or (SCOPE,))
        with_closed.close()
        return with_closed.status


@pytest.fixture
def asking(server: ScriptedServer, tmp_path: Path) -> Iterator[Asking]:
    with Transport() as transport:
        yield Asking(server, transport, Keychain(tmp_path / "none"))


def asked_scopes(seen: Seen) -> list[str]:
    return parse_qs(urlsplit(seen.path).query)["scope"]


# --- scopes -----------------------------------------------------------------------------------------------


def test_one_token_for_a_mount(server: ScriptedServer, other: ScriptedServer, asking: Asking) -> None:
    server.always("GET", "/x", needs("Bearer tok1", bearer(other.url, "repository:a:pull,push")))
    other.once("GET", "/token", token())
    wanted = scopes.push("a"), scopes.pull("b")
    assert [asking.ask(*wanted), asking.ask(*wanted)] == [200, 200]
    assert asked_scopes(other.seen[0]) == ["repository:a:pull,push", "repository:b:pull"]


def test_scopes_of_a_challenge_are_remembered_for_the_same_scopes_only(
    server: ScriptedServer, other: ScriptedServer, asking: Asking
) -> None:
    server.always(
        "GET", "/x", needs("Bearer tok1", bearer(other.url, "repository:a:pull repository:base:pull"))
    )
    server.always("GET", "/y", needs("Bearer tok2", bearer(other.url, "repository:b:pull")))
    other.once("GET", "/token", token("tok1"), token("tok2"))
    assert asking.ask("repository:a:pull") == 200
    assert asking.ask("repository:b:pull", path="/y") == 200
    assert asking.ask("repository:a:pull") == 200
    assert [asked_scopes(seen) for seen in other.seen] == [
        ["repository:a:pull", "repository:base:pull"],
        ["repository:b:pull"],
    ]
    assert len(server.seen) == 4


@pytest.mark.parametrize("status", [401, 403])
def test_a_token_that_lacks_a_scope_is_widened_once(
    server: ScriptedServer, other: ScriptedServer, asking: Asking, status: int
) -> None:
    wide = bearer(other.url, "repository:team/app:pull,push") + ',error="insufficient_scope"'
    server.once("GET", "/x", Answer(401, headers={"WWW-Authenticate": bearer(other.url)}), Answer(200))
    other.once("GET", "/token", token("tok1"), token("tok2"))
    assert asking.ask() == 200
    server.once("GET", "/x", Answer(status, headers={"WWW-Authenticate": wide}), Answer(200))
    assert asking.ask() == 200
    assert asked_scopes(other.seen[1]) == ["repository:team/app:pull,push"]


def test_insufficient_scope_is_in_the_error(
    server: ScriptedServer, other: ScriptedServer, remote: RemoteMaker
) -> None:
    challenge = bearer(other.url) + ',error="insufficient_scope"'
    server.always("HEAD", TAG, Answer(401, headers={"WWW-Authenticate": challenge}))
    other.once("POST", "/token", token())
    with pytest.raises(AuthenticationFailed) as caught:
        remote(username="me", password=PASSWORD).resolve()
    assert f"insufficient_scope: the token does not allow {SCOPE}" in str(caught.value)
    assert "authorization failed" in str(caught.value)
    assert "The credentials from -u were not enough" in str(caught.value.hint)
    assert caught.value.repository == "team/app"
    assert len(server.seen) == 2


def test_the_message_for_an_invalid_token_is_in_the_error(
    server: ScriptedServer, other: ScriptedServer, remote: RemoteMaker
) -> None:
    challenge = bearer(other.url) + ',error="invalid_token\x1b"'
    server.always("HEAD", TAG, Answer(401, headers={"WWW-Authenticate": challenge}))
    other.once("GET", "/token", token())
    with pytest.raises(AuthenticationFailed, match=r"invalid_token  ?\(status 401\)"):
        remote().resolve()


def test_a_403_without_a_challenge_is_returned(server: ScriptedServer, asking: Asking) -> None:
    server.once("GET", "/x", Answer(403, headers={"WWW-Authenticate": "Basic realm=x"}))
    assert asking.ask() == 403


# --- answers to challenges --------------------------------------------------------------------------------


def test_several_challenges_on_several_lines(
    server: ScriptedServer, other: ScriptedServer, asking: Asking
) -> None:
    header = f'Negotiate, Basic realm="x", {bearer(other.url)}'
    server.always("GET", "/x", needs("Bearer tok1", header))
    other.once("GET", "/token", token())
    assert asking.ask() == 200


def test_basic_is_used_if_bearer_names_no_token_server(server: ScriptedServer, remote: RemoteMaker) -> None:
    server.always("HEAD", TAG, needs(BASIC, 'Bearer service="x", Basic realm="x"'))
    assert remote(username="me", password=PASSWORD).resolve().digest == DIGEST


def test_a_registry_token_is_sent_unchanged(
    server: ScriptedServer, remote: RemoteMaker, tmp_path: Path
) -> None:
    config = tmp_path / "config.json"
    config.write_text(json.dumps({"auths": {server.host: {"registrytoken": "ready-made"}}}))
    server.always("HEAD", TAG, needs("Bearer ready-made", bearer("http://127.0.0.1:1")))
    assert remote(docker_config=config).resolve().digest == DIGEST


def test_a_refused_identity_token_without_a_password_is_not_sent_by_get(
    server: ScriptedServer, other: ScriptedServer, remote: RemoteMaker, tmp_path: Path
) -> None:
    config = tmp_path / "config.json"
    config.write_text(json.dumps({"auths": {server.host: {"identitytoken": "the-identity"}}}))
    server.always("HEAD", TAG, needs("Bearer tok1", bearer(other.url)))
    other.once("POST", "/token", Answer(401, b'{"error":"bad the-identity"}'))
    with pytest.raises(AuthenticationFailed, match=r"bad \*\*\*: authorization failed"):
        remote(docker_config=config).resolve()


def test_each_repository_has_its_own_credential(
    server: ScriptedServer, other: ScriptedServer, remote: RemoteMaker, tmp_path: Path
) -> None:
    config = tmp_path / "config.json"
    users = {f"{server.host}/team": "of-team", server.host: "of-host"}
    config.write_text(
        json.dumps({"auths": {key: {"username": user, "password": "pass"} for key, user in users.items()}})
    )

    def answer(seen: Seen) -> Answer:
        return Answer(200, json.dumps({"token": parse_qs(seen.body.decode())["username"][0]}).encode())

    other.always("POST", "/token", answer)
    server.always("HEAD", TAG, needs("Bearer of-team", bearer(other.url)))
    server.always("HEAD", "/v2/app/manifests/v1", needs("Bearer of-host", bearer(other.url)))
    assert remote(docker_config=config).resolve().digest == DIGEST
    assert remote(f"{server.host}/app:v1", docker_config=config).resolve().digest == DIGEST


def test_credentials_replace_the_authorization_header_of_hosts_toml(
    server: ScriptedServer, tmp_path: Path
) -> None:
    server.always("GET", "/x", needs(BASIC, "Basic realm=x", Answer(200)))
    endpoint = Endpoint("http", server.host, account=server.host, is_own=True)
    request = Request("GET", f"{server.url}/x", private={"authorization": "Bearer configured", "X-A": "b"})
    keychain = Keychain(tmp_path / "none", given=Credential("me", PASSWORD, source="-u"))
    with Transport() as transport:
        assert Authorizer(transport, keychain).send(endpoint, request, [SCOPE]).status == 200
    assert [seen.authorization for seen in server.seen] == ["Bearer configured", BASIC]
    assert server.seen[1].headers["x-a"] == "b"


# --- lifetime of tokens -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("age", "seconds"),
    [(0, 270), (100, 180), (299, 0.9), (300, 270), (5000, 270), (-60, 270)],
)
def test_an_older_token_expires_earlier(
    server: ScriptedServer, other: ScriptedServer, asking: Asking, age: int, seconds: float
) -> None:
    """By the clock of the token server; implausible times are ignored."""
    issued = (NOW - dt.timedelta(seconds=age)).isoformat().replace("+00:00", "Z")
    fresh = token(expires_in=300, issued_at=issued)
    server.always("GET", "/x", needs("Bearer tok1", bearer(other.url), Answer(200)))
    other.once("GET", "/token", fresh)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pyctrd.registry.auth.tokens.parsedate_to_datetime", lambda _text: NOW)
        assert asking.ask() == 200
    asking.now += seconds - 0.1
    assert asking.ask() == 200
    assert len(other.seen) == 1
    asking.now += 0.2
    other.once("GET", "/token", fresh)
    assert asking.ask() == 200


@pytest.mark.parametrize(
    "issued_at", [None, 7, "yesterday", "0001-01-01T00:00:00Z", "9999-12-31T23:59:59-23:59"]
)
def test_implausible_times_of_issue(
    server: ScriptedServer, other: ScriptedServer, asking: Asking, issued_at: Any
) -> None:
    server.always("GET", "/x", needs("Bearer tok1", bearer(other.url), Answer(200)))
    other.once("GET", "/token", token(issued_at=issued_at))
    assert [asking.ask(), asking.ask()] == [200, 200]


def test_concurrent_requests_refresh_one_token(
    server: ScriptedServer, other: ScriptedServer, asking: Asking
) -> None:
    """All are refused with the same token; one requests a new token, and all use it."""
    valid = ["tok1"]
    gate = threading.Barrier(8, timeout=20)
    armed = threading.Event()

    def reply(seen: Seen) -> Answer:
        if seen.authorization == f"Bearer {valid[0]}":
            return Answer(200)
        if armed.is_set() and seen.authorization == "Bearer tok1":
            gate.wait()
        return Answer(401, headers={"WWW-Authenticate": bearer(other.url)})

    server.always("GET", "/x", reply)
    other.once("GET", "/token", token("tok1"), token("tok2"))
    assert asking.ask() == 200
    valid[0] = "tok2"
    armed.set()
    statuses: list[int] = []
    threads = [threading.Thread(target=lambda: statuses.append(asking.ask())) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert statuses == [200] * 8
    assert len(other.seen) == 2


# --- secrets ----------------------------------------------------------------------------------------------


def test_a_token_server_on_http_gets_nothing_from_https(tmp_path: Path) -> None:
    """Checked before anything is sent: there is no server."""
    from pyctrd.registry.auth.challenge import Challenge
    from pyctrd.registry.auth.tokens import Refused, TokenServers

    endpoint = Endpoint("https", "a.example", account="a.example", is_own=True)
    found = Challenge("bearer", {"realm": "http://127.0.0.1:1/token"})
    with Transport() as transport, pytest.raises(Refused, match="is plain http, the registry is https"):
        TokenServers(transport, time.monotonic).ask(endpoint, found, [], Credential("me", PASSWORD))


def test_a_secret_in_a_redirect_is_in_no_error_or_log(
    server: ScriptedServer,
    other: ScriptedServer,
    remote: RemoteMaker,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    caplog.set_level(logging.NOTSET)
    monkeypatch.setattr(logging.getLogger(URLLIB3), "filters", [])
    redact.logger(URLLIB3)  # as docs/authentication.md tells applications that show its log
    server.always("HEAD", TAG, needs("Bearer the-token", bearer(other.url), _redirect(other, "the-token")))
    other.once("POST", "/token", token("the-token"))
    other.always("HEAD", "/the-token", Answer(302, headers={"Location": f"ftp://x/the-token/{PASSWORD}"}))
    with pytest.raises(RegistryError, match="is not followed") as caught:
        remote(username="me", password=PASSWORD).resolve()
    assert other.requests()[-1] == "HEAD /the-token?sig=the-signature"
    assert other.seen[-1].authorization == ""
    shown = "".join(traceback.format_exception(caught.value)) + repr(vars(caught.value))
    shown += "".join(record.getMessage() + repr(vars(record)) for record in caplog.records)
    assert "urllib3" in shown
    for secret in ("the-token", "the-signature", PASSWORD, BASIC.split()[1]):
        assert secret not in shown


def _redirect(target: ScriptedServer, path: str) -> Answer:
    return Answer(307, headers={"Location": f"{target.url}/{path}?sig=the-signature"})

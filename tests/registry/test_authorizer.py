"""Challenges, tokens and basic authentication, and where secrets are sent."""

from __future__ import annotations

import base64
import json
import logging
import threading
import traceback
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

from pyctrd.errors import AuthenticationFailed, PyctrdError, RegistryError
from pyctrd.registry.auth.authorizer import Authorizer
from pyctrd.registry.auth.keychain import Credential, Keychain
from pyctrd.registry.config.endpoints import Endpoint
from pyctrd.registry.http.transport import Request, Transport
from tests.registry.conftest import RemoteMaker
from tests.registry.samples import (
    BLOB,
    DIGEST,
    HEADERS,
    MANIFEST,
    TAG,
    blob_path,
    layer,
    mirror_config,
    read,
)
from tests.registry.server import Answer, Reply, ScriptedServer, Seen, ranges

PASSWORD = "pa:ss+wörd&x"
BASIC = f"Basic {base64.b64encode(f'me:{PASSWORD}'.encode()).decode()}"
GOOD = Answer(200, MANIFEST, HEADERS)
SCOPE = "repository:team/app:pull"


def needs(authorization: str, challenge_header: str, answer: Answer = GOOD) -> Reply:
    """Answer only requests with exactly this Authorization."""

    def reply(seen: Seen) -> Answer:
        if seen.authorization == authorization:
            return answer
        return Answer(401, headers={"WWW-Authenticate": challenge_header})

    return reply


def bearer(realm: str, scope: str = SCOPE) -> str:
    return f'Bearer realm="{realm}/token",service="the registry",scope="{scope}"'


def token(value: str = "tok1", /, **more: object) -> Answer:
    return Answer(200, json.dumps({"token": value, **more}).encode())


# --- basic ------------------------------------------------------------------------------------------------


def test_basic(server: ScriptedServer, remote: RemoteMaker) -> None:
    server.always("HEAD", TAG, needs(BASIC, "Basic realm=x"))
    one = remote(username="me", password=PASSWORD)
    assert one.resolve().digest == DIGEST
    assert server.seen[0].authorization == ""  # nothing is sent before a challenge
    one.resolve()
    assert len(server.seen) == 3  # from then on, with every request


def test_wrong_password_is_tried_once(server: ScriptedServer, remote: RemoteMaker) -> None:
    server.always("HEAD", TAG, needs("Basic other", "Basic realm=x"))
    with pytest.raises(AuthenticationFailed, match="authorization failed") as caught:
        remote(username="me", password=PASSWORD).resolve()
    assert len(server.seen) == 2
    assert caught.value.status == 401
    assert "`username`" in str(caught.value.hint)


def test_no_password(server: ScriptedServer, remote: RemoteMaker) -> None:
    server.always("HEAD", TAG, needs(BASIC, "Basic realm=x"))
    with pytest.raises(AuthenticationFailed, match="no basic auth credentials"):
        remote().resolve()


def test_unknown_scheme(server: ScriptedServer, remote: RemoteMaker) -> None:
    server.always("HEAD", TAG, needs(BASIC, "Negotiate"))
    with pytest.raises(AuthenticationFailed, match="unexpected status 401"):
        remote(username="me", password=PASSWORD).resolve()


# --- tokens -----------------------------------------------------------------------------------------------


def test_anonymous_token(server: ScriptedServer, other: ScriptedServer, remote: RemoteMaker) -> None:
    server.always("HEAD", TAG, needs("Bearer tok1", bearer(other.url, f"{SCOPE} other:x:pull")))
    other.once("GET", "/token", token())
    assert remote().resolve().digest == DIGEST
    query = parse_qs(urlsplit(other.seen[0].path).query)
    assert query == {"service": ["the registry"], "scope": ["other:x:pull", SCOPE]}
    assert other.seen[0].authorization == ""


def test_token_for_a_password(server: ScriptedServer, other: ScriptedServer, remote: RemoteMaker) -> None:
    server.always("HEAD", TAG, needs("Bearer tok1", bearer(other.url)))
    other.once("POST", "/token", Answer(200, b'{"access_token":"tok1"}'))
    remote(username="me", password=PASSWORD).resolve()
    form = {key: values[0] for key, values in parse_qs(other.seen[0].body.decode()).items()}
    assert form == {
        "client_id": "pyctrd",
        "grant_type": "password",
        "username": "me",
        "password": PASSWORD,
        "service": "the registry",
        "scope": SCOPE,
    }


@pytest.mark.parametrize("status", [400, 401, 404, 405])
def test_token_by_get_if_post_is_not_supported(
    server: ScriptedServer, other: ScriptedServer, remote: RemoteMaker, status: int
) -> None:
    server.always("HEAD", TAG, needs("Bearer tok1", bearer(other.url)))
    other.once("POST", "/token", Answer(status))
    other.once("GET", "/token", needs(BASIC, "Basic realm=x", token()))
    remote(username="me", password=PASSWORD).resolve()


def test_identity_token(
    server: ScriptedServer, other: ScriptedServer, remote: RemoteMaker, tmp_path: Path
) -> None:
    config = tmp_path / "config.json"
    entry = {"auth": base64.b64encode(b"me:").decode(), "identitytoken": "idt"}
    config.write_text(json.dumps({"auths": {server.host: entry}}))
    server.always("HEAD", TAG, needs("Bearer tok1", bearer(other.url)))
    other.once("POST", "/token", Answer(200, b'{"access_token":"tok1"}'))
    remote(docker_config=config).resolve()
    form = parse_qs(other.seen[0].body.decode())
    assert (form["grant_type"], form["refresh_token"]) == (["refresh_token"], ["idt"])
    assert "password" not in form


def test_one_token_for_resolve_and_fetch(
    server: ScriptedServer, other: ScriptedServer, remote: RemoteMaker
) -> None:
    descriptor = layer()
    server.always("HEAD", TAG, needs("Bearer tok1", bearer(other.url)))
    server.always("GET", blob_path(descriptor), ranges(BLOB))
    other.once("GET", "/token", token())
    one = remote()
    one.resolve()
    read(one, descriptor)
    assert len(server.seen) == 3
    assert server.seen[2].authorization == "Bearer tok1"


def test_refused_token_is_refreshed_once(
    server: ScriptedServer, other: ScriptedServer, remote: RemoteMaker
) -> None:
    one = remote()
    server.once("HEAD", TAG, needs("Bearer tok1", bearer(other.url)), needs("Bearer tok1", bearer(other.url)))
    other.once("GET", "/token", token("tok1"), token("tok2"))
    one.resolve()
    server.once("HEAD", TAG, *[needs("Bearer tok2", bearer(other.url))] * 2)
    one.resolve()
    other.once("GET", "/token", token("tok3"))
    server.once("HEAD", TAG, *[needs("Bearer tok4", bearer(other.url))] * 2)
    with pytest.raises(AuthenticationFailed, match="status 401: authorization failed"):
        one.resolve()


@pytest.mark.parametrize(
    ("stated", "seconds"),
    [
        ({}, 54),
        ({"expires_in": 300}, 270),
        ({"expires_in": -5}, 54),
        ({"expires_in": "9"}, 54),
        ({"expires_in": True}, 54),
        ({"expires_in": 10**400}, 77760),
    ],
)
def test_tokens_expire(
    server: ScriptedServer, other: ScriptedServer, stated: dict[str, object], seconds: float
) -> None:
    now = [1000.0]
    endpoint = Endpoint("http", server.host, account=server.host)
    server.always("GET", "/x", needs("Bearer tok1", bearer(other.url)))
    other.once("GET", "/token", token(**stated))
    with Transport() as transport:
        authorizer = Authorizer(transport, Keychain(Path("/nowhere")), clock=lambda: now[0])

        def ask() -> int:
            return authorizer.send(endpoint, Request("GET", f"{server.url}/x"), [SCOPE]).status

        assert ask() == 200
        now[0] += seconds - 0.1
        assert ask() == 200
        assert len(other.seen) == 1
        now[0] += 0.2
        other.once("GET", "/token", token())
        assert ask() == 200


def test_concurrent_requests_fetch_one_token(
    server: ScriptedServer, other: ScriptedServer, remote: RemoteMaker
) -> None:
    server.always("HEAD", TAG, needs("Bearer tok1", bearer(other.url)))
    other.once("GET", "/token", token())
    one = remote()
    found: list[str] = []
    threads = [threading.Thread(target=lambda: found.append(one.resolve().digest)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [DIGEST] * 8
    assert len(other.seen) == 1


@pytest.mark.parametrize(
    "answer",
    [
        Answer(200, b"<html>"),
        Answer(200, b"{}"),
        Answer(200, b"[]"),
        Answer(200, b'{"token":7}'),
        Answer(200, b'{"token":"a\\r\\nX-Evil: 1"}'),
        Answer(200, b"[" * 100_000),
        Answer(403, b'{"details":"go away"}'),
    ],
)
def test_invalid_responses_of_token_servers(
    server: ScriptedServer, other: ScriptedServer, remote: RemoteMaker, answer: Answer
) -> None:
    server.always("HEAD", TAG, needs("Bearer tok1", bearer(other.url)))
    other.once("GET", "/token", answer)
    with pytest.raises(AuthenticationFailed):
        remote().resolve()


@pytest.mark.parametrize(
    "realm", ["", "ftp://x", "http://u:p@x", "file:///etc/passwd", "http://[", "http://a\x7fb"]
)
def test_invalid_realms(server: ScriptedServer, remote: RemoteMaker, realm: str) -> None:
    server.always("HEAD", TAG, needs("x", f'Bearer realm="{realm}"'))
    with pytest.raises(AuthenticationFailed, match="is not the URL of a token server"):
        remote(username="me", password=PASSWORD).resolve()


# --- where secrets are sent -------------------------------------------------------------------------------


def test_a_mirror_gets_no_password(
    server: ScriptedServer, other: ScriptedServer, remote: RemoteMaker, tmp_path: Path
) -> None:
    other.always("HEAD", TAG, needs(BASIC, "Basic realm=x"))
    server.always("HEAD", TAG, needs(BASIC, "Basic realm=x"))
    config = mirror_config(tmp_path, server, other)
    assert remote(username="me", password=PASSWORD, hosts_dir=config).resolve().digest == DIGEST
    assert [seen.authorization for seen in other.seen] == [""]


def test_a_password_is_for_one_account(server: ScriptedServer, remote: RemoteMaker) -> None:
    server.always("HEAD", TAG, needs(BASIC, "Basic realm=x"))
    with pytest.raises(AuthenticationFailed, match="no basic auth credentials"):
        remote(username="me", password=PASSWORD, account="other.example").resolve()


def test_a_token_is_for_the_host_that_asked(
    server: ScriptedServer, other: ScriptedServer, remote: RemoteMaker, tmp_path: Path
) -> None:
    """A registry that names another one's realm, service and scope does not get that one's token."""
    with ScriptedServer() as realm:
        same = bearer(realm.url)
        realm.once("POST", "/token", Answer(200, b'{"access_token":"ofserver"}'))
        realm.once("GET", "/token", token("ofmirror"))
        server.always("HEAD", TAG, needs("Bearer ofserver", same))
        other.always("HEAD", TAG, needs("Bearer none", same))
        one = remote(username="me", password=PASSWORD, hosts_dir=mirror_config(tmp_path, server, other))
        assert one.resolve().digest == DIGEST
    assert {seen.authorization for seen in other.seen} == {"", "Bearer ofmirror"}


def test_a_token_request_is_not_redirected_elsewhere(
    server: ScriptedServer, other: ScriptedServer, remote: RemoteMaker
) -> None:
    server.always("HEAD", TAG, needs("Bearer tok1", bearer(server.url)))
    server.once("POST", "/token", Answer(307, headers={"Location": f"{other.url}/token"}))
    with pytest.raises(RegistryError, match="redirect of a POST"):
        remote(username="me", password=PASSWORD).resolve()
    assert other.seen == []


def test_no_secret_in_any_error_or_log(
    server: ScriptedServer, remote: RemoteMaker, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    """The registry echoes everything that it was sent, at every step, and everything is logged."""
    caplog.set_level(logging.DEBUG)

    def echo(status: int, header: str = "") -> Reply:
        def reply(seen: Seen) -> Answer:
            words = f"{seen.authorization} {parse_qs(seen.body.decode()).get('password')} {BASIC} {PASSWORD}"
            body = json.dumps({"errors": [{"code": "X", "message": words}]}).encode()
            return Answer(status, body, {"WWW-Authenticate": header} if header else {})

        return reply

    descriptor = layer()
    path = blob_path(descriptor)
    shown = ""
    scenarios: list[dict[tuple[str, str], Reply]] = [
        {("HEAD", TAG): echo(401, "Basic realm=x")},
        {("HEAD", TAG): echo(401, bearer(server.url)), ("POST", "/token"): echo(403)},
        {("HEAD", TAG): echo(401, bearer(server.url)), ("POST", "/token"): token("thetokenitself")},
        {
            ("HEAD", TAG): needs("Bearer thetokenitself", bearer(server.url), Answer(405)),
            ("POST", "/token"): token("thetokenitself"),
            ("GET", TAG): echo(500),
        },
        {("HEAD", TAG): Answer(302, headers={"Location": "http://127.0.0.1:1/x?sig=thesignature"})},
    ]
    for script in scenarios:
        for (method, where), reply in script.items():
            server.always(method, where, reply)
        server.always("GET", path, echo(403))
        one = remote(username="me", password=PASSWORD)
        for action in (one.resolve, lambda r=one: read(r, descriptor)):
            with pytest.raises(PyctrdError) as caught:
                action()
            shown += (
                "".join(traceback.format_exception(caught.value))
                + repr(caught.value)
                + str(caught.value.hint)
            )
            shown += repr(vars(caught.value))
    logs = "".join(record.getMessage() for record in caplog.records if record.name.startswith("pyctrd"))
    assert "HEAD http://" in logs
    for secret in (PASSWORD, BASIC.split()[1], "thetokenitself", "thesignature"):
        assert secret not in shown
        assert secret not in logs
    for record in caplog.records:  # nor do other libraries log one, except in URLs
        assert not any(one in record.getMessage() for one in (PASSWORD, BASIC.split()[1], "thetokenitself"))


def test_no_secret_in_repr() -> None:
    from pyctrd.registry import RegistryOptions

    things = [
        RegistryOptions(username="me", password="hush"),
        Credential("me", "hush", "hush"),
        Request("GET", "http://x", headers={"a": "hush"}, private={"Authorization": "hush"}, body=b"hush"),
        Endpoint("https", "x", account="x", headers=(("Authorization", "hush"),)),
    ]
    assert not [thing for thing in things if "hush" in repr(thing)]

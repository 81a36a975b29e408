"""Challenges, tokens, basic authentication; and that no secret gets where it does not belong."""

from __future__ import annotations

import base64
import json
import logging
import stat
import threading
import traceback
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pyctrd.errors import AuthenticationFailed, PyctrdError, RegistryError
from pyctrd.registry import challenge
from pyctrd.registry.auth import Authorizer, reason_in
from pyctrd.registry.challenge import Challenge
from pyctrd.registry.credentials import Credential, Keychain
from pyctrd.registry.hosts import Endpoint
from pyctrd.registry.transport import Request, Transport
from tests.registry.conftest import RemoteMaker
from tests.registry.server import Answer, Reply, ScriptedServer, Seen, ranges
from tests.registry.test_remote import (
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

PASSWORD = "pa:ss+wörd&x"
BASIC = f"Basic {base64.b64encode(f'me:{PASSWORD}'.encode()).decode()}"
GOOD = Answer(200, MANIFEST, HEADERS)
SCOPE = "repository:team/app:pull"


def needs(authorization: str, challenge_header: str, answer: Answer = GOOD) -> Reply:
    """Answer only those who show exactly this."""

    def reply(seen: Seen) -> Answer:
        if seen.authorization == authorization:
            return answer
        return Answer(401, headers={"WWW-Authenticate": challenge_header})

    return reply


def bearer(realm: str, scope: str = SCOPE) -> str:
    return f'Bearer realm="{realm}/token",service="the registry",scope="{scope}"'


def token(value: str = "tok1", /, **more: object) -> Answer:
    return Answer(200, json.dumps({"token": value, **more}).encode())


# --- the header -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ('Bearer realm="https://a/t",service=s', [("bearer", {"realm": "https://a/t", "service": "s"})]),
        (
            'bearer REALM = "x" , scope="a:b:pull,push c"',
            [("bearer", {"realm": "x", "scope": "a:b:pull,push c"})],
        ),
        (
            'Basic realm="a \\"b\\" \\\\", charset="UTF-8"',
            [("basic", {"realm": 'a "b" \\', "charset": "UTF-8"})],
        ),
        ('Basic realm="a", Bearer realm="b"', [("basic", {"realm": "a"}), ("bearer", {"realm": "b"})]),
        ("Negotiate, Basic", [("negotiate", {}), ("basic", {})]),
        ('Basic realm="1",realm="2"', [("basic", {"realm": "1"})]),
        ("", []),
        ('=,"', []),
    ],
)
def test_challenges(header: str, expected: list[tuple[str, dict[str, str]]]) -> None:
    assert [(one.scheme, dict(one.parameters)) for one in challenge.parse([header])] == expected


VALUES = st.text(st.characters(codec="latin-1", exclude_categories=["Cc"]))


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["bearer", "basic", "negotiate", "digest"]),
            st.dictionaries(st.from_regex(r"[a-z]{1,8}", fullmatch=True), VALUES, min_size=1),
        ),
        min_size=1,
        max_size=3,
    )
)
def test_written_challenges_are_read_back(written: list[tuple[str, dict[str, str]]]) -> None:
    def quoted(value: str) -> str:
        return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'

    line = ", ".join(
        f"{scheme} {', '.join(f'{name}={quoted(value)}' for name, value in fields.items())}"
        for scheme, fields in written
    )
    assert [(one.scheme, dict(one.parameters)) for one in challenge.parse([line])] == written


@given(st.lists(st.text(max_size=300), max_size=3))
@example(['Bearer realm="' + "\\" * 5000])
def test_no_header_breaks_the_parser(headers: list[str]) -> None:
    for one in challenge.parse(headers):
        assert one.scheme == one.scheme.lower()


@given(st.permutations(["bearer", "basic", "negotiate"]))
def test_bearer_is_chosen_before_basic(schemes: list[str]) -> None:
    chosen = challenge.choose([Challenge(scheme) for scheme in schemes])
    assert chosen == Challenge("bearer")
    assert challenge.choose([Challenge("negotiate")]) is None


@given(
    st.binary(max_size=200)
    | st.recursive(
        st.none() | st.integers() | st.text(max_size=5),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(st.sampled_from(["errors", "code", "message", "detail"]), inner)
        ),
    ).map(lambda value: json.dumps(value).encode())
)
def test_no_error_body_breaks_us(body: bytes) -> None:
    assert reason_in(body).isprintable()


# --- basic ------------------------------------------------------------------------------------------------


def test_basic(server: ScriptedServer, remote: RemoteMaker) -> None:
    server.always("HEAD", TAG, needs(BASIC, "Basic realm=x"))
    one = remote(username="me", password=PASSWORD)
    assert one.resolve().digest == DIGEST
    assert server.seen[0].authorization == ""  # nothing is sent before it is asked for
    one.resolve()
    assert len(server.seen) == 3  # from then on at once


def test_wrong_password_is_tried_once(server: ScriptedServer, remote: RemoteMaker) -> None:
    server.always("HEAD", TAG, needs("Basic other", "Basic realm=x"))
    with pytest.raises(AuthenticationFailed, match="authorization failed") as caught:
        remote(username="me", password=PASSWORD).resolve()
    assert len(server.seen) == 2
    assert caught.value.status == 401
    assert "-u USER" in str(caught.value.hint)


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
def test_token_by_get_where_post_is_unknown(
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


def test_many_threads_fetch_one_token(
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
def test_token_servers_that_talk_nonsense(
    server: ScriptedServer, other: ScriptedServer, remote: RemoteMaker, answer: Answer
) -> None:
    server.always("HEAD", TAG, needs("Bearer tok1", bearer(other.url)))
    other.once("GET", "/token", answer)
    with pytest.raises(AuthenticationFailed):
        remote().resolve()


@pytest.mark.parametrize(
    "realm", ["", "ftp://x", "http://u:p@x", "file:///etc/passwd", "http://[", "http://a\x7fb"]
)
def test_realms_that_are_no_token_server(server: ScriptedServer, remote: RemoteMaker, realm: str) -> None:
    server.always("HEAD", TAG, needs("x", f'Bearer realm="{realm}"'))
    with pytest.raises(AuthenticationFailed, match="is not the URL of a token server"):
        remote(username="me", password=PASSWORD).resolve()


# --- secrets stay where they belong -----------------------------------------------------------------------


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
    """A registry that echoes all it was sent, at every step, with everything logged."""
    caplog.set_level(logging.DEBUG)

    def echo(status: int, header: str = "") -> Reply:
        def reply(seen: Seen) -> Answer:
            words = f"{seen.authorization} {parse_qs(seen.body.decode()).get('password')} {BASIC} {PASSWORD}"
            body = json.dumps({"errors": [{"code": "X", "message": words}]}).encode()
            return Answer(status, body, {"WWW-Authenticate": header} if header else {})

        return reply

    descriptor = layer()
    path = blob_path(descriptor)
    told = ""
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
            told += (
                "".join(traceback.format_exception(caught.value))
                + repr(caught.value)
                + str(caught.value.hint)
            )
            told += repr(vars(caught.value))
    logs = "".join(record.getMessage() for record in caplog.records if record.name.startswith("pyctrd"))
    assert "HEAD http://" in logs
    for secret in (PASSWORD, BASIC.split()[1], "thetokenitself", "thesignature"):
        assert secret not in told
        assert secret not in logs
    for record in caplog.records:  # nor what the libraries below log, except for URLs
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


# --- config.json and helpers ------------------------------------------------------------------------------


def write_helper(folder: Path, name: str, script: str) -> None:
    path = folder / f"docker-credential-{name}"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


def keychain(tmp_path: Path, document: object) -> Keychain:
    config = tmp_path / "config.json"
    config.write_text(document if isinstance(document, str) else json.dumps(document))
    return Keychain(environ={"DOCKER_CONFIG": str(tmp_path), "PATH": f"{tmp_path}:/usr/bin:/bin"})


def encode(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


@pytest.mark.parametrize(
    ("key", "account", "found"),
    [
        ("example.org:5000", "example.org:5000", True),
        ("https://example.org:5000/v2/", "example.org:5000", True),
        ("http://example.org", "example.org", True),
        ("example.org", "example.org:5000", False),
        ("example.org", "sub.example.org", False),
        ("https://index.docker.io/v1/", "docker.io", True),
        ("docker.io", "docker.io", True),
        ("https://index.docker.io/v1/", "registry-1.docker.io", True),
        ("quay.io", "docker.io", False),
    ],
)
def test_keys_of_auths(tmp_path: Path, key: str, account: str, found: bool) -> None:
    chain = keychain(tmp_path, {"auths": {"x.example": {}, key: {"auth": encode("me:p:w")}}})
    credential = chain.find(account, own=True)
    assert (credential is not None) == found
    if credential:
        assert (credential.username, credential.password) == ("me", "p:w")
        assert credential.source == str(tmp_path / "config.json")


def test_default_place_of_the_config(tmp_path: Path) -> None:
    (tmp_path / ".docker").mkdir()
    text = json.dumps({"auths": {"a.example": {"username": "me", "password": "pw"}}})
    (tmp_path / ".docker" / "config.json").write_text(text)
    credential = Keychain(environ={"HOME": str(tmp_path)}).find("a.example", own=True)
    assert credential is not None
    assert credential.password == "pw"


def test_credential_helper(tmp_path: Path, server: ScriptedServer) -> None:
    script = f"""test "$1" = get || exit 9
read server
echo "$server" >> {tmp_path}/asked
echo '{{"ServerURL":"x","Username":"me","Secret":"from-helper"}}'"""
    write_helper(tmp_path, "test", script)
    chain = keychain(
        tmp_path, {"credsStore": "gone", "credHelpers": {"a.example": "test", "docker.io": "test"}}
    )
    for account in ("a.example", "docker.io", "a.example"):
        credential = chain.find(account, own=False)
        assert credential is not None
        assert (credential.password, credential.source) == ("from-helper", "docker-credential-test")
    assert (tmp_path / "asked").read_text().split() == ["a.example", "https://index.docker.io/v1/"]
    assert chain.problems == []


def test_identity_token_of_a_helper(tmp_path: Path) -> None:
    write_helper(tmp_path, "test", """echo '{"Username":"<token>","Secret":"idt"}'""")
    credential = keychain(tmp_path, {"credsStore": "test"}).find("a.example", own=True)
    assert credential is not None
    assert (credential.identity_token, credential.password, credential.basic) == ("idt", "", "")


def test_a_helper_without_credentials_is_no_problem(tmp_path: Path) -> None:
    write_helper(tmp_path, "test", "echo credentials not found in native keychain; exit 1")
    chain = keychain(tmp_path, {"credsStore": "test", "auths": {"a.example": {"auth": encode("me:pw")}}})
    assert chain.find("b.example", own=True) is None
    credential = chain.find("a.example", own=True)
    assert credential is not None
    assert credential.password == "pw"
    assert chain.problems == []


@pytest.mark.parametrize(
    ("helper", "script", "problem"),
    [
        ("gone", "", "docker-credential-gone (named in"),
        ("test", "echo hush; echo hush >&2; exit 3", "docker-credential-test failed with status 3"),
        ("test", "echo hush", "did not answer with a JSON object"),
        ("../x", "", "is not the name of a credential helper"),
    ],
)
def test_broken_helpers_are_told_without_their_output(
    tmp_path: Path, helper: str, script: str, problem: str, caplog: pytest.LogCaptureFixture
) -> None:
    write_helper(tmp_path, "test", script)
    chain = keychain(tmp_path, {"credsStore": helper})
    assert chain.find("a.example", own=True) is None
    assert problem in chain.problems[0]
    assert problem in caplog.text
    assert "hush" not in caplog.text


def test_a_broken_helper_shows_up_where_authentication_fails(
    server: ScriptedServer, remote: RemoteMaker, tmp_path: Path
) -> None:
    config = tmp_path / "config.json"
    config.write_text('{"credsStore":"gone"}')
    server.always("HEAD", TAG, needs(BASIC, "Basic realm=x"))
    with pytest.raises(AuthenticationFailed) as caught:
        remote(docker_config=config).resolve()
    assert "docker-credential-gone" in str(caught.value.hint)


@pytest.mark.parametrize("text", ["{", "[]", "\0", '{"auths":"hush"} x', "[" * 100_000])
def test_broken_config_is_told_without_its_text(tmp_path: Path, text: str) -> None:
    chain = keychain(tmp_path, text)
    assert chain.find("a.example", own=True) is None
    assert len(chain.problems) == 1
    assert "hush" not in chain.problems[0]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["auth", "username", "password", "identitytoken", "a.example"]), inner
        )
    ),
    max_leaves=10,
)


@given(st.fixed_dictionaries({"auths": JSON, "credHelpers": st.none() | st.lists(st.text())}))
def test_no_config_breaks_us(tmp_path_factory: pytest.TempPathFactory, document: object) -> None:
    chain = keychain(tmp_path_factory.mktemp("config"), document)
    credential = chain.find("a.example", own=True)
    assert credential is None or credential.identity_token or credential.password

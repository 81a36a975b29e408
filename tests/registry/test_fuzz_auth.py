"""Any input of registries, token servers, files and helpers: only our exceptions, without secrets."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pyctrd.errors import AuthenticationFailed, PyctrdError
from pyctrd.registry.auth import auth_files, challenge, credential_helpers, scopes
from pyctrd.registry.auth.auth_files import AuthFile, Unusable
from pyctrd.registry.auth.authorizer import Authorizer, reason_in
from pyctrd.registry.auth.keychain import Credential, Keychain
from pyctrd.registry.config.endpoints import Endpoint
from pyctrd.registry.http.transport import Request

PASSWORD = "the-password-of-me"
ENDPOINT = Endpoint("https", "a.example", account="a.example", is_own=True)

TEXT = st.text(max_size=30) | st.sampled_from([PASSWORD, "", "\ud800", "Og==", "bWU6cGFzc3dvcmQ=", "<token>"])
VALUES = st.none() | st.booleans() | st.integers() | st.floats() | TEXT


def documents(*keys: str) -> st.SearchStrategy[Any]:
    return st.recursive(
        VALUES,
        lambda inner: (
            st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(keys) | TEXT, inner, max_size=5)
        ),
        max_leaves=12,
    )


def raw(*keys: str) -> st.SearchStrategy[bytes]:
    """JSON with the right keys in the wrong places, and bytes that are not JSON."""
    return st.binary(max_size=60) | documents(*keys).map(lambda document: json.dumps(document).encode())


FILES = raw(
    "auths", "credHelpers", "credsStore", "a.example", "a.example/org", "https://a.example/v2/", "auth",
    "username", "password", "identitytoken", "registrytoken", "test", "docker.io",
)  # fmt: skip
TOKENS = raw("token", "access_token", "expires_in", "issued_at", "errors", "code", "message", "details")


class Scripted:
    """A transport that answers from a list and then with the last answer; no network."""

    def __init__(self, *answers: SimpleNamespace) -> None:
        self.answers = list(answers)
        self.sent: list[Request] = []

    def send(self, request: Request) -> SimpleNamespace:
        self.sent.append(request)
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]


def answer(status: int, body: bytes = b"", *challenges: str, date: str = "") -> SimpleNamespace:
    return SimpleNamespace(
        status=status,
        host="a.example",
        header=lambda name: date if name == "Date" else "",
        header_values=lambda _name: list(challenges),
        read=lambda _limit: body,
        excerpt=lambda: body,
        close=lambda: None,
    )


def ask(*answers: SimpleNamespace) -> None:
    transport: Any = Scripted(*answers)
    keychain = Keychain(
        Path("/none"), given=Credential("me", PASSWORD, source="-u"), environ={"HOME": "/none"}
    )
    shown = ""
    try:
        Authorizer(transport, keychain).send(
            ENDPOINT, Request("GET", "https://a.example/v2/"), ["repository:a:pull"]
        )
    except PyctrdError as error:
        shown = f"{error}{error.hint}{error!r}"
    assert PASSWORD not in shown
    for request in transport.sent:
        # The password is sent to the token server that the registry names, never to one on plain http.
        assert request.url.startswith("https://") or not (request.body or request.private)
    assert len(transport.sent) <= 4


HEADERS = st.text(st.characters(codec="latin-1"), max_size=200) | st.builds(
    '{} {}="{}", {}={}{}'.format,
    st.sampled_from(["Bearer", "Basic", "bearer", "Digest", ""]),
    st.sampled_from(["realm", "scope", "error", "service", "REALM"]),
    st.sampled_from(["https://a.example/token", "http://x", "https://[", "//", "\\", "a b c:d:e"]) | TEXT,
    st.sampled_from(["scope", "error", "service", "realm"]),
    st.sampled_from(['"', "insufficient_scope", "x,y"]) | TEXT,
    TEXT,
)


@given(st.lists(HEADERS, max_size=3), st.sampled_from([401, 403]))
@example(['Bearer realm="https://a.example/token",scope="' + "a:b:c " * 3000 + '"'], 401)
@example(['Bearer realm="https://a.example/token", scope=\ud800'], 401)
@example(['Bearer realm="https://a.example/token", service="\udcff"'], 401)
def test_challenges(headers: list[str], status: int) -> None:
    for one in challenge.parse(headers):
        assert len(scopes.merge(one["scope"])) <= 32
    ask(answer(status, b"", *headers), answer(200, b'{"token":"tok"}'), answer(status, b"", *headers))


@given(st.sampled_from([200, 400, 401, 403, 500]), TOKENS, st.text(max_size=30))
@example(200, b'{"token":"a","expires_in":1e999,"issued_at":"2026-01-01"}', "x")
@example(200, b"[" * 100_000, "")
@example(401, b'{"errors":{"code":"DENIED"}}', "")
@example(401, b'{"errors":5}', "")
def test_token_responses(status: int, body: bytes, date: str) -> None:
    wanted = answer(401, b"", 'Bearer realm="https://a.example/token"')
    ask(wanted, answer(status, body, date=date), answer(status, body, date=date), answer(401, body))
    assert PASSWORD not in reason_in(PASSWORD.encode() + body)


@given(FILES)
@example(b"\xef\xbb\xbf{}")
@example(b'{"auths":{"a.example":{"auth":"/w=="}}}')
def test_files(body: bytes) -> None:
    try:
        document = auth_files.parse(body, "the-file")
    except Unusable:
        return
    file = AuthFile("the-file", document)
    file.helper("a.example")
    for key in file.keys("a.example", "org/app"):
        with contextlib.suppress(Unusable):
            sent = file.entry(key)
            f"{sent.username}{sent.password}{sent.identity_token}{sent.registry_token}".encode()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with files and a helper, which is never run, since that would take most of the time."""
    made = tmp_path_factory.mktemp("fuzz")
    (made / "docker-credential-test").touch(0o755)
    return made


@contextlib.contextmanager
def helper(folder: Path, output: bytes, code: int = 0) -> Iterator[None]:
    """Let every helper print this, and exit with this code."""

    def start(*_command: Any, **_how: Any) -> Any:
        printed = folder / "printed"
        printed.write_bytes(output)
        process = mock.MagicMock(returncode=code, stdout=printed.open("rb", buffering=0))
        process.__enter__.return_value = process
        process.__exit__.side_effect = lambda *_error: process.stdout.close()
        return process

    with mock.patch("subprocess.Popen", start):
        yield


@given(FILES, FILES, raw("Username", "Secret", "ServerURL"), st.sampled_from([0, 1]))
@example(b'{"credsStore":"test"}', b"", b'{"Username":"<token>","Secret":"x"}', 0)
@example(b'{"credsStore":"test"}', b"", b'{"Username":"me","Secret":"\\ud800"}', 0)
def test_the_whole_keychain(folder: Path, docker: bytes, podman: bytes, output: bytes, code: int) -> None:
    (folder / "config.json").write_bytes(docker)
    (folder / "auth.json").write_bytes(podman)
    environ = {
        "DOCKER_CONFIG": str(folder),
        "REGISTRY_AUTH_FILE": str(folder / "auth.json"),
        "HOME": str(folder),
        "PATH": str(folder),
        "DOCKER_AUTH_CONFIG": docker.decode("utf-8", "surrogateescape").replace("\0", ""),
    }
    with helper(folder, output, code):
        chain = Keychain(environ=environ)
        for account in ("a.example", "docker.io"):
            found = chain.find(account, own=True, repository="org/app")
            assert found is None or found.secrets
            if found is not None:
                assert not found.basic or found.basic.isascii()
    assert isinstance(chain.advice("a.example"), str)


@given(st.binary(max_size=200))
def test_output_of_helpers(folder: Path, body: bytes) -> None:
    with helper(folder, body):
        try:
            found = credential_helpers.ask("test", "a.example", environ={"PATH": str(folder)})
        except credential_helpers.HelperFailed:
            return
    assert isinstance(found, dict)


def test_the_scripted_transport_detects_a_leak() -> None:
    """A test of the check itself: a valid challenge is answered."""
    wanted = answer(401, b"", 'Bearer realm="https://a.example/token"')
    ask(wanted, answer(200, b'{"token":"tok"}'), answer(200))
    transport: Any = Scripted(wanted, answer(200, b'{"token":"tok"}'), answer(401, PASSWORD.encode()))
    keychain = Keychain(Path("/none"), given=Credential("me", PASSWORD), environ={})
    with pytest.raises(AuthenticationFailed):
        Authorizer(transport, keychain).send(ENDPOINT, Request("GET", "https://a.example/"), [])
    assert PASSWORD.encode() in (transport.sent[1].body or b"")

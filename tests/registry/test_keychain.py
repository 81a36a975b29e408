"""Docker's config.json and credential helpers, which are real executables here."""

from __future__ import annotations

import base64
import json
import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyctrd.errors import AuthenticationFailed
from pyctrd.registry.auth.keychain import Keychain
from tests.registry.conftest import RemoteMaker
from tests.registry.samples import (
    TAG,
)
from tests.registry.server import Answer, Reply, ScriptedServer, Seen

PASSWORD = "pa:ss+wörd&x"
BASIC = f"Basic {base64.b64encode(f'me:{PASSWORD}'.encode()).decode()}"


def needs(authorization: str, challenge_header: str) -> Reply:
    """Answer only requests with exactly this Authorization."""

    def reply(seen: Seen) -> Answer:
        if seen.authorization == authorization:
            return Answer()
        return Answer(401, headers={"WWW-Authenticate": challenge_header})

    return reply


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


def test_default_path_of_the_config(tmp_path: Path) -> None:
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
        named = f"docker-credential-test (named in {tmp_path}/config.json)"
        assert (credential.password, credential.source) == ("from-helper", named)
    assert (tmp_path / "asked").read_text().split() == ["a.example", "https://index.docker.io/v1/"]
    assert chain.problems == []


def test_identity_token_of_a_helper(tmp_path: Path) -> None:
    write_helper(tmp_path, "test", """echo '{"Username":"<token>","Secret":"idt"}'""")
    credential = keychain(tmp_path, {"credsStore": "test"}).find("a.example", own=True)
    assert credential is not None
    assert (credential.identity_token, credential.password, credential.basic) == ("idt", "", "")


def test_a_helper_without_credentials_is_not_a_problem(tmp_path: Path) -> None:
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
        ("gone", "", "docker-credential-gone is not in PATH (named in"),
        ("test", "echo hush; echo hush >&2; exit 3", "docker-credential-test failed with status 3"),
        ("test", "echo hush", "did not answer with a JSON object"),
        ("../x", "", "is not the name of a credential helper"),
    ],
)
def test_broken_helpers_are_warnings_without_their_output(
    tmp_path: Path, helper: str, script: str, problem: str, caplog: pytest.LogCaptureFixture
) -> None:
    write_helper(tmp_path, "test", script)
    chain = keychain(tmp_path, {"credsStore": helper})
    assert chain.find("a.example", own=True) is None
    assert problem in chain.problems[0]
    assert problem in caplog.text
    assert "hush" not in caplog.text


def test_a_broken_helper_is_in_the_hint_of_a_failed_authentication(
    server: ScriptedServer, remote: RemoteMaker, tmp_path: Path
) -> None:
    config = tmp_path / "config.json"
    config.write_text('{"credsStore":"gone"}')
    server.always("HEAD", TAG, needs(BASIC, "Basic realm=x"))
    with pytest.raises(AuthenticationFailed) as caught:
        remote(docker_config=config).resolve()
    assert "docker-credential-gone" in str(caught.value.hint)


@pytest.mark.parametrize("text", ["{", "[]", "\0", '{"auths":"hush"} x', "[" * 100_000])
def test_a_broken_config_is_a_warning_without_its_text(tmp_path: Path, text: str) -> None:
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
def test_any_config_can_be_read(tmp_path_factory: pytest.TempPathFactory, document: object) -> None:
    chain = keychain(tmp_path_factory.mktemp("config"), document)
    credential = chain.find("a.example", own=True)
    assert credential is None or credential.identity_token or credential.password

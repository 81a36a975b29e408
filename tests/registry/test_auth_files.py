"""Which files of Docker and podman are read, and which of their entries is used."""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Mapping
from pathlib import Path

import pytest

from pyctrd.registry.auth import auth_files
from pyctrd.registry.auth.keychain import Credential, Keychain
from tests.registry.test_keychain import write_helper


def encode(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def auths(**users: str) -> str:
    """A document whose entries have different users; `__` stands for `/`, `_` for a dot."""
    return document({key.replace("__", "/").replace("_", "."): user for key, user in users.items()})


def document(users: Mapping[str, str]) -> str:
    return json.dumps({"auths": {key: {"auth": encode(f"{user}:password")} for key, user in users.items()}})


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    """All variables that name a path, and no file yet."""
    return {
        "HOME": str(tmp_path / "home"),
        "DOCKER_CONFIG": str(tmp_path / "docker"),
        "XDG_RUNTIME_DIR": str(tmp_path / "runtime"),
        "XDG_CONFIG_HOME": str(tmp_path / "config"),
        "PATH": f"{tmp_path}:/usr/bin:/bin",
    }


def write(path: Path, text: str) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return str(path)


def find(environ: Mapping[str, str], account: str = "a.example", repository: str = "") -> Credential | None:
    return Keychain(environ=environ).find(account, own=True, repository=repository)


def test_the_order_of_the_sources(tmp_path: Path, environ: dict[str, str]) -> None:
    """The last one is written first, so each new file takes precedence."""
    runtime, config = tmp_path / "runtime/containers/auth.json", tmp_path / "config/containers/auth.json"
    sources = []

    def found() -> str:
        credential = find(environ)
        assert credential is not None
        assert credential.username == credential.source
        return credential.source

    for path in (config, runtime, tmp_path / "docker/config.json"):
        sources.append(write(path, document({"a.example": str(path)})))
        assert found() == str(path)
    environ["DOCKER_AUTH_CONFIG"] = auths(a_example="DOCKER_AUTH_CONFIG")
    assert found() == "DOCKER_AUTH_CONFIG"
    given = Keychain(given=Credential("me", "password", source="-u"), environ=environ)
    credential = given.find("a.example", own=True)
    assert credential is not None
    assert credential.source == "-u"
    mirrored = given.find("a.example", own=False)
    assert mirrored is not None
    assert mirrored.source == "DOCKER_AUTH_CONFIG"


def test_the_next_source_is_used_for_missing_credentials(tmp_path: Path, environ: dict[str, str]) -> None:
    environ["DOCKER_AUTH_CONFIG"] = auths(b_example="env")
    write(tmp_path / "docker/config.json", '{"auths": {"a.example": {}}}')
    write(tmp_path / "runtime/containers/auth.json", auths(a_example="podman"))
    credential = find(environ)
    assert credential is not None
    assert credential.username == "podman"


def test_a_given_auth_file_takes_precedence(tmp_path: Path, environ: dict[str, str]) -> None:
    write(tmp_path / "runtime/containers/auth.json", auths(a_example="runtime"))
    environ["REGISTRY_AUTH_FILE"] = write(tmp_path / "mine.json", auths(a_example="mine"))
    credential = find(environ)
    assert credential is not None
    assert credential.username == "mine"
    environ["REGISTRY_AUTH_FILE"] = str(tmp_path / "gone.json")
    chain = Keychain(environ=environ)
    assert chain.find("a.example", own=True) is None
    assert chain.problems == [f"REGISTRY_AUTH_FILE names {tmp_path}/gone.json, which does not exist"]


def test_default_paths_without_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    found = auth_files.containers_auth_files({"HOME": "/home/me"})
    assert list(map(str, found)) == [
        f"/run/containers/{os.getuid()}/auth.json",
        "/home/me/.config/containers/auth.json",
    ]
    assert str(auth_files.docker_config_file({"HOME": "/home/me"})) == "/home/me/.docker/config.json"


@pytest.mark.parametrize("name", ["docker/config.json", "runtime/containers/auth.json"])
@pytest.mark.parametrize(
    ("repository", "user"),
    [
        ("org/team/app", "app"),
        ("org/team/other", "team"),
        ("org/teams/app", "host"),
        ("org", "host"),
        ("other/app", "host"),
        ("", "host"),
    ],
)
def test_the_longest_matching_path_is_used(
    tmp_path: Path, environ: dict[str, str], name: str, repository: str, user: str
) -> None:
    write(
        tmp_path / name,
        document({"q.example": "host", "q.example/org/team": "team", "q.example/org/team/app": "app"}),
    )
    credential = find(environ, "q.example", repository)
    assert credential is not None
    assert credential.username == user


def test_a_key_with_a_path_is_for_that_path_only(tmp_path: Path, environ: dict[str, str]) -> None:
    write(tmp_path / "docker/config.json", document({"q.example/org": "org"}))
    assert find(environ, "q.example", "other/app") is None
    assert find(environ, "q.example", "organ/app") is None
    assert find(environ, "q.example", "org/app") is not None


@pytest.mark.parametrize(
    ("key", "host"),
    [
        ("a.example", "a.example"),
        ("a.example/", "a.example"),
        ("a.example/v2/", "a.example"),
        ("http://a.example:5000/anything/at/all", "a.example:5000"),
        ("https://index.docker.io/v1/", "index.docker.io"),
        ("a.example/org", ""),
        ("", ""),
    ],
)
def test_hosts_of_keys(key: str, host: str) -> None:
    assert auth_files.host_of_key(key) == host


@pytest.mark.parametrize(
    "key", ["docker.io", "docker.io/library/app", "docker.io/library", "https://index.docker.io/v1/"]
)
def test_docker_hub_in_podmans_file(tmp_path: Path, environ: dict[str, str], key: str) -> None:
    write(tmp_path / "runtime/containers/auth.json", document({key: "me"}))
    assert find(environ, "docker.io", "library/app") is not None


def test_helpers_get_the_name_of_docker_hub_that_each_tool_uses(
    tmp_path: Path, environ: dict[str, str]
) -> None:
    write_helper(
        tmp_path, "test", f"cat >> {tmp_path}/asked; echo credentials not found in native keychain; exit 1"
    )
    write(tmp_path / "docker/config.json", '{"credsStore": "test"}')
    write(tmp_path / "runtime/containers/auth.json", '{"credHelpers": {"docker.io": "test"}}')
    chain = Keychain(environ=environ)
    for repository in ("library/a", "library/b"):
        assert chain.find("docker.io", own=True, repository=repository) is None
    # Once each, for any number of repositories.
    assert (tmp_path / "asked").read_text().split() == ["https://index.docker.io/v1/", "docker.io"]


def test_a_registry_token(tmp_path: Path, environ: dict[str, str]) -> None:
    write(tmp_path / "docker/config.json", '{"auths": {"a.example": {"registrytoken": "ready-made"}}}')
    credential = find(environ)
    assert credential is not None
    assert (credential.registry_token, credential.identity_token, credential.basic) == ("ready-made", "", "")


def test_a_broken_entry_does_not_hide_the_host(tmp_path: Path, environ: dict[str, str]) -> None:
    broken = {"auths": {"a.example/org": {"auth": "%%hush%%"}, "a.example": {"auth": encode("me:password")}}}
    path = write(tmp_path / "docker/config.json", json.dumps(broken))
    chain = Keychain(environ=environ)
    credential = chain.find("a.example", own=True, repository="org/app")
    assert credential is not None
    assert chain.problems == [f"{path}: the auth of 'a.example/org' is not base64 of user:password"]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("{", "DOCKER_AUTH_CONFIG is not valid JSON (line 1)"),
        ('"hush"', "DOCKER_AUTH_CONFIG is not a JSON object"),
        ("\udcff", "DOCKER_AUTH_CONFIG is not valid JSON"),
        (" " * (1 << 20) + "{}", "DOCKER_AUTH_CONFIG is larger than 1048576 bytes"),
    ],
)
def test_a_broken_variable_is_a_warning_and_the_files_are_read(
    tmp_path: Path, environ: dict[str, str], text: str, problem: str
) -> None:
    environ["DOCKER_AUTH_CONFIG"] = text
    write(tmp_path / "docker/config.json", auths(a_example="me"))
    chain = Keychain(environ=environ)
    assert chain.find("a.example", own=True) is not None
    assert chain.problems == [problem]


def test_invalid_files(tmp_path: Path, environ: dict[str, str]) -> None:
    (tmp_path / "docker/config.json").mkdir(parents=True)
    (tmp_path / "runtime/containers").mkdir(parents=True)
    os.mkfifo(tmp_path / "runtime/containers/auth.json")
    chain = Keychain(environ=environ)
    assert chain.find("a.example", own=True) is None
    assert [text.partition(" is ")[2] for text in chain.problems] == ["not a regular file"] * 2


def test_text_with_surrogates_is_not_a_password(tmp_path: Path, environ: dict[str, str]) -> None:
    entry = {"username": "me", "password": "\ud800", "identitytoken": "\udcff"}
    write(tmp_path / "docker/config.json", json.dumps({"auths": {"a.example": entry}}))
    assert find(environ) is None

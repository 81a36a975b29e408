"""Log in to a real docker-registry with the command line, in every way."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from integration.locked import (
    ACTIONS,
    KINDS,
    PAIR,
    WAYS,
    Image,
    Login,
    login_at,
    one_containerd,
    pull_metadata,
    pull_whole,
    started,
)
from integration.rig.containerd import Containerd
from integration.rig.proxy import Fault
from integration.rig.registry import PASSWORD, USER, Registry
from integration.shell import on_a_terminal

ALICE: Final = 54321


@pytest.fixture(scope="module")
def containerd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Containerd]:
    with one_containerd(tmp_path_factory.mktemp("containerd")) as daemon:
        yield daemon


@pytest.fixture(scope="module", params=KINDS)
def locked(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    registry = started(request.param, tmp_path_factory.mktemp("locked"))
    yield registry
    registry.__exit__(None, None, None)


@pytest.fixture(scope="module")
def with_tokens(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    registry = started("token", tmp_path_factory.mktemp("with-tokens"))
    yield registry
    registry.__exit__(None, None, None)


@pytest.fixture
def login(locked: Registry, containerd: Containerd, namespace: str, tmp_path: Path) -> Login:
    return login_at(locked, containerd, namespace, tmp_path)


@pytest.fixture
def token_login(with_tokens: Registry, containerd: Containerd, namespace: str, tmp_path: Path) -> Login:
    return login_at(with_tokens, containerd, namespace, tmp_path)


def token_requests(registry: Registry) -> list[tuple[str, int]]:
    return [(one.method, one.status) for one in registry.requests() if one.path == "/token"]


# --- every way, every command, every kind of registry -----------------------------------------------------


@pytest.mark.parametrize("action", ACTIONS)
def test_a_credential_helper(login: Login, locked: Registry, repository: str, action: str) -> None:
    image = Image(locked, repository)
    ACTIONS[action](login, image, WAYS["credHelpers"](login, repository))
    asked = login.asked.read_text().splitlines()
    assert asked == [f"1 get {login.host} {os.getuid()} {login.home} {login.shell.namespace}"]
    processes = Path(f"{login.asked}-processes").read_text()
    assert "docker-credential-rig get" in processes
    assert not any(secret in processes for secret in (PASSWORD, PAIR))
    assert not re.search(rf"docker-credential-rig get \S*{re.escape(login.host)}", processes)


@pytest.mark.parametrize("way", sorted(set(WAYS) - {"credHelpers"}))
def test_every_way_to_log_in(token_login: Login, with_tokens: Registry, repository: str, way: str) -> None:
    image = Image(with_tokens, repository)
    ACTIONS["pull"](token_login, image, WAYS[way](token_login, repository))


def test_without_a_login(login: Login, locked: Registry, repository: str) -> None:
    image = Image(locked, repository)
    words = login.shell("pull", image.name, code=5).stderr.decode()
    assert "hint: Pass -u USER" in words
    assert f"docker login {locked.host}" in words
    assert login.shell.have() == set()


def test_a_wrong_login_names_its_source(login: Login, locked: Registry, repository: str) -> None:
    image = Image(locked, repository)
    path = login.write(
        ".docker/config.json", {"auths": {locked.host: {"username": USER, "password": "another"}}}
    )
    words = login.shell("pull", image.name, code=5).stderr.decode()
    assert "authorization failed" in words
    assert f"hint: The credentials from {path} were not enough." in words
    assert "another" not in words
    # It is sent once each to the registry and to its token server, by POST and by GET.
    assert len(locked.requests()) <= 4


def test_a_broken_helper_is_reported(login: Login, locked: Registry, repository: str) -> None:
    image = Image(locked, repository)
    path = login.write(".docker/config.json", {"credsStore": "gone"})
    words = login.shell("pull", image.name, code=5).stderr.decode()
    problem = f"docker-credential-gone is not in PATH (named in {path})"
    assert f"pyctrd: warning: {problem}" in words
    assert f"Not used: {problem}" in words


# --- tokens -----------------------------------------------------------------------------------------------


def test_one_token_for_a_whole_pull(token_login: Login, with_tokens: Registry, repository: str) -> None:
    image = Image(with_tokens, repository)
    token_login.shell("pull", *WAYS["-u"](token_login, repository), image.name)
    assert token_requests(with_tokens) == [("POST", 200)]


def test_a_token_is_refused_during_a_pull(token_login: Login, with_tokens: Registry, repository: str) -> None:
    image = Image(with_tokens, repository)
    challenge = (
        f'Bearer realm="{with_tokens.url}/token",service="rig-registry",'
        f'scope="repository:{repository}:pull",error="invalid_token"'
    )
    with_tokens.add_fault(Fault("/blobs/", times=1, status=401, headers={"WWW-Authenticate": challenge}))
    token_login.shell("pull", *WAYS["-u"](token_login, repository), image.name)
    assert token_login.shell.have() == set(image.graph.blobs)
    assert token_requests(with_tokens) == [("POST", 200)] * 2


def test_a_token_expires_during_a_pull(
    containerd: Containerd, namespace: str, repository: str, tmp_path: Path
) -> None:
    from integration.conftest import peer_required
    from integration.rig.tokens import TokenService

    tokens = TokenService(tmp_path / "tokens", anonymous=False, lifetime=1)
    with peer_required(), Registry(tmp_path / "registry", config=tokens) as registry:
        login = login_at(registry, containerd, namespace, tmp_path)
        image = Image(registry, repository)
        registry.add_fault(Fault("/blobs/", times=1, wait=1.2))
        login.shell("pull", "--max-concurrent-downloads", "1", *WAYS["-u"](login, repository), image.name)
        assert login.shell.have() == set(image.graph.blobs)
        assert len(token_requests(registry)) > 1
        assert {one.status for one in registry.requests() if "/blobs/" in one.path} == {200}


# --- sudo -------------------------------------------------------------------------------------------------


class Sudo:
    """pyctrd as root by sudo, called by alice, who exists only in the command's mount namespace."""

    def __init__(self, login: Login, folder: Path) -> None:
        self.login = login
        self.home = folder / "alice"
        (self.home / ".docker").mkdir(parents=True)
        self.bin = folder / "bin"
        self.bin.mkdir()
        self.config = self.home / ".docker" / "config.json"
        self.passwd = folder / "passwd"
        self.passwd.write_text(
            Path("/etc/passwd").read_text() + f"alice:x:{ALICE}:{ALICE}::{self.home}:/bin/sh\n"
        )
        login.asked = self.home / "asked"
        login.helper("rig", self.bin)
        login.shell.env |= {
            "SUDO_USER": "alice",
            "SUDO_UID": str(ALICE),
            "PATH": f"{self.bin}:{login.shell.env['PATH']}",
        }
        self.config.write_text(json.dumps({"credHelpers": {login.host: "rig"}}))
        self.own(self.home)

    def own(self, top: Path) -> None:
        for path in (top, *top.rglob("*")):
            os.chown(path, ALICE, ALICE, follow_symlinks=False)

    def command(self, *arguments: str) -> list[str]:
        script = 'mount --bind "$0" /etc/passwd && exec "$@"'
        return [
            "unshare",
            "-m",
            "sh",
            "-c",
            script,
            str(self.passwd),
            sys.executable,
            "-m",
            "pyctrd",
            *arguments,
        ]

    def __call__(self, *arguments: str, code: int) -> str:
        shell = self.login.shell
        done = subprocess.run(
            self.command(*arguments),
            env=shell.env,
            cwd=shell.folder,
            capture_output=True,
            check=False,
            timeout=60,
        )
        words = done.stderr.decode()
        assert done.returncode == code, words
        return words

    def on_a_terminal(self, *arguments: str, answer: str) -> tuple[int, str]:
        """Run on a terminal, answering each question; return the exit code and the output."""
        controller, terminal = pty.openpty()
        shell = self.login.shell
        with subprocess.Popen(
            self.command(*arguments),
            env=shell.env,
            cwd=shell.folder,
            stdin=terminal,
            stdout=terminal,
            stderr=terminal,
        ) as process:
            os.close(terminal)
            seen, answered = b"", 0
            with contextlib.suppress(OSError):  # on Linux, the other end is closed
                while piece := os.read(controller, 65536):
                    seen += piece
                    if seen.count(b"[y/N]") > answered:
                        answered += 1
                        os.write(controller, f"{answer}\n".encode())
            os.close(controller)
        return process.returncode, seen.decode(errors="replace")

    def helper_calls(self) -> list[str]:
        return self.login.asked.read_text().splitlines() if self.login.asked.exists() else []


@pytest.fixture
def sudo(token_login: Login) -> Iterator[Sudo]:
    folder = Path(tempfile.mkdtemp(prefix="pyctrd-sudo-"))  # alice cannot read pytest's own folders
    folder.chmod(0o755)
    yield Sudo(token_login, folder)
    shutil.rmtree(folder)


@pytest.fixture
def image(with_tokens: Registry, repository: str) -> Image:
    return Image(with_tokens, repository)


def test_sudo_does_not_use_the_callers_login_without_consent(sudo: Sudo, image: Image) -> None:
    words = sudo("pull", image.name, code=5)
    assert f"--sudo-user-config uses {sudo.config}, the login of alice." in words
    assert "--sudo-user-config" not in sudo("pull", "--no-sudo-user-config", image.name, code=5)
    assert sudo.helper_calls() == []


@pytest.mark.parametrize("action", ACTIONS)
def test_sudo_with_the_flag_runs_the_helper_as_the_caller(sudo: Sudo, image: Image, action: str) -> None:
    host = sudo.login.host
    if action == "push":
        pull_whole(sudo.login, image)
    elif action != "pull":
        pull_metadata(sudo.login, image)
    options = ["-o", "x.tar"] if action == "save" else []
    sudo(action, "--sudo-user-config", *options, image.name, code=0)
    assert sudo.login.shell.have() == set(image.graph.blobs)
    # The last field is CONTAINERD_NAMESPACE: empty, since root's environment is not inherited.
    assert sudo.helper_calls() == [f"1 get {host} {ALICE} {sudo.home} "]


def test_sudo_on_a_terminal_asks_once(sudo: Sudo, image: Image) -> None:
    code, text = sudo.on_a_terminal("pull", image.name, answer="n")
    assert code == 5, text
    assert text.count("[y/N]") == 1
    assert sudo.helper_calls() == []
    code, text = sudo.on_a_terminal("pull", image.name, answer="y")
    assert code == 0, text
    assert text.count("[y/N]") == 1
    assert f"{sudo.login.host} requires credentials. Use those of alice ({sudo.config})? [y/N]" in text
    assert len(sudo.helper_calls()) == 1
    assert sudo.login.shell.have() == set(image.graph.blobs)


def test_sudo_asks_nothing_without_need(
    sudo: Sudo, registry: Registry, image: Image, repository: str
) -> None:
    code, text = sudo.on_a_terminal("pull", Image(registry, repository).name, answer="n")
    assert (code, text.count("[y/N]")) == (0, 0), text
    code, text = sudo.on_a_terminal("pull", "-u", f"{USER}:{PASSWORD}", image.name, answer="n")
    assert (code, text.count("[y/N]")) == (0, 0), text


def test_sudo_refuses_files_that_do_not_belong_to_the_caller(sudo: Sudo, image: Image) -> None:
    os.chown(sudo.config, 0, 0)
    assert f"{sudo.config} does not belong to alice" in sudo("pull", "--sudo-user-config", image.name, code=5)
    target = sudo.home / "real.json"
    sudo.config.rename(target)
    sudo.config.symlink_to(target)
    sudo.own(sudo.home)
    assert f"{sudo.config} is a symbolic link" in sudo("pull", "--sudo-user-config", image.name, code=5)
    assert sudo.helper_calls() == []


def test_sudo_with_a_missing_helper(sudo: Sudo, image: Image) -> None:
    sudo.config.write_text('{"credsStore": "gone"}')
    words = sudo("pull", "--sudo-user-config", image.name, code=5)
    assert f"docker-credential-gone is not in PATH (named in {sudo.config})" in words


def test_sudo_with_the_callers_home_runs_no_helper_as_root(sudo: Sudo, image: Image) -> None:
    """`sudo -E`, or env_keep: the file is found by Docker's own rule, and it belongs to alice."""
    sudo.login.shell.env |= {"HOME": str(sudo.home), "DOCKER_CONFIG": str(sudo.home / ".docker")}
    sudo("pull", image.name, code=0)
    assert [call.split()[3] for call in sudo.helper_calls()] == [str(ALICE)]


def test_sudo_with_a_link_to_a_third_users_file_runs_nothing(sudo: Sudo, image: Image) -> None:
    third = sudo.home.parent / "third.json"
    third.write_text(json.dumps({"credHelpers": {sudo.login.host: "rig"}}))
    os.chown(third, ALICE + 1, ALICE + 1)
    sudo.config.unlink()
    sudo.config.symlink_to(third)
    sudo.login.shell.env |= {"HOME": str(sudo.home), "DOCKER_CONFIG": str(sudo.home / ".docker")}
    words = sudo("pull", image.name, code=5)
    assert f"{sudo.config} belongs neither to root nor to alice" in words
    assert sudo.helper_calls() == []


@pytest.mark.parametrize("path", ["{usual}:", ".:{usual}"])
def test_no_helper_in_the_working_directory_is_run(
    login: Login, locked: Registry, repository: str, path: str
) -> None:
    login.write(".docker/config.json", {"credHelpers": {login.host: "rig"}})
    login.helper("rig", login.shell.folder)
    login.shell.env["PATH"] = path.format(usual="/usr/bin:/bin")
    words = login.shell("pull", Image(locked, repository).name, code=5).stderr.decode()
    assert "docker-credential-rig is not in PATH (its relative entries are not searched)" in words
    assert not login.asked.exists()


def test_a_question_pauses_the_bars(sudo: Sudo, image: Image) -> None:
    """save fetches while the bars are already on the screen."""
    pull_metadata(sudo.login, image)
    code, text = sudo.on_a_terminal("save", "-o", "x.tar", "--progress", "bar", image.name, answer="y")
    assert code == 0, text
    assert text.count("[y/N]") == 1
    before, _, after = text.partition("[y/N] ")
    assert after.lstrip("\r\n").startswith(("y", "\x1b"))
    assert before.rstrip().endswith(f"({sudo.config})?")


def test_without_sudo_no_question_is_asked(token_login: Login, image: Image) -> None:
    code, text = on_a_terminal(token_login.shell, "pull", image.name)
    assert code == 5
    assert "[y/N]" not in text

"""Credential helpers that misbehave, and the user who called sudo."""

from __future__ import annotations

import os
import pwd
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from pyctrd.registry.auth import auth_files, credential_helpers, sudo
from pyctrd.registry.auth.auth_files import Unusable
from pyctrd.registry.auth.credential_helpers import HelperFailed
from pyctrd.registry.auth.keychain import Credential, Keychain
from pyctrd.registry.auth.sudo import Invoker
from tests.registry.test_keychain import write_helper


def ask(folder: Path, script: str) -> object:
    write_helper(folder, "test", script)
    return credential_helpers.ask("test", "a.example", environ={"PATH": f"{folder}:/usr/bin:/bin"})


def test_a_helper_that_reads_nothing(tmp_path: Path) -> None:
    """Also where the pipe is closed before the server is written to it."""
    for _ in range(5):
        assert ask(tmp_path, """exec <&-; echo '{"Username":"me","Secret":"x"}'""") == {
            "Username": "me",
            "Secret": "x",
        }


def test_a_helper_that_never_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even when a child of it keeps the pipe open."""
    monkeypatch.setattr(credential_helpers, "TIMEOUT_SECONDS", 0.2)
    started = time.monotonic()
    with pytest.raises(HelperFailed, match="docker-credential-test did not answer within 0 s"):
        ask(tmp_path, f"sleep 30 & echo $! > {tmp_path}/pid; wait")
    assert time.monotonic() - started < 10
    os.kill(int((tmp_path / "pid").read_text()), 9)


def test_a_helper_that_never_ends_its_answer(tmp_path: Path) -> None:
    with pytest.raises(HelperFailed, match="did not run: ValueError"):
        ask(tmp_path, "exec yes")


def test_a_failure_names_the_command_to_try(tmp_path: Path) -> None:
    with pytest.raises(HelperFailed) as caught:
        ask(tmp_path, "echo hush; exit 3")
    assert str(caught.value).endswith("status 3 (try: echo a.example | docker-credential-test get)")


def test_a_helper_that_is_not_executable(tmp_path: Path) -> None:
    write_helper(tmp_path, "test", "true")
    (tmp_path / "docker-credential-test").write_bytes(b"\x7fELF not really")
    with pytest.raises(HelperFailed, match="did not run: OSError"):
        credential_helpers.ask("test", "a.example", environ={"PATH": str(tmp_path)})


@pytest.mark.parametrize(
    "path", ["", ":", ".", "./", "bin", "{usr}:", ":{usr}", "{usr}::/bin", "{usr}:.", "{usr}:bin"]
)
@pytest.mark.parametrize("folder", [".", "bin"])
def test_no_helper_in_the_working_directory_is_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str, folder: str
) -> None:
    (tmp_path / "bin").mkdir()
    write_helper(tmp_path / folder, "test", f"touch {tmp_path}/ran")
    monkeypatch.chdir(tmp_path)
    message = "docker-credential-test is not in PATH" + (
        path and r" \(its relative entries are not searched\)"
    )
    with pytest.raises(HelperFailed, match=message):
        credential_helpers.ask("test", "a.example", environ={"PATH": path.format(usr="/usr/bin")})
    assert not (tmp_path / "ran").exists()


def test_a_helper_sees_no_relative_folders(tmp_path: Path) -> None:
    write_helper(tmp_path, "test", """echo "{\\"Username\\":\\"$PATH\\"}" """)
    found = credential_helpers.ask("test", "a.example", environ={"PATH": f".:{tmp_path}::/usr/bin:/bin:bin"})
    assert found == {"Username": f"{tmp_path}:/usr/bin:/bin"}


@pytest.mark.parametrize("name", ["", "../x", "a/b", "a\0b"])
def test_invalid_helper_names(name: str) -> None:
    with pytest.raises(HelperFailed, match="is not the name of a credential helper"):
        credential_helpers.ask(name, "a.example", environ={})


# --- sudo -------------------------------------------------------------------------------------------------


@pytest.fixture
def alice(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Invoker:
    """The current user under another name: tests run without root, too."""
    home = tmp_path / "alice"
    (home / ".docker").mkdir(parents=True)

    def lookup(name: str) -> object:
        users = {"alice": os.getuid() or 4711, "root": 0}
        return SimpleNamespace(pw_name=name, pw_uid=users[name], pw_gid=os.getgid(), pw_dir=str(home))

    monkeypatch.setattr(pwd, "getpwnam", lookup)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    return Invoker("alice", os.getuid() or 4711, os.getgid(), home)


def test_who_called_sudo(alice: Invoker) -> None:
    assert sudo.invoker({"SUDO_USER": "alice", "SUDO_UID": str(alice.uid)}) == alice
    assert sudo.invoker({"SUDO_USER": "alice"}) == alice
    assert sudo.invoker({"SUDO_USER": "alice"}, euid=1000) is None
    for environ in ({}, {"SUDO_USER": "root"}, {"SUDO_USER": "bob"}, {"SUDO_USER": "alice", "SUDO_UID": "1"}):
        assert sudo.invoker(environ) is None


def test_helpers_do_not_get_roots_environment(alice: Invoker) -> None:
    made = alice.environment("/usr/bin")
    assert made["PATH"] == f"/usr/bin:{alice.home}/.local/bin:{alice.home}/bin"
    assert (made["HOME"], made["USER"]) == (str(alice.home), "alice")
    assert set(made) <= {"HOME", "USER", "LOGNAME", "PATH", "XDG_RUNTIME_DIR", "DBUS_SESSION_BUS_ADDRESS"}


def chain(alice: Invoker, folder: Path, **options: object) -> Keychain:
    environ = {"SUDO_USER": "alice", "HOME": str(folder), "XDG_RUNTIME_DIR": str(folder)}
    return Keychain(environ=environ, **options)  # type: ignore[arg-type]


@pytest.fixture
def config(alice: Invoker) -> Path:
    path = alice.home / ".docker" / "config.json"
    path.write_text('{"auths": {"a.example": {"username": "alice", "password": "hush-hush"}}}')
    if os.getuid() == 0:
        os.chown(path, alice.uid, -1)
    return path


def test_the_callers_login_needs_consent(alice: Invoker, config: Path, tmp_path: Path) -> None:
    assert chain(alice, tmp_path).find("a.example", own=True) is None
    assert chain(alice, tmp_path, sudo_user_config=False).find("a.example", own=True) is None
    found = chain(alice, tmp_path, sudo_user_config=True).find("a.example", own=True)
    assert found is not None
    assert (found.username, found.source) == ("alice", str(config))


@pytest.mark.parametrize("yes", [True, False])
def test_the_question_is_asked_once(alice: Invoker, config: Path, tmp_path: Path, yes: bool) -> None:
    asked: list[str] = []

    def ask(question: str) -> bool:
        asked.append(question)
        return yes

    keys = chain(alice, tmp_path, ask=ask)
    assert keys.unlock("a.example", own=True) is yes
    assert keys.unlock("a.example", own=True) is False or yes
    assert keys.unlock("b.example", own=True) is False
    assert (keys.find("a.example", own=True) is not None) is yes
    assert asked == [f"a.example requires credentials. Use those of alice ({config})?"]


def test_no_question_is_asked_without_need(alice: Invoker, tmp_path: Path) -> None:
    def ask(_question: str) -> bool:
        raise AssertionError("asked")

    # No file of theirs, other credentials, or an answer given before.
    assert chain(alice, tmp_path, ask=ask).unlock("a.example", own=True) is False
    (alice.home / ".docker" / "config.json").write_text("{}")
    given = Credential("me", "password", source="-u")
    assert chain(alice, tmp_path, ask=ask, given=given).unlock("a.example", own=True) is False
    assert chain(alice, tmp_path, ask=ask, sudo_user_config=False).unlock("a.example", own=True) is False


def test_the_hint_names_file_and_flag(alice: Invoker, config: Path, tmp_path: Path) -> None:
    wanted = f"`sudo_user_config` uses {config}, the login of alice."
    assert wanted in chain(alice, tmp_path).advice("a.example")
    assert wanted not in chain(alice, tmp_path, sudo_user_config=False).advice("a.example")


def test_a_file_must_belong_to_the_caller(alice: Invoker, config: Path, tmp_path: Path) -> None:
    other = Invoker("alice", alice.uid + 1, alice.gid, alice.home)
    with pytest.raises(Unusable, match="does not belong to alice"):
        auth_files.load(config, is_docker=True, caller=other, owned=True)
    linked = tmp_path / "linked.json"
    linked.symlink_to(config)
    with pytest.raises(Unusable, match="is a symbolic link"):
        auth_files.load(linked, is_docker=True, caller=alice, owned=True)
    assert auth_files.load(linked, is_docker=True, caller=alice) is not None


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give files away")
def test_a_file_of_a_third_user_is_not_used(alice: Invoker, config: Path, tmp_path: Path) -> None:
    third = tmp_path / "third.json"
    third.write_text('{"credsStore": "test"}')
    os.chown(third, alice.uid + 1, -1)
    config.unlink()
    config.symlink_to(third)
    with pytest.raises(Unusable, match="belongs neither to root nor to alice"):
        auth_files.load(config, is_docker=True, caller=alice)
    assert auth_files.load(config, is_docker=True, caller=None) is not None  # as root without sudo
    os.chown(third, 0, -1)
    found = auth_files.load(config, is_docker=True, caller=alice)
    assert found is not None
    assert found.invoker is None


def test_helpers_of_the_callers_file_run_as_the_caller(alice: Invoker, config: Path) -> None:
    file = auth_files.load(config, is_docker=True, caller=alice)
    assert file is not None
    assert file.invoker == alice
    nobody_called = auth_files.load(config, is_docker=True, caller=None)
    assert nobody_called is not None
    assert nobody_called.invoker is None

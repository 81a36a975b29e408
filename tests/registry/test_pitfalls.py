"""What is wrong with directories of hosts.toml files."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pyctrd.registry.config.pitfalls import HostsPitfall, pitfalls

GOOD = """\
server = "https://registry.example"
[host."https://mirror.example:5000/v2"]
  capabilities = ["pull", "resolve"]
"""


def look(root: Path, *, must_exist: bool = True) -> list[HostsPitfall]:
    return list(pitfalls([root], must_exist=must_exist))


def put(root: Path, folder: str, text: str = GOOD, name: str = "hosts.toml") -> Path:
    path = root / folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    "folder",
    [
        "docker.io",
        "registry.example",
        "registry.example:5000",
        "registry.example_5000_",
        "_default",
        "[::1]:5000",
    ],
)
def test_nothing_is_wrong(tmp_path: Path, folder: str) -> None:
    put(tmp_path, folder)
    (tmp_path / "README").write_text("ours")
    assert look(tmp_path) == []


@pytest.mark.parametrize(
    ("folder", "advice"),
    [
        ("registry-1.docker.io", "/docker.io"),
        ("index.docker.io", "/docker.io"),
        ("registry.example_5000", "/registry.example_5000_ or"),
        ("Registry.Example", "/registry.example"),
        ("https:registry.example", "HOST or HOST_PORT_"),
    ],
)
def test_a_folder_that_no_image_matches(tmp_path: Path, folder: str, advice: str) -> None:
    put(tmp_path, folder)
    (found,) = look(tmp_path)
    assert (found.code, found.is_error, found.where) == ("hosts-folder-name", False, str(tmp_path / folder))
    assert advice in found.advice
    if advice.startswith("/"):  # follow it
        (tmp_path / folder).rename(found.advice.removeprefix("rename it to ").partition(" or")[0])
        assert look(tmp_path) == []


def test_a_file_next_to_the_folders(tmp_path: Path) -> None:
    put(tmp_path, ".")
    (found,) = look(tmp_path)
    assert found.code == "hosts-folder-name"
    assert "not in a folder" in found.text


def test_a_directory_that_does_not_exist(tmp_path: Path) -> None:
    (found,) = look(tmp_path / "none")
    assert (found.code, found.is_error) == ("hosts-dir-absent", True)
    assert look(tmp_path / "none", must_exist=False) == []


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ('server = "https://a.example"\n[host."b"\n', 2),
        ("server = 1\n", 1),
        ('[host."https://a.example"]\n  capabilities = ["fly"]\n', 2),
    ],
)
def test_an_invalid_file(tmp_path: Path, text: str, line: int) -> None:
    path = put(tmp_path, "docker.io", text)
    (found,) = look(tmp_path)
    assert (found.code, found.is_error, found.where) == ("hosts-toml-invalid", True, f"{path}:{line}")


def test_a_key_without_effect(tmp_path: Path) -> None:
    path = put(tmp_path, "docker.io", f"{GOOD}  capabilitys = []\n")
    (found,) = look(tmp_path)
    assert (found.code, found.where) == ("hosts-toml-ignored", f"{path}:4")
    assert "did you mean capabilities?" in found.text


def test_files_that_do_not_exist(tmp_path: Path) -> None:
    put(tmp_path, "docker.io", f'{GOOD}  ca = "ca.crt"\n  client = [["c.cert", "c.key"]]\n')
    found = look(tmp_path)
    assert [item.code for item in found] == ["hosts-file-absent"] * 3
    assert all(item.is_error for item in found)
    assert str(tmp_path / "docker.io" / "ca.crt") in found[0].text


def test_certificates_next_to_the_file(tmp_path: Path) -> None:
    put(tmp_path, "docker.io")
    put(tmp_path, "docker.io", "x", "ca.crt")
    (found,) = look(tmp_path)
    assert found.code == "hosts-certificates-ignored"
    assert "ca.crt" in found.text


def test_only_certificates(tmp_path: Path) -> None:
    put(tmp_path, "docker.io", "x", "ca.crt")
    assert look(tmp_path) == []


def test_an_empty_folder(tmp_path: Path) -> None:
    (tmp_path / "docker.io").mkdir()
    (found,) = look(tmp_path)
    assert found.code == "hosts-folder-empty"


def test_a_server_and_a_host_without_a_scheme(tmp_path: Path) -> None:
    put(tmp_path, "docker.io", 'server = "a.example"\n[host."b.example:5000"]\n')
    found = look(tmp_path)
    assert [item.code for item in found] == ["hosts-no-scheme"] * 2
    assert found[1].text == "b.example:5000 has no scheme: it is taken for https://b.example:5000"


def test_a_pipe_instead_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "docker.io").mkdir()
    os.mkfifo(tmp_path / "docker.io" / "hosts.toml")
    (found,) = look(tmp_path)
    assert found.code == "hosts-unreadable"


def test_a_loop_of_links(tmp_path: Path) -> None:
    (tmp_path / "docker.io").symlink_to("docker.io")
    (found,) = look(tmp_path)
    assert (found.code, found.where) == ("hosts-unreadable", str(tmp_path / "docker.io"))


def test_secrets_are_not_shown(tmp_path: Path) -> None:
    text = (
        'server = "https://user:hunter2@a.example"\n'
        '[host."https://b.example"]\n  proxy = "http://u:hunter2@p/path"\n'
        '[host."https://b.example".header]\n  authorization = "Basic hunter2\\n"\n'
    )
    put(tmp_path, "docker.io", text)
    put(tmp_path, "quay.io", text.partition("\n")[2])
    put(tmp_path, "ghcr.io", text.partition("\n")[2].partition('[host."https://b.example".header]')[2])
    put(tmp_path, "a.example", '[host."https://b.example".header]\n  authorization = "Basic hunter2\\n"\n')
    put(tmp_path, "b.example", 'server = "user:hunter2@a.example"\n')
    found = look(tmp_path)
    assert len(found) >= 4
    assert "hunter2" not in repr(found)

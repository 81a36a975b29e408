"""What this machine says about a containerd."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from pyctrd.hostfacts import HostFacts

SERVE = """\
import socket, sys, time
server = socket.socket(socket.AF_UNIX)
server.bind(sys.argv[1])
server.listen()
print("ready", flush=True)
time.sleep(600)
"""


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder with a short name: a socket's path has at most 107 bytes."""
    path = Path(tempfile.mkdtemp(prefix="pyctrd-", dir="/tmp"))
    yield path
    shutil.rmtree(path)


class Server:
    """A process that listens on a socket, and is called containerd."""

    def __init__(self, folder: Path, name: str = "containerd", *words: str, **env: str) -> None:
        self.address = folder / "c.sock"
        self.folder = folder
        program = folder / name
        program.symlink_to(sys.executable)  # the name of a process is that of its program
        script = folder / "serve.py"
        script.write_text(SERVE)
        self._process = subprocess.Popen(
            [program, script, self.address, *words], stdout=subprocess.PIPE, env={**env}, cwd=folder
        )
        assert self._process.stdout
        assert self._process.stdout.readline() == b"ready\n"

    @property
    def pid(self) -> int:
        return self._process.pid

    def facts(self, hosts_dir: Path | None = None) -> HostFacts:
        return HostFacts(str(self.address), {}, hosts_dir, self.folder / "root")

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *_exc: object) -> None:
        assert self._process.stdout
        self._process.kill()
        self._process.wait()
        self._process.stdout.close()


# --- the socket -------------------------------------------------------------------------------------------


def test_who_may_use_the_socket(folder: Path) -> None:
    folder.chmod(0o755)
    address = folder / "c.sock"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(address))
        address.chmod(0o664)
        facts = HostFacts(str(address), {}, root=folder).socket()
        assert facts.mode is not None
        assert (facts.mode & 0o777, facts.is_open) == (0o664, True)
        assert facts.owner
        folder.chmod(0o700)
        assert not HostFacts(str(address), {}, root=folder).socket().is_open


def test_no_socket_and_those_of_other_containerds(folder: Path) -> None:
    other = folder / "run/k3s/containerd/containerd.sock"
    other.parent.mkdir(parents=True)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(other))
        facts = HostFacts(str(folder / "none"), {}, root=folder).socket()
        assert (facts.mode, facts.others) == (None, (("k3s or rke2", str(other)),))
        assert HostFacts(str(other), {}, root=folder).socket().others == ()


# --- the process ------------------------------------------------------------------------------------------


def test_the_process_of_containerd(folder: Path) -> None:
    with Server(folder, PATH="/a:/b", CONTAINERD_DISABLE_PIGZ="1", SECRET="x") as server:
        found = server.facts().process()
        assert found is not None
        assert (found.pid, found.path) == (server.pid, ("/a", "/b"))
        assert found.environment == {"CONTAINERD_DISABLE_PIGZ": "1"}


def test_another_process_or_none(folder: Path) -> None:
    with Server(folder, "tunnel") as server:
        facts = server.facts()
        assert facts.process() is None
        with pytest.raises(FileNotFoundError):
            facts.config()
    assert HostFacts(str(folder / "none"), {}).process() is None


def test_programs_in_its_path(folder: Path) -> None:
    with Server(folder) as server:
        (folder / "unpigz").touch(0o755)
        (folder / "igzip").touch(0o644)
        facts = server.facts()
        assert facts.has_program(["/none", str(folder)], "unpigz")
        assert not facts.has_program([str(folder)], "pigz")
        assert not facts.has_program([str(folder)], "igzip")


def test_disk_space(folder: Path) -> None:
    with Server(folder) as server:
        found = server.facts().disk(str(folder))
        assert found is not None
        assert 0 < found.bytes_free <= found.bytes_total
        assert found.device == folder.stat().st_dev
        assert server.facts().disk(str(folder / "none")) is None


# --- configuration ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("words", [("--config", "c.toml"), ("-c", "c.toml"), ("--config=c.toml",)])
def test_the_configuration_on_its_command_line(folder: Path, words: tuple[str, ...]) -> None:
    (folder / "c.toml").write_text('version = 2\nimports = ["conf.d/*.toml"]\n[plugins.a]\nx = 1\ny = 1\n')
    (folder / "conf.d").mkdir()
    (folder / "conf.d" / "1.toml").write_text("[plugins.a]\ny = 2\n")
    (folder / "conf.d" / "2.toml").write_text('imports = ["../c.toml"]\n[plugins.b]\nz = 3\n')
    with Server(folder, "containerd", *words) as server:
        found = server.facts().config()
    assert found.path == str(folder / "c.toml")
    assert found.settings["plugins"] == {"a": {"x": 1, "y": 2}, "b": {"z": 3}}


def test_a_configuration_that_does_not_exist_or_is_invalid(folder: Path) -> None:
    with Server(folder, "containerd", "--config", "c.toml") as server:
        assert server.facts().config().settings == {}
        (folder / "c.toml").write_text("version = ")
        with pytest.raises(ValueError, match="Invalid value"):
            server.facts().config()


# --- hosts.toml -------------------------------------------------------------------------------------------


def test_directories_with_hosts_toml(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    facts = HostFacts("/none", {}, folder / "certs.d")
    (found,) = facts.pitfalls()
    assert (found.code, found.severity, found.where) == (
        "hosts-dir-absent",
        "error",
        str(folder / "certs.d"),
    )
    (folder / "certs.d" / "index.docker.io").mkdir(parents=True)
    assert {item.severity for item in facts.pitfalls()} == {"warning"}
    monkeypatch.setattr("pyctrd.hostfacts.default_roots", lambda _environ, user: [folder / "other"])
    assert HostFacts("/none", {}).pitfalls() == ()

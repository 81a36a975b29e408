"""The bug report: what is in it, that no secret is, and that nothing is overwritten."""

from __future__ import annotations

import base64
import datetime as dt
import errno
import json
import os
import stat
import tarfile
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import pytest

from pyctrd import AsyncClient, BugReport, Client
from pyctrd.errors import ArchiveError, DaemonUnreachable, InvalidInput
from pyctrd.hostfacts import HostFacts
from pyctrd.operations.doctor import bug_report, doctor
from tests.cli.stub import run
from tests.containerd.fake import FakeDaemon, serve
from tests.test_hostfacts import Server

NOW: Final = dt.datetime(2026, 11, 28, tzinfo=dt.UTC)
SECRETS: Final = (
    *("planted-password", "planted-identity-token", "planted-registry-token", "planted-legacy"),
    *("planted-http-header", "planted-header", "planted-proxy", "planted-env-proxy", "planted-env-password"),
    *("planted-unknown", "planted-cri-password", "planted-cri-arg", "planted-url", "planted-query"),
)
FILES: Final = (
    *("README.txt", "versions.json", "platform.json", "environment.json", "doctor.json", "containerd.json"),
    *("config.json", "registries.json"),
)
CONFIG: Final = """
version = 2
root = "/data/containerd"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "https://someone:planted-url@mirror.example/pause?sig=planted-query"
  max_concurrent_downloads = 3
[plugins."io.containerd.grpc.v1.cri".registry.configs."private.example".auth]
  username = "bob"
  password = "planted-cri-password"
  token = 987654321
[proxy_plugins.remote]
  address = "/run/remote.sock"
  args = ["--token", "planted-cri-arg"]
"""
HOSTS: Final = """
server = "https://registry.example"
[host."https://mirror.example"]
  capabilities = ["pull"]
  proxy = "http://bob:planted-proxy@proxy.example:3128"
  [host."https://mirror.example".header]
    Authorization = "Bearer planted-header"
"""
BROKEN: Final = 'server = "https://bob:planted-url@registry.example"\n'


def encoded(password: str) -> str:
    return base64.b64encode(f"bob:{password}".encode()).decode()


def plant(home: Path) -> dict[str, str]:
    """Write files with secrets below a folder; return an environment with more of them."""
    docker, certs = home / "docker", home / "certs.d"
    for folder in (docker, certs / "registry.example", certs / "broken.example"):
        folder.mkdir(parents=True)
    auths = {
        "registry.example": {"auth": encoded("planted-password")},
        "token.example": {"identitytoken": "planted-identity-token"},
        "odd.example": {"username": "containerd", "password": "null"},
        "other.example": {"registrytoken": "planted-registry-token", "old": "planted-legacy"},
    }
    more = {"credHelpers": {"helped.example": "pass"}, "HttpHeaders": {"X": "planted-http-header"}}
    (docker / "config.json").write_text(json.dumps({"auths": auths, **more}))
    (certs / "registry.example" / "hosts.toml").write_text(HOSTS)
    (certs / "broken.example" / "hosts.toml").write_text(BROKEN)
    login = {"auth": encoded("planted-env-password")}
    return {
        "HOME": str(home),
        "DOCKER_CONFIG": str(docker),
        "XDG_CONFIG_HOME": str(home),
        "XDG_RUNTIME_DIR": str(home),
        "HTTPS_PROXY": "bob:planted-env-proxy@proxy.example:3128",
        "no_proxy": "localhost,.example",
        "DOCKER_AUTH_CONFIG": json.dumps({"auths": {"env.example": login}}),
        "PYCTRD_SOMETHING": "planted-unknown",
        "UNRELATED": "planted-unknown",
    }


def contents(path: Path) -> dict[str, bytes]:
    """Read the files of a report, by their names without the folder."""
    with tarfile.open(path) as archive:
        found = {}
        for member in archive:
            folder, _, name = member.name.partition("/")
            assert (folder, member.mode) == ("pyctrd-bug-report", 0o600)
            stream = archive.extractfile(member)
            assert stream is not None
            found[name] = stream.read()
        return found


def documents(path: Path) -> Mapping[str, Any]:
    """Read the JSON files of a report, by their names without the extension."""
    found = {name.partition("."): data for name, data in contents(path).items()}
    return {name: json.loads(data) for (name, _, kind), data in found.items() if kind == "json"}


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder with a short name: a socket's path has at most 107 bytes."""
    with tempfile.TemporaryDirectory(prefix="pyctrd-", dir="/tmp") as path:
        yield Path(path)


def written(output: Path, host: HostFacts, unreachable: DaemonUnreachable | None = None) -> BugReport:
    report = doctor(None, host, now=NOW, unreachable=unreachable)
    return bug_report.write(str(output), None, host, report, now=NOW, unreachable=unreachable, force=False)


# --- contents ---------------------------------------------------------------------------------------------


def test_no_file_has_a_secret(folder: Path) -> None:
    environ = plant(folder / "home")
    config = folder / "config.toml"
    config.write_text(CONFIG)
    with Server(folder, "containerd", "--config", str(config), CONTAINERD_TOKEN="planted-unknown") as server:
        host = HostFacts(str(server.address), environ, folder / "home" / "certs.d", folder / "root")
        why = DaemonUnreachable("no answer from https://bob:planted-url@x/?sig=planted-query")
        written(folder / "report.tar.gz", host, why)
    raw = contents(folder / "report.tar.gz")
    assert tuple(raw) == FILES
    text = "".join(data.decode() for data in raw.values())
    assert [secret for secret in SECRETS if secret in text or encoded(secret) in text] == []
    assert "987654321" not in text


def test_the_facts_that_help_are_there(folder: Path) -> None:
    environ = plant(folder / "home")
    config = folder / "config.toml"
    config.write_text(CONFIG)
    with Server(folder, "containerd", "--config", str(config), CONTAINERD_TOKEN="x") as server:
        host = HostFacts(str(server.address), environ, folder / "home" / "certs.d", folder / "root")
        written(folder / "report.tar.gz", host)
        found = documents(folder / "report.tar.gz")
        assert found["containerd"]["process"]["pid"] == server.pid
    assert found["containerd"]["process"]["variables"] == ["CONTAINERD_TOKEN"]
    settings = found["config"]["settings"]
    assert (found["config"]["file"], settings["root"]) == (str(config), "/data/containerd")
    cri = settings["plugins"]["io.containerd.grpc.v1.cri"]
    assert cri["sandbox_image"] == "https://***@mirror.example/pause?***"
    assert cri["max_concurrent_downloads"] == 3
    assert cri["registry"]["configs"]["private.example"]["auth"] == {
        "username": "***",
        "password": "***",
        "token": "***",
    }
    (root,) = found["registries"]["hosts"]
    broken, registry = root["registries"]
    assert broken["error"].endswith("is not the URL of a host (http or https, no user, no query)")
    assert registry["hosts"][0]["url"] == "https://mirror.example/v2"
    assert (registry["hosts"][0]["headers"], registry["hosts"][0]["proxy"]) == (
        ["Authorization"],
        "http://proxy.example:3128",
    )
    docker, environment = found["registries"]["logins"][0], found["registries"]["logins"][-1]
    assert docker["logins"] == ["odd.example", "other.example", "registry.example", "token.example"]
    assert docker["helpers"] == {"helped.example": "pass"}
    assert (environment["file"], environment["logins"]) == ("$DOCKER_AUTH_CONFIG", ["env.example"])
    assert found["environment"]["HTTPS_PROXY"] == "http://proxy.example:3128"
    assert found["environment"]["no_proxy"] == "localhost,.example"
    assert found["environment"]["PYCTRD_SOMETHING"] == "***"
    assert "UNRELATED" not in found["environment"]
    assert found["versions"]["pyctrd"]
    assert found["platform"]["cpus"] > 0


def test_what_cannot_be_found_out_is_an_error_in_the_report(folder: Path) -> None:
    config = folder / "config.toml"
    config.write_text("not = [toml")
    with Server(folder, "containerd", "--config", str(config)) as server:
        written(folder / "report.tar.gz", server.facts())
    assert "TOMLDecodeError" in documents(folder / "report.tar.gz")["config"]["error"]


# --- the library ------------------------------------------------------------------------------------------


@pytest.fixture
def address(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    for name, value in plant(folder / "home").items():
        monkeypatch.setenv(name, value)
    server = serve(folder / "c.sock", FakeDaemon())
    yield folder / "c.sock"
    server.stop(None).wait()


def test_a_report_of_a_containerd(address: Path, folder: Path) -> None:
    output = folder / "report.tar.gz"
    with Client(address) as client:
        result = client.bug_report(output, hosts_dir=folder / "home" / "certs.d")
    found = documents(output)["containerd"]
    assert found["version"]["version"]
    assert found["socket"]["path"] == str(address)
    assert [item.name for item in result.files] == [f"pyctrd-bug-report/{name}" for name in FILES]
    assert [item.size for item in result.files] == [len(data) for data in contents(output).values()]
    assert result.path == str(output)
    assert stat.S_IMODE(output.stat().st_mode) == 0o600
    assert b"planted" not in b"".join(contents(output).values())


async def test_a_report_of_a_containerd_that_is_down(folder: Path) -> None:
    output = folder / "report.tar.gz"
    async with AsyncClient(folder / "nothing.sock") as client:
        result = await client.bug_report(output)
    assert result.doctor.findings[0].code == "socket-unreachable"
    assert "no such file" in documents(output)["containerd"]["unreachable"]["message"]


def test_a_file_is_replaced_only_if_asked(folder: Path) -> None:
    output = folder / "report.tar.gz"
    output.write_text("mine")
    output.chmod(0o644)
    with Client(folder / "nothing.sock") as client:
        with pytest.raises(ArchiveError, match="exists") as caught:
            client.bug_report(output)
        assert caught.value.hint == "choose another name, or `force` to replace it"
        assert output.read_text() == "mine"
        client.bug_report(output, force=True)
        assert tuple(contents(output)) == FILES
        assert stat.S_IMODE(output.stat().st_mode) == 0o600
        with pytest.raises(InvalidInput, match="not a regular file"):
            client.bug_report(folder, force=True)
    assert [path.name for path in folder.iterdir()] == ["report.tar.gz"]


def test_nothing_is_left_if_it_cannot_be_written(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_args: object, **_how: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("os.rename", full)
    with Client(folder / "nothing.sock") as client, pytest.raises(ArchiveError, match="No space left"):
        client.bug_report(folder / "report.tar.gz")
    assert list(folder.iterdir()) == []


# --- the command ------------------------------------------------------------------------------------------


def test_the_command_prints_what_it_has_written(address: Path, folder: Path) -> None:
    output = folder / "report.tar.gz"
    result = run("-a", str(address), "doctor", "--bundle", str(output))
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    assert [line.split()[0] for line in lines[:-1]] == [f"pyctrd-bug-report/{name}" for name in FILES]
    assert max(map(len, lines[:-1])) <= 100
    assert lines[-1] == f"wrote {output}: it has no passwords or tokens; read it before you send it"
    again = run("-a", str(address), "doctor", "--bundle", str(output))
    assert (again.exit_code, again.stderr) == (
        1,
        f"pyctrd: {output} exists\nhint: choose another name, or --force to replace it\n",
    )
    assert run("-a", str(address), "doctor", "--bundle", str(output), "--force").exit_code == 0


@pytest.mark.parametrize("more", [["--check", "disk"], ["--skip", "disk"], ["--format", "json"]])
def test_a_report_is_always_whole(folder: Path, more: list[str]) -> None:
    output = folder / "report.tar.gz"
    assert run("doctor", "--bundle", str(output), *more).exit_code == 2
    assert not output.exists()


def test_force_is_for_a_report(folder: Path) -> None:
    assert run("doctor", "--force").exit_code == 2

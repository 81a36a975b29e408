"""`explain`: every setting that applies, no secrets, and no requests."""

from __future__ import annotations

import base64
import json
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import trustme

from pyctrd.errors import InvalidInput
from pyctrd.oci.reference import parse
from pyctrd.registry import Explanation, RegistryClient, RegistryOptions
from tests.cli.stub import run

HOSTS_TOML = """\
server = "https://registry.example.org"

[host."https://mirror.example.net:8443/cache"]
  capabilities = ["resolve", "pull"]
  ca = "ca.pem"
  skip_verify = true
  dial_timeout = "1500ms"
  [host."https://mirror.example.net:8443/cache".header]
    x-api-key = "hush-header"

[host."http://10.0.0.5:5000"]
  capabilities = ["pull"]
  proxy = "http://me:hush-proxy@proxy.example.org:3128/"

[host."https://example.org"]
  capability = ["pull"]
"""


@pytest.fixture
def roots(tmp_path: Path) -> list[Path]:
    folder = tmp_path / "containerd" / "example.org"
    folder.mkdir(parents=True)
    (folder / "hosts.toml").write_text(HOSTS_TOML)
    trustme.CA().cert_pem.write_to_path(folder / "ca.pem")
    return [tmp_path / "absent", tmp_path / "containerd", tmp_path / "docker"]


def explained(text: str, roots: list[Path], environ: dict[str, str], **options: object) -> Explanation:
    with RegistryClient(RegistryOptions(**options), environ=environ, roots=roots) as client:  # type: ignore[arg-type]
        return client.explain(parse(text))


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    """Credentials for a mirror, a proxy for https, and a network without one."""
    auth = base64.b64encode(b"me:hush-config").decode()
    document = {"auths": {"mirror.example.net:8443": {"auth": auth}}}
    (tmp_path / "config.json").write_text(json.dumps(document))
    return {
        "DOCKER_CONFIG": str(tmp_path),
        "HTTPS_PROXY": "http://you:hush-env@corp:8080",
        "NO_PROXY": "registry.example.org",
        "HOME": str(tmp_path),
    }


def test_everything_is_explained(
    roots: list[Path], environ: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_arguments: object) -> None:
        raise AssertionError("nothing may be sent")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    folder = roots[1] / "example.org"
    found = explained("example.org/team/app:v1", roots, environ, username="me", password="hush-flag")
    assert (found.reference, found.registry, found.repository) == (
        "example.org/team/app:v1",
        "example.org",
        "team/app",
    )
    assert found.configuration == str(folder)
    assert [item.state for item in found.directories] == ["absent", "used", "not reached"]
    mirror, plain, same, server = found.hosts
    assert mirror.url == "https://mirror.example.net:8443/cache/v2"
    assert mirror.namespace == "example.org"
    assert mirror.asked_for == ("resolve", "pull")
    assert mirror.origin == f"{folder}/hosts.toml:3"
    assert mirror.credentials == str(Path(environ["DOCKER_CONFIG"]) / "config.json")
    assert (mirror.proxy.url, mirror.proxy.source) == ("http://corp:8080", "HTTPS_PROXY")
    assert mirror.ca_files == (f"{folder}/ca.pem",)
    assert (mirror.skip_verify, mirror.headers, mirror.dial_timeout) == (True, ("x-api-key",), 1.5)
    assert plain.url == "http://10.0.0.5:5000/v2"
    assert plain.asked_for == ("pull",)
    assert (plain.proxy.url, plain.proxy.source) == (
        "http://proxy.example.org:3128/",
        f"{folder}/hosts.toml:13",
    )
    assert (plain.credentials, plain.dial_timeout) == ("", 10.0)
    assert (same.credentials, same.namespace) == ("-u", "")
    assert server.origin == f"{folder}/hosts.toml:1"
    assert server.credentials == ""  # -u is for example.org alone
    assert (server.proxy.url, server.proxy.source) == ("", "HTTPS_PROXY")
    assert server.proxy.excluded_by == "NO_PROXY: registry.example.org"
    (notice,) = found.notices
    assert notice.startswith(f"{folder}/hosts.toml:16: unknown key 'capability' has no effect")
    assert "hush" not in repr(found)


def test_no_host_may_resolve_or_pull(tmp_path: Path) -> None:
    (tmp_path / "_default").mkdir()
    (tmp_path / "_default" / "hosts.toml").write_text('server = "https://m"\ncapabilities = ["push"]')
    found = explained("example.org/x", [tmp_path], {})
    assert found.notices == ("no host is configured that may resolve", "no host is configured that may pull")


def test_a_host_that_may_not_pull_is_not_asked_to_resolve(tmp_path: Path) -> None:
    (tmp_path / "_default").mkdir()
    (tmp_path / "_default" / "hosts.toml").write_text('[host."https://m"]\ncapabilities = ["resolve"]')
    found = explained("example.org/x", [tmp_path], {})
    assert found.hosts[0].asked_for == ()
    assert found.notices == (
        f"{tmp_path}/_default/hosts.toml:1: a host that may resolve, but not pull, is not asked to resolve",
    )


def test_credentials_that_are_not_sent(tmp_path: Path) -> None:
    (tmp_path / "_default").mkdir()
    (tmp_path / "_default" / "hosts.toml").write_text('server = "https://m"')
    found = explained("example.org/x", [tmp_path], {}, username="me", password="hush")
    assert found.notices == ("`username` is for example.org, which is not asked: it is not sent to any host",)


def test_a_broken_configuration_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "_default").mkdir()
    (tmp_path / "_default" / "hosts.toml").write_text("\nserver = ")
    with pytest.raises(InvalidInput, match=r"hosts\.toml:2: not valid TOML"):
        explained("example.org/x", [tmp_path], {})


def test_problems_with_credentials_are_listed(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{")
    (notice,) = explained("example.org/x", [], {"DOCKER_CONFIG": str(tmp_path)}).notices
    assert "config.json is not valid JSON" in notice


# --- the command ------------------------------------------------------------------------------------------


def test_explain_as_text(roots: list[Path], environ: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    done = run(
        "registry", "explain", "example.org/team/app", "--hosts-dir", str(roots[1]), "-u", "me:hush-flag"
    )
    assert done.exit_code == 0
    folder = roots[1] / "example.org"
    first, second = done.stdout.split("\n2. ")[0], done.stdout.split("\n2. ")[1].split("\n3. ")[0]
    assert "\n1. https://mirror.example.net:8443/cache/v2  (for example.org)\n" in first
    for line in (
        f"configured by: {folder}/hosts.toml:3",
        "used for: resolve, pull (?ns=example.org)",
        f"credentials: {environ['DOCKER_CONFIG']}/config.json",
        "proxy: http://corp:8080 (HTTPS_PROXY)",
        "certificate: not verified",
        "headers: x-api-key",
        "connect timeout: 1.5 s",
    ):
        assert f"\n{line}\n" in first + "\n"
    assert f"\nproxy: http://proxy.example.org:3128/ ({folder}/hosts.toml:13)\n" in second
    assert "\nproxy: none (HTTPS_PROXY ignored: NO_PROXY: registry.example.org)\n" in done.stdout
    assert f"\n{roots[1]}  used\n" in done.stdout
    assert f"\n{folder}/hosts.toml:16: unknown key 'capability' has no effect" in done.stdout
    assert "hush" not in done.stdout + done.stderr


def test_explain_as_json(roots: list[Path], environ: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    done = run("registry", "explain", "example.org/x", "--hosts-dir", str(roots[1]), "--format", "json")
    document = json.loads(done.stdout)
    assert document["reference"] == "example.org/x:latest"
    assert document["hosts"][0]["proxy"] == {
        "url": "http://corp:8080",
        "source": "HTTPS_PROXY",
        "excluded_by": "",
    }
    assert document["hosts"][0]["asked_for"] == ["resolve", "pull"]
    assert document["directories"] == [{"path": str(roots[1]), "state": "used"}]
    assert "hush" not in done.stdout


def test_no_containerd_is_needed_and_none_of_its_libraries() -> None:
    script = "import sys; from pyctrd.cli import main; import os; os._exit = lambda code: None; main()"
    code = f"{script}\nprint('grpc' in sys.modules, 'pyctrd.client' in sys.modules)"
    words = [sys.executable, "-c", code, "registry", "explain", "127.0.0.1:1/x"]
    done = subprocess.run(words, check=True, capture_output=True, text=True, timeout=60)
    assert done.stdout.endswith("\nFalse False\n")


def test_control_characters_are_escaped(tmp_path: Path) -> None:
    (tmp_path / "_default").mkdir()
    (tmp_path / "_default" / "hosts.toml").write_text('ca = "\\u001b[31m.pem"\n"k\\u001b" = 1')
    done = run("registry", "explain", "example.org/x", "--hosts-dir", str(tmp_path))
    assert done.exit_code == 0
    assert "\x1b" not in done.stdout
    assert "\\x1b[31m.pem" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["registry", "nonsense"], "No such command 'nonsense'"),
        (["registry", "explain"], "Missing argument 'REF'"),
        (["registry", "explain", "UPPER/case:"], "invalid reference"),
        (["registry", "explain", "x", "--hosts-dir", "/nonexistent/dir"], "is not a directory"),
    ],
)
def test_bad_usage(arguments: list[str], message: str) -> None:
    done = run(*arguments)
    assert done.exit_code == 2
    assert message in done.stdout + done.stderr

"""Where host configuration is searched, and which files are read."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from pyctrd.errors import InvalidInput
from pyctrd.oci.reference import parse
from pyctrd.registry import RegistryClient, RegistryOptions
from pyctrd.registry.config.certs_d import default_roots, directory_names, search
from pyctrd.registry.config.endpoints import plan


def test_order_of_directories(tmp_path: Path) -> None:
    assert directory_names("example.org:5000") == ("example.org_5000_", "example.org:5000", "_default")
    assert directory_names("example.org") == ("example.org", "_default")
    for name in reversed(directory_names("example.org:5000")):
        (tmp_path / name).mkdir()
        found = search([tmp_path / "absent", tmp_path], "example.org:5000")
        assert found.directory is not None
        assert found.directory.path.name == name
    assert search([tmp_path / "absent"], "example.org").directory is None


def test_the_first_root_with_an_entry_wins(tmp_path: Path) -> None:
    roots = [tmp_path / name for name in ("absent", "empty", "first", "second")]
    for root in roots[1:]:
        root.mkdir()
    (roots[2] / "_default").mkdir()
    (roots[3] / "example.org").mkdir()
    found = search(roots, "example.org")
    assert found.directory is not None
    assert found.directory.path == roots[2] / "_default"
    assert [item.state for item in found.searched] == ["absent", "no entry", "used", "not reached"]
    assert [item.path for item in found.searched] == list(map(str, roots))


SYSTEM = ["/etc/containerd/certs.d", "/etc/docker/certs.d"]


@pytest.mark.parametrize(
    ("user", "environ", "own"),
    [
        (0, {"HOME": "/root", "XDG_CONFIG_HOME": "/x"}, []),
        (
            1000,
            {"HOME": "/home/me"},
            ["/home/me/.config/containerd/certs.d", "/home/me/.config/docker/certs.d"],
        ),
        (1000, {"HOME": "/h", "XDG_CONFIG_HOME": "/x"}, ["/x/containerd/certs.d", "/x/docker/certs.d"]),
        (
            1000,
            {"HOME": "/h", "XDG_CONFIG_HOME": "x"},
            ["/h/.config/containerd/certs.d", "/h/.config/docker/certs.d"],
        ),
        (1000, {}, []),
        (
            0,
            {"HOME": "/h", "ROOTLESSKIT_STATE_DIR": "/run/r"},
            ["/h/.config/containerd/certs.d", "/h/.config/docker/certs.d"],
        ),
    ],
)
def test_default_roots(
    monkeypatch: pytest.MonkeyPatch, user: int, environ: dict[str, str], own: list[str]
) -> None:
    monkeypatch.undo()  # the fixture that hides the system's
    assert [str(path) for path in default_roots(environ, user=user)] == [*own, *SYSTEM]


def test_default_roots_are_used_unless_a_directory_is_given(tmp_path: Path) -> None:
    for name in ("default", "given"):
        (tmp_path / name / "_default").mkdir(parents=True)
        (tmp_path / name / "_default" / "hosts.toml").write_text(f'server = "https://{name}"')
    with RegistryClient(roots=[tmp_path / "default"]) as client:
        assert [one.host for one in client.endpoints("example.org")] == ["default"]
    options = RegistryOptions(hosts_dir=tmp_path / "given")
    with RegistryClient(options, roots=[tmp_path / "default"]) as client:
        assert [one.host for one in client.endpoints("example.org")] == ["given"]


def refuse(monkeypatch: pytest.MonkeyPatch, path: Path) -> None:
    """Make a path look as if this user may not search it: the tests may run as root."""
    real = Path.stat

    def stat(self: Path, **how: bool) -> object:
        if path in self.parents:
            raise PermissionError(13, "Permission denied", str(self))
        return real(self, **how)

    monkeypatch.setattr(Path, "stat", stat)


def test_a_default_root_that_may_not_be_searched_is_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    closed, opened = tmp_path / "closed", tmp_path / "opened"
    (opened / "_default").mkdir(parents=True)
    closed.mkdir()
    refuse(monkeypatch, closed)
    with RegistryClient(roots=[closed, opened]) as client:
        client.endpoints("example.org")
        client.endpoints("example.org")
        assert client.explain(parse("example.org/x")).directories[0].state == "not readable"
    assert caplog.messages == [f"{closed}: permission denied, its configuration is not used"]
    monkeypatch.undo()
    refuse(monkeypatch, closed)
    options = RegistryOptions(hosts_dir=closed)
    with RegistryClient(options) as client, pytest.raises(InvalidInput, match="Permission denied"):
        client.endpoints("example.org")


def test_unreadable_configuration_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "example.org").write_text("")
    with pytest.raises(InvalidInput, match=r"example\.org is not a directory"):
        search([tmp_path], "example.org", forgiving=True)
    (tmp_path / "_default" / "hosts.toml").mkdir(parents=True)
    with pytest.raises(InvalidInput, match=r"_default/hosts\.toml: not a regular file"):
        search([tmp_path], "other.org", forgiving=True)
    loop = tmp_path / "loop.org"
    loop.symlink_to(loop)
    with pytest.raises(InvalidInput, match="cannot read the host configuration"):
        search([tmp_path], "loop.org", forgiving=True)


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"\xff\xfe", r"hosts\.toml:1: not UTF-8 text"),
        (b'server = "x"\n# \xff', r"hosts\.toml:2: not UTF-8 text"),
        (b"#" * (1 << 21), r"hosts\.toml is larger than"),
    ],
)
def test_a_hosts_toml_that_is_not_text(tmp_path: Path, raw: bytes, message: str) -> None:
    (tmp_path / "_default").mkdir()
    (tmp_path / "_default" / "hosts.toml").write_bytes(raw)
    with pytest.raises(InvalidInput, match=message):
        search([tmp_path], "example.org")


def test_certificates_are_used_with_an_empty_hosts_toml(tmp_path: Path) -> None:
    """Like containerd (loadHostDir)."""
    (tmp_path / "_default").mkdir()
    (tmp_path / "_default" / "hosts.toml").write_text("")
    (tmp_path / "_default" / "a.crt").write_text("x")
    (tmp_path / "_default" / "folder.crt").mkdir()
    found = search([tmp_path], "example.org").directory
    (endpoint,) = plan("example.org", directory=found).endpoints
    assert endpoint.tls.ca_files == (str(tmp_path / "_default" / "a.crt"),)


@pytest.mark.parametrize("layout", ["toml", "files"])
@pytest.mark.parametrize("content", [None, "no PEM"])
def test_tls_files_are_checked_before_any_request(tmp_path: Path, layout: str, content: str | None) -> None:
    """Otherwise the next host would be used, and hide that this one never works."""
    folder = tmp_path / "example.org"
    folder.mkdir()
    if layout == "toml":
        (folder / "hosts.toml").write_text('\n[host."https://m"]\nca = "ca.crt"')
    if content is None:
        (folder / "ca.crt").symlink_to("absent")
    else:
        (folder / "ca.crt").write_text(content)
    place = "example.org/hosts.toml:2: " if layout == "toml" else "example.org: "
    with RegistryClient(RegistryOptions(hosts_dir=tmp_path)) as client:
        with pytest.raises(InvalidInput, match=re.escape(f"{place}cannot use CA file {folder}/ca.crt: ")):
            client.endpoints("example.org")
        assert "cannot use CA file" in client.explain(parse("example.org/x")).notices[0]


@pytest.mark.parametrize("kind", ["pipe", "device", "folder"])
def test_a_hosts_toml_that_is_not_a_regular_file(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "example.org" / "hosts.toml"
    path.parent.mkdir()
    not_a_file(path, kind)
    with pytest.raises(InvalidInput, match=re.escape(f"{path}: not a regular file")):
        search([tmp_path], "example.org")


@pytest.mark.parametrize("kind", ["pipe", "device", "folder"])
@pytest.mark.parametrize("key", ["ca", "client"])
def test_invalid_tls_files(tmp_path: Path, kind: str, key: str) -> None:
    path = tmp_path / "example.org" / "x.pem"
    path.parent.mkdir()
    not_a_file(path, kind)
    (path.parent / "hosts.toml").write_text(f'{key} = "x.pem"\n')
    with (
        RegistryClient(RegistryOptions(hosts_dir=tmp_path)) as client,
        pytest.raises(InvalidInput, match=rf"cannot use .* {re.escape(str(path))}: not a regular file"),
    ):
        client.remote(parse("example.org/x")).resolve()


def not_a_file(path: Path, kind: str) -> None:
    match kind:
        case "pipe":
            os.mkfifo(path)
        case "device":
            path.symlink_to("/dev/zero")
        case _:
            path.mkdir()

"""Fallback from one host to the next: the reasons, and what is sent to each host."""

from __future__ import annotations

import socket
import ssl
from pathlib import Path

import pytest
import trustme

from pyctrd.errors import NotFound, RegistryError, RegistryUnreachable
from tests.registry.conftest import RemoteMaker
from tests.registry.samples import (
    BLOB,
    DIGEST,
    HEADERS,
    MANIFEST,
    TAG,
    blob_path,
    layer,
    mirror_config,
    read,
)
from tests.registry.server import Answer, ScriptedServer, ranges

GOOD = Answer(200, MANIFEST, HEADERS)


@pytest.mark.parametrize("status", [400, 401, 403, 404, 405, 410, 418, 429, 500, 502, 503, 504])
def test_after_any_failure_of_a_mirror_the_registry_is_used(
    server: ScriptedServer,
    other: ScriptedServer,
    remote: RemoteMaker,
    tmp_path: Path,
    status: int,
    pauses: list[float],
) -> None:
    one = remote(hosts_dir=mirror_config(tmp_path, server, other))
    descriptor = layer()
    other.always("HEAD", TAG, Answer(status, headers={"Retry-After": "50"}))
    other.always("GET", TAG, Answer(status))
    other.always("GET", blob_path(descriptor), Answer(status, headers={"Retry-After": "50"}))
    server.once("HEAD", TAG, GOOD)
    server.once("GET", blob_path(descriptor), ranges(BLOB))
    assert one.resolve().digest == DIGEST
    assert read(one, descriptor) == BLOB
    assert pauses == []  # no pause while there is another host
    assert len(other.seen) <= 3


def test_a_silent_mirror_costs_one_time_out(
    server: ScriptedServer, remote: RemoteMaker, tmp_path: Path
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        (tmp_path / "_default").mkdir()
        (tmp_path / "_default" / "hosts.toml").write_text(
            f'server = "{server.url}"\n[host."http://127.0.0.1:{silent.getsockname()[1]}"]'
        )
        descriptor = layer()
        server.once("HEAD", TAG, GOOD)
        server.always("GET", blob_path(descriptor), ranges(BLOB))
        one = remote(hosts_dir=tmp_path, stall_timeout=0.2)
        assert one.resolve().digest == DIGEST
        for _layer in range(3):
            assert read(one, descriptor) == BLOB
        silent.setblocking(False)
        silent.accept()[0].close()
        with pytest.raises(BlockingIOError):
            silent.accept()


def test_if_no_host_responds_all_are_tried_again(remote: RemoteMaker, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        (tmp_path / "_default").mkdir()
        (tmp_path / "_default" / "hosts.toml").write_text(
            f'server = "http://127.0.0.1:{silent.getsockname()[1]}"'
        )
        one = remote(hosts_dir=tmp_path, stall_timeout=0.05)
        for _time in range(2):
            with pytest.raises(RegistryUnreachable, match="timed out while waiting for an answer"):
                one.resolve()


def test_a_404_of_a_mirror_does_not_hide_that_the_registry_is_down(
    server: ScriptedServer, remote: RemoteMaker, tmp_path: Path
) -> None:
    (tmp_path / "_default").mkdir()
    config = tmp_path / "_default" / "hosts.toml"
    server.once("HEAD", TAG, Answer(404), Answer(404))
    config.write_text(f'server = "http://127.0.0.1:1"\n[host."{server.url}"]')
    with pytest.raises(RegistryUnreachable, match=r"failed to resolve reference .*: 127.0.0.1:1: connection"):
        remote(hosts_dir=tmp_path).resolve()
    config.write_text(f'server = "{server.url}"\n[host."http://127.0.0.1:1"]')
    with pytest.raises(NotFound):
        remote(hosts_dir=tmp_path).resolve()


def test_a_mirror_is_not_used_after_two_interruptions(
    server: ScriptedServer, other: ScriptedServer, remote: RemoteMaker, tmp_path: Path, pauses: list[float]
) -> None:
    one = remote(hosts_dir=mirror_config(tmp_path, server, other))
    descriptor = layer()
    path = blob_path(descriptor)
    other.always("GET", path, ranges(BLOB, cut_after=1000))
    server.once("GET", path, ranges(BLOB))
    assert read(one, descriptor) == BLOB
    assert [seen.headers.get("range", "") for seen in other.seen] == ["", "bytes=1000-"]
    assert server.seen[0].headers["range"] == "bytes=2000-"
    assert len(pauses) == 2


def test_a_dead_mirror_and_a_registry_without_ranges_are_an_error(
    server: ScriptedServer, other: ScriptedServer, remote: RemoteMaker, tmp_path: Path
) -> None:
    one = remote(hosts_dir=mirror_config(tmp_path, server, other))
    descriptor = layer()
    path = blob_path(descriptor)
    other.once("GET", path, ranges(BLOB, cut_after=1000))
    other.always("GET", path, Answer(500))
    server.always("GET", path, Answer(404))
    with pytest.raises(RegistryError) as caught:
        read(one, descriptor)
    assert caught.value.status == 500
    assert len(server.seen) < 20


@pytest.mark.parametrize("capability", ["resolve", "push", "referrers"])
def test_a_mirror_without_the_pull_capability_is_not_used(
    server: ScriptedServer, other: ScriptedServer, remote: RemoteMaker, tmp_path: Path, capability: str
) -> None:
    one = remote(hosts_dir=mirror_config(tmp_path, server, other, f'capabilities = ["{capability}"]'))
    descriptor = layer()
    server.once("HEAD", TAG, GOOD)
    server.once("GET", blob_path(descriptor), ranges(BLOB))
    assert one.resolve().digest == DIGEST
    assert read(one, descriptor) == BLOB
    assert other.seen == []


def test_no_credential_of_the_registry_is_sent_to_another_host(
    server: ScriptedServer, other: ScriptedServer, remote: RemoteMaker, tmp_path: Path
) -> None:
    """Neither to a mirror, nor to a `server` elsewhere, which anyone may run."""
    challenge = Answer(401, headers={"WWW-Authenticate": 'Basic realm="x"'})
    one = remote(hosts_dir=mirror_config(tmp_path / "mirror", server, other), username="me", password="hush")
    other.always("HEAD", TAG, challenge)
    server.once("HEAD", TAG, challenge, GOOD)
    one.resolve()
    assert server.seen[-1].authorization.startswith("Basic ")
    folder = tmp_path / "server" / "_default"
    folder.mkdir(parents=True)
    (folder / "hosts.toml").write_text(f'server = "{other.url}"')
    two = remote(hosts_dir=folder.parent, username="me", password="hush")
    with pytest.raises(RegistryError):
        two.resolve()
    assert {seen.authorization for seen in other.seen} == {""}
    assert len(other.seen) == 2


def test_values_of_a_header_are_joined(
    server: ScriptedServer, other: ScriptedServer, remote: RemoteMaker, tmp_path: Path
) -> None:
    extra = f'[host."{other.url}".header]\nx-key = ["abc", "def"]\nRange = "bytes=1-2"\n'
    one = remote(hosts_dir=mirror_config(tmp_path, server, other, extra))
    other.once("HEAD", TAG, GOOD)
    one.resolve()
    assert other.seen[0].headers["x-key"] == "abc, def"
    assert "range" not in other.seen[0].headers


def test_plain_http_is_used_if_the_host_has_no_tls(
    server: ScriptedServer, other: ScriptedServer, remote: RemoteMaker, tmp_path: Path
) -> None:
    one = remote(hosts_dir=mirror_config(tmp_path, server, other, "skip_verify = true"))
    other.once("HEAD", TAG, GOOD)
    other.once("GET", f"/v2/team/app/manifests/{DIGEST}", GOOD)
    descriptor = one.resolve()
    assert read(one, descriptor) == MANIFEST
    assert other.connections == 2  # TLS is not tried again


def test_tls_is_tried_first_for_http_with_tls_settings(
    server: ScriptedServer, remote: RemoteMaker, tmp_path: Path
) -> None:
    authority = trustme.CA()
    context = ssl_context(authority)
    with ScriptedServer(context) as secure:
        config = mirror_config(tmp_path, server, secure)
        path = config / "_default" / "hosts.toml"
        authority.cert_pem.write_to_path(config / "_default" / "ca.pem")
        path.write_text(path.read_text().replace(secure.url, f"http://{secure.host}") + 'ca = "ca.pem"')
        secure.once("HEAD", TAG, GOOD)
        assert remote(hosts_dir=config).resolve().digest == DIGEST
        assert secure.unused() == {}


def test_no_plain_http_after_a_wrong_certificate(
    server: ScriptedServer, remote: RemoteMaker, tmp_path: Path
) -> None:
    with ScriptedServer(ssl_context(trustme.CA())) as secure:
        folder = tmp_path / "_default"
        folder.mkdir()
        trustme.CA().cert_pem.write_to_path(folder / "ca.pem")
        (folder / "hosts.toml").write_text(f'server = "http://{secure.host}"\nca = "ca.pem"')
        with pytest.raises(RegistryUnreachable, match="certificate signed by unknown authority"):
            remote(hosts_dir=tmp_path).resolve()
        assert secure.seen == []


def test_the_proxy_of_a_table(
    server: ScriptedServer, other: ScriptedServer, remote: RemoteMaker, tmp_path: Path
) -> None:
    """A plain http proxy gets the whole URL; `proxy` takes precedence over the environment."""
    folder = tmp_path / "_default"
    folder.mkdir()
    (folder / "hosts.toml").write_text(
        f'server = "{server.url}"\n[host."http://mirror.invalid:5000"]\nproxy = "http://me:hush@{other.host}"\n'
    )
    other.once("HEAD", f"http://mirror.invalid:5000{TAG}", GOOD)
    assert remote(hosts_dir=tmp_path).resolve().digest == DIGEST
    assert other.seen[0].headers["proxy-authorization"].startswith("Basic ")


def test_the_token_server_is_reached_through_the_same_proxy(
    other: ScriptedServer, remote: RemoteMaker, tmp_path: Path
) -> None:
    folder = tmp_path / "_default"
    folder.mkdir()
    base = "http://registry.invalid:5000"
    (folder / "hosts.toml").write_text(f'server = "{base}"\nproxy = "http://{other.host}"\n')
    challenge = f'Bearer realm="{base}/token",service="s"'
    other.once("HEAD", f"{base}{TAG}", Answer(401, headers={"WWW-Authenticate": challenge}), GOOD)
    other.once("GET", f"{base}/token", Answer(200, b'{"token": "t"}'))
    assert remote(hosts_dir=tmp_path).resolve().digest == DIGEST


def ssl_context(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    return context

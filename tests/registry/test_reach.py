"""Mirrors, redirects, TLS, proxies, and hosts that cannot be reached."""

from __future__ import annotations

import base64
import socketserver
import ssl
import threading
from pathlib import Path

import pytest
import trustme

from pyctrd.errors import (
    RegistryError,
    RegistryUnreachable,
)
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

# --- hosts ------------------------------------------------------------------------------------------------


def test_mirrors_are_used_before_the_server(
    server: ScriptedServer, other: ScriptedServer, remote: RemoteMaker, tmp_path: Path, pauses: list[float]
) -> None:
    one = remote(hosts_dir=mirror_config(tmp_path, server, other))
    for reply in (
        Answer(404),
        Answer(503),
        Answer(hang_up=True),
        Answer(200, b"<p>", {"Content-Type": "text/html"}),
    ):
        other.once("HEAD", TAG, reply)
        server.once("HEAD", TAG, Answer(200, MANIFEST, HEADERS))
        assert one.resolve().digest == DIGEST
    assert pauses == []
    assert other.seen[0].path == f"{TAG}?ns={server.host}"
    assert server.seen[0].path == TAG


def test_a_pull_only_mirror_serves_digests_only(
    server: ScriptedServer, other: ScriptedServer, remote: RemoteMaker, tmp_path: Path
) -> None:
    one = remote(hosts_dir=mirror_config(tmp_path, server, other, 'capabilities = ["pull"]\n'))
    server.once("HEAD", TAG, Answer(200, MANIFEST, HEADERS))
    one.resolve()
    descriptor = layer()
    other.once("GET", blob_path(descriptor), ranges(BLOB))
    assert read(one, descriptor) == BLOB
    assert len(server.seen) == 1


def test_a_mirror_that_stops_half_way(
    server: ScriptedServer, other: ScriptedServer, remote: RemoteMaker, tmp_path: Path
) -> None:
    one = remote(hosts_dir=mirror_config(tmp_path, server, other))
    descriptor = layer()
    path = blob_path(descriptor)
    other.once("GET", path, ranges(BLOB, cut_after=1_000_000), Answer(503))
    server.once("GET", path, ranges(BLOB))
    assert read(one, descriptor) == BLOB
    assert server.seen[0].headers["range"] == "bytes=1000000-"


def test_headers_of_a_host(
    server: ScriptedServer, other: ScriptedServer, remote: RemoteMaker, tmp_path: Path
) -> None:
    extra = f'[host."{other.url}".header]\nx-key = ["abc"]\n'
    one = remote(hosts_dir=mirror_config(tmp_path, server, other, extra))
    other.once("HEAD", TAG, Answer(404))
    server.once("HEAD", TAG, Answer(200, MANIFEST, HEADERS))
    one.resolve()
    assert other.seen[0].headers["x-key"] == "abc"
    assert "x-key" not in server.seen[0].headers


# --- redirects --------------------------------------------------------------------------------------------


def test_redirects_are_followed_without_credentials(
    server: ScriptedServer, other: ScriptedServer, remote: RemoteMaker
) -> None:
    descriptor = layer()
    path = blob_path(descriptor)
    challenge = Answer(401, headers={"WWW-Authenticate": "Basic realm=x"})
    server.once(
        "GET", path, challenge, Answer(307, headers={"Location": f"{other.url}/store?X-Amz-Signature=s3"})
    )
    other.once("GET", "/store", ranges(BLOB))
    assert read(remote(username="me", password="hush"), descriptor, 10) == BLOB[10:]
    assert server.seen[1].authorization.startswith("Basic ")
    assert other.seen[0].authorization == ""
    assert other.seen[0].headers["range"] == "bytes=10-"


def test_redirects_on_the_same_host_keep_credentials(server: ScriptedServer, remote: RemoteMaker) -> None:
    challenge = Answer(401, headers={"WWW-Authenticate": "Basic realm=x"})
    server.once("HEAD", TAG, challenge, Answer(301, headers={"Location": "/elsewhere"}))
    server.once("HEAD", "/elsewhere", Answer(200, MANIFEST, HEADERS))
    remote(username="me", password="hush").resolve()
    assert server.seen[2].authorization.startswith("Basic ")


def test_redirect_loops_end(server: ScriptedServer, remote: RemoteMaker) -> None:
    server.always("HEAD", TAG, Answer(302, headers={"Location": TAG}))
    with pytest.raises(RegistryError, match="stopped after 10 redirects"):
        remote().resolve()
    assert len(server.seen) == 11


@pytest.mark.parametrize(
    "location", ["file:///etc/passwd", "ftp://x/y", "http://", "//", "http://[", "http://a b/"]
)
def test_invalid_redirects(server: ScriptedServer, remote: RemoteMaker, location: str) -> None:
    server.always("HEAD", TAG, Answer(302, headers={"Location": location}))
    with pytest.raises(RegistryError):
        remote().resolve()


# --- TLS and what cannot be reached -----------------------------------------------------------------------


@pytest.fixture
def tls_server(tmp_path: Path) -> tuple[trustme.CA, ssl.SSLContext]:
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    return authority, context


def test_tls_of_a_private_ca(
    tls_server: tuple[trustme.CA, ssl.SSLContext], remote: RemoteMaker, tmp_path: Path
) -> None:
    authority, context = tls_server
    authority.configure_trust(context)
    context.verify_mode = ssl.CERT_REQUIRED  # the client must send a certificate, too
    with ScriptedServer(context) as running:
        running.always("HEAD", TAG, Answer(200, MANIFEST, HEADERS))
        directory = tmp_path / running.host
        directory.mkdir()
        authority.cert_pem.write_to_path(directory / "ca.crt")
        mine = authority.issue_cert("client.example")
        mine.private_key_pem.write_to_path(directory / "client.key")
        mine.cert_chain_pems[0].write_to_path(directory / "client.cert")
        text = f"{running.host}/team/app:v1"
        assert remote(text, hosts_dir=tmp_path).resolve().digest == DIGEST


def test_tls_of_an_unknown_ca(
    tls_server: tuple[trustme.CA, ssl.SSLContext], remote: RemoteMaker, tmp_path: Path, pauses: list[float]
) -> None:
    with ScriptedServer(tls_server[1]) as running:
        running.always("HEAD", TAG, Answer(200, MANIFEST, HEADERS))
        directory = tmp_path / "_default"
        directory.mkdir()
        (directory / "hosts.toml").write_text(f'server = "{running.url}"')
        text = f"{running.host}/team/app:v1"
        with pytest.raises(RegistryUnreachable, match="certificate signed by unknown authority") as caught:
            remote(text, hosts_dir=tmp_path).resolve()
        assert "`hosts_dir`" in str(caught.value.hint)
        assert pauses == []
        assert remote(text, hosts_dir=tmp_path, skip_verify=True).resolve().digest == DIGEST
        assert remote(text, skip_verify=True).resolve().digest == DIGEST


def test_skip_verify_does_not_break_a_plain_registry(server: ScriptedServer, remote: RemoteMaker) -> None:
    server.once("HEAD", TAG, Answer(200, MANIFEST, HEADERS))
    assert remote(skip_verify=True).resolve().digest == DIGEST


def test_https_to_a_plain_server(server: ScriptedServer, remote: RemoteMaker, tmp_path: Path) -> None:
    directory = tmp_path / "_default"
    directory.mkdir()
    (directory / "hosts.toml").write_text(f'server = "https://{server.host}"')
    with pytest.raises(RegistryUnreachable, match="server gave HTTP response to HTTPS client") as caught:
        remote(hosts_dir=tmp_path).resolve()
    assert "`plain_http`" in str(caught.value.hint)


class _TlsServer(socketserver.BaseRequestHandler):
    """Answers plain HTTP like a TLS server: Go's with a text, others with an alert."""

    answer: bytes

    def handle(self) -> None:
        self.request.recv(1 << 16)
        self.request.sendall(self.answer)


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.0 400 Bad Request\r\n\r\nClient sent an HTTP request to an HTTPS server.\n",
        b"\x15\x03\x01\x00\x02\x02\x46",
    ],
    ids=["words", "alert"],
)
@pytest.mark.parametrize(
    ("flag", "hosts_toml", "hint"),
    [
        (
            False,
            "",
            "A registry on this machine is asked over plain HTTP unless its CA is in /etc/containerd/",
        ),
        (True, "", "Do not use `plain_http` for it."),
        (False, 'server = "http://{host}"', "Write https:// in {folder}/{host}/hosts.toml:1."),
    ],
    ids=["default", "flag", "hosts.toml"],
)
def test_the_hint_for_plain_http_to_a_tls_server_names_the_setting(
    remote: RemoteMaker, tmp_path: Path, *, flag: bool, hosts_toml: str, hint: str, answer: bytes
) -> None:
    handler = type("Handler", (_TlsServer,), {"answer": answer})
    with socketserver.TCPServer(("127.0.0.1", 0), handler) as listening:
        threading.Thread(target=listening.serve_forever, args=(0.01,), daemon=True).start()
        host = f"127.0.0.1:{listening.server_address[1]}"
        (tmp_path / host).mkdir()
        if hosts_toml:
            (tmp_path / host / "hosts.toml").write_text(hosts_toml.format(host=host))
        with pytest.raises(RegistryError) as caught:
            remote(f"{host}/team/app:v1", plain_http=flag, hosts_dir=tmp_path).resolve()
        listening.shutdown()
    assert str(caught.value.hint).startswith(hint.format(folder=tmp_path, host=host))


def test_redirect_from_https_to_http(
    tls_server: tuple[trustme.CA, ssl.SSLContext], server: ScriptedServer, remote: RemoteMaker
) -> None:
    with ScriptedServer(tls_server[1]) as running:
        running.once("HEAD", TAG, Answer(302, headers={"Location": f"{server.url}/x?sig=topsecret"}))
        with pytest.raises(RegistryError, match="from https down to http"):
            remote(f"{running.host}/team/app:v1", skip_verify=True).resolve()
    assert server.seen == []


def test_connection_refused(remote: RemoteMaker, pauses: list[float]) -> None:
    with pytest.raises(RegistryUnreachable, match=r"127\.0\.0\.1:1: connection refused") as caught:
        remote("127.0.0.1:1/team/app:v1").resolve()
    assert len(pauses) == 4
    assert caught.value.exit_code == 5


def test_no_such_name(remote: RemoteMaker) -> None:
    with pytest.raises(RegistryUnreachable, match="no such host"):
        remote("registry.invalid/team/app:v1", plain_http=True).resolve()


def test_a_silent_server(server: ScriptedServer, remote: RemoteMaker) -> None:
    descriptor = layer()
    stuck = Answer(200, BLOB[:1000], length=len(BLOB))
    server.once("GET", blob_path(descriptor), stuck, ranges(BLOB))
    assert read(remote(stall_timeout=0.2), descriptor) == BLOB
    assert server.seen[1].headers["range"] == "bytes=1000-"


@pytest.mark.parametrize(
    ("login", "sent"),
    [
        ("me:p%40ss%3A%25%2F", b"me:p@ss:%/"),
        ("m%C3%A9:gr%c3%bc%c3%9fe", "mé:grüße".encode()),
        ("m\u00e9:pass", "mé:pass".encode()),
        ("me:%ff", b"me:\xff"),
        ("me:\udcff", b"me:\xff"),
        ("me", b"me:"),
        (":pass", b":pass"),
        ("me:100%", b"me:100%"),
    ],
)
def test_the_login_of_a_proxy_is_decoded(
    server: ScriptedServer, remote: RemoteMaker, monkeypatch: pytest.MonkeyPatch, login: str, sent: bytes
) -> None:
    monkeypatch.setenv("HTTP_PROXY", f"http://{login}@{server.host}")
    server.once("HEAD", f"http://registry.invalid{TAG}", Answer(407))
    with pytest.raises(RegistryError, match="407"):
        remote("registry.invalid/team/app:v1", plain_http=True).resolve()
    expected = base64.b64encode(sent).decode()
    assert server.seen[0].headers["proxy-authorization"] == f"Basic {expected}"


def test_proxy(server: ScriptedServer, remote: RemoteMaker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", f"http://me:proxysecret@{server.host}")
    server.once("HEAD", f"http://registry.invalid{TAG}", Answer(200, MANIFEST, HEADERS))
    assert remote("registry.invalid/team/app:v1", plain_http=True).resolve().digest == DIGEST
    assert server.seen[0].headers["proxy-authorization"].startswith("Basic ")

    monkeypatch.setenv("HTTP_PROXY", "http://me:proxysecret@127.0.0.1:1")
    with pytest.raises(RegistryUnreachable, match=r"through proxy http://127.0.0.1:1\)") as caught:
        remote("registry.invalid/team/app:v1", plain_http=True).resolve()
    assert "proxysecret" not in str(caught.value)

"""resolve and fetch against a scripted server: what a registry may do, and what it must not get away with."""

from __future__ import annotations

import hashlib
import itertools
import resource
import ssl
from pathlib import Path

import pytest
import trustme

from pyctrd import mediatypes
from pyctrd.errors import (
    AuthenticationFailed,
    NotFound,
    RegistryContentError,
    RegistryError,
    RegistryUnreachable,
)
from pyctrd.model import MAX_MANIFEST_BYTES, Descriptor, Digest
from pyctrd.registry.remote import ACCEPT, RegistryRemote
from tests.registry.conftest import RemoteMaker
from tests.registry.server import Answer, ScriptedServer, ranges

MANIFEST = b'{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[]}'
DIGEST = Digest.of(MANIFEST)
TAG = "/v2/team/app/manifests/v1"
HEADERS = {"Content-Type": f"{mediatypes.OCI_INDEX}; charset=utf-8", "Docker-Content-Digest": DIGEST}
BLOB = bytes(itertools.islice(itertools.cycle(range(251)), 3_000_000))


def layer(data: bytes = BLOB, **fields: object) -> Descriptor:
    return Descriptor(
        **{  # type: ignore[arg-type]
            "media_type": mediatypes.OCI_LAYER_GZIP,
            "digest": Digest.of(data),
            "size": len(data),
            **fields,
        }
    )


def drain(remote: RegistryRemote, descriptor: Descriptor, received: list[int]) -> None:
    """Fetch without keeping; the lengths of what came are in `received`, also after an error."""
    with remote.fetch(descriptor) as chunks:
        received.extend(map(len, chunks))


def blob_path(descriptor: Descriptor, kind: str = "blobs") -> str:
    return f"/v2/team/app/{kind}/{descriptor.digest}"


def read(remote: RegistryRemote, descriptor: Descriptor, offset: int = 0) -> bytes:
    with remote.fetch(descriptor, offset) as chunks:
        return b"".join(chunks)


# --- resolve ----------------------------------------------------------------------------------------------


def test_head_tells_everything(server: ScriptedServer, remote: RemoteMaker) -> None:
    server.once("HEAD", TAG, Answer(200, MANIFEST, HEADERS))
    found = remote().resolve()
    assert (found.media_type, found.digest, found.size) == (mediatypes.OCI_INDEX, DIGEST, len(MANIFEST))
    (seen,) = server.seen
    assert seen.headers["accept"] == ACCEPT
    assert seen.headers["user-agent"].startswith("pyctrd/")
    assert seen.headers["accept-encoding"] == "identity"
    assert seen.authorization == ""


@pytest.mark.parametrize(
    "head",
    [
        Answer(405),
        Answer(403),
        Answer(200, MANIFEST, {"Content-Type": mediatypes.OCI_INDEX}),
        Answer(200, MANIFEST, {**HEADERS, "Content-Type": "application/json"}),
        Answer(200, MANIFEST, HEADERS, chunked=True),
    ],
    ids=["405", "403", "no digest", "vague type", "no length"],
)
def test_get_where_head_is_not_enough(server: ScriptedServer, remote: RemoteMaker, head: Answer) -> None:
    server.once("HEAD", TAG, head)
    server.once(
        "GET", TAG, Answer(200, MANIFEST, dict(head.headers) or {"Content-Type": mediatypes.OCI_INDEX})
    )
    found = remote().resolve()
    assert (found.media_type, found.digest, found.size) == (mediatypes.OCI_INDEX, DIGEST, len(MANIFEST))
    assert server.requests() == [f"HEAD {TAG}", f"GET {TAG}"]


def test_unknown_reference(server: ScriptedServer, remote: RemoteMaker) -> None:
    server.once("HEAD", TAG, Answer(404))
    with pytest.raises(NotFound) as caught:
        remote().resolve()
    name = f"{server.host}/team/app:v1"
    assert str(caught.value) == f'failed to resolve reference "{name}": {name}: not found'
    assert caught.value.exit_code == 3
    assert caught.value.kind == "image"


def test_digest_wins_over_tag_and_must_be_served(server: ScriptedServer, remote: RemoteMaker) -> None:
    path = f"/v2/team/app/manifests/{DIGEST}"
    server.once("HEAD", path, Answer(200, MANIFEST, HEADERS))
    text = f"{server.host}/team/app:v1@{DIGEST}"
    assert remote(text).resolve().digest == DIGEST

    lie = {**HEADERS, "Docker-Content-Digest": Digest.of(b"other")}
    server.once("HEAD", path, Answer(200, MANIFEST, lie))
    with pytest.raises(RegistryContentError, match="was asked for"):
        remote(text).resolve()

    server.once("HEAD", path, Answer(405))
    server.once("GET", path, Answer(200, MANIFEST + b" ", {"Content-Type": mediatypes.OCI_INDEX}))
    with pytest.raises(RegistryContentError, match="was asked for"):
        remote(text).resolve()


def test_sha512_reference_is_hashed_where_the_registry_says_sha256(
    server: ScriptedServer, remote: RemoteMaker
) -> None:
    wanted = Digest.of(MANIFEST, "sha512")
    path = f"/v2/team/app/manifests/{wanted}"
    server.once("HEAD", path, Answer(200, MANIFEST, HEADERS))
    server.once("GET", path, Answer(200, MANIFEST, HEADERS))
    assert remote(f"{server.host}/team/app@{wanted}").resolve().digest == wanted


@pytest.mark.parametrize(
    ("head", "get", "message"),
    [
        (Answer(200, b"x", {"Content-Type": "text/html"}), None, "HTML page"),
        (Answer(405), Answer(200, b"<html>", {"Content-Type": "text/html; charset=x"}), "HTML page"),
        (Answer(200, b"", HEADERS, length=MAX_MANIFEST_BYTES + 1), None, "rejecting 4393217 byte manifest"),
        (
            Answer(405),
            Answer(200, b" " * 99999, HEADERS, endless=True),
            f"more than {MAX_MANIFEST_BYTES} bytes",
        ),
        (
            Answer(200, b"x", {**HEADERS, "Docker-Content-Digest": "md5:x"}),
            None,
            "unsupported digest algorithm",
        ),
        (Answer(405), Answer(200, b"other", HEADERS), "but sent sha256:"),
        (
            Answer(405),
            Answer(200, MANIFEST, {**HEADERS, "Content-Encoding": "gzip"}),
            "Content-Encoding 'gzip'",
        ),
    ],
)
def test_refused_manifests(
    server: ScriptedServer, remote: RemoteMaker, head: Answer, get: Answer | None, message: str
) -> None:
    server.once("HEAD", TAG, head)
    if get:
        server.once("GET", TAG, get)
    with pytest.raises(RegistryContentError, match=message) as caught:
        remote().resolve()
    assert caught.value.exit_code == 5
    assert caught.value.host == server.host
    assert caught.value.repository == "team/app"
    assert f'failed to resolve reference "{server.host}/team/app:v1"' in str(caught.value)


def test_the_registrys_own_words_are_in_the_error(server: ScriptedServer, remote: RemoteMaker) -> None:
    body = b'{"errors":[{"code":"DENIED","message":"not for\\u001b you"}]}'
    server.once("HEAD", TAG, Answer(403))
    server.once("GET", TAG, Answer(403, body))
    with pytest.raises(AuthenticationFailed, match="DENIED: not for  you") as caught:
        remote().resolve()
    assert "pull access denied" in str(caught.value)
    assert caught.value.hint


# --- retries ----------------------------------------------------------------------------------------------


def test_retries_with_retry_after(server: ScriptedServer, remote: RemoteMaker, pauses: list[float]) -> None:
    good = Answer(200, MANIFEST, HEADERS)
    server.once("HEAD", TAG, Answer(429, headers={"Retry-After": "7"}), Answer(503), Answer(500), good)
    assert remote().resolve().digest == DIGEST
    assert pauses[0] == 7
    assert 0.5 <= pauses[1] <= 1
    assert 1 <= pauses[2] <= 2


def test_retries_end(server: ScriptedServer, remote: RemoteMaker, pauses: list[float]) -> None:
    server.once("HEAD", TAG, *[Answer(503)] * 5)
    with pytest.raises(RegistryError, match="unexpected status 503") as caught:
        remote().resolve()
    assert caught.value.status == 503
    assert len(pauses) == 4


def test_a_wait_beyond_the_budget_is_not_begun(
    server: ScriptedServer, remote: RemoteMaker, pauses: list[float]
) -> None:
    server.once("HEAD", TAG, Answer(429, headers={"Retry-After": "3600"}))
    with pytest.raises(RegistryError, match="unexpected status 429"):
        remote().resolve()
    assert pauses == []


def test_reset_connections_are_retried(server: ScriptedServer, remote: RemoteMaker) -> None:
    server.once("HEAD", TAG, Answer(hang_up=True), Answer(hang_up=True), Answer(200, MANIFEST, HEADERS))
    assert remote().resolve().digest == DIGEST


def test_connections_are_kept(server: ScriptedServer, remote: RemoteMaker) -> None:
    server.always("HEAD", TAG, Answer(200, MANIFEST, HEADERS))
    descriptor = layer()
    server.always("GET", blob_path(descriptor), ranges(BLOB))
    one = remote()
    for _ in range(3):
        one.resolve()
        assert read(one, descriptor) == BLOB
    assert server.connections == 1


# --- fetch ------------------------------------------------------------------------------------------------


def test_fetch_gives_the_bytes_in_chunks(server: ScriptedServer, remote: RemoteMaker) -> None:
    descriptor = layer()
    server.once("GET", blob_path(descriptor), ranges(BLOB))
    with remote().fetch(descriptor) as chunks:
        received = list(chunks)
    assert b"".join(received) == BLOB
    assert max(map(len, received)) <= 1 << 20
    assert "range" not in server.seen[0].headers
    assert server.seen[0].headers["accept"] == f"{mediatypes.OCI_LAYER_GZIP}, */*"


@pytest.mark.parametrize("media_type", [mediatypes.OCI_INDEX, mediatypes.DOCKER_MANIFEST])
def test_manifests_come_from_manifests(server: ScriptedServer, remote: RemoteMaker, media_type: str) -> None:
    descriptor = layer(MANIFEST, media_type=media_type)
    server.once("GET", blob_path(descriptor, "manifests"), Answer(200, MANIFEST))
    assert read(remote(), descriptor) == MANIFEST


def test_fetch_from_an_offset(server: ScriptedServer, remote: RemoteMaker) -> None:
    descriptor = layer()
    server.once("GET", blob_path(descriptor), ranges(BLOB))
    assert read(remote(), descriptor, 2_000_000) == BLOB[2_000_000:]
    assert server.seen[0].headers["range"] == "bytes=2000000-"


def test_a_server_that_ignores_range(server: ScriptedServer, remote: RemoteMaker) -> None:
    descriptor = layer()
    server.once("GET", blob_path(descriptor), Answer(200, BLOB))
    assert read(remote(), descriptor, 2_000_001) == BLOB[2_000_001:]


def test_nothing_is_asked_for_where_nothing_is_missing(server: ScriptedServer, remote: RemoteMaker) -> None:
    assert read(remote(), layer(), len(BLOB)) == b""
    assert read(remote(), layer(b"")) == b""
    assert server.seen == []


@pytest.mark.parametrize("cut", [0, 1, 700_000, 1_500_000, 2_999_999])
def test_a_cut_connection_goes_on_where_it_was(server: ScriptedServer, remote: RemoteMaker, cut: int) -> None:
    descriptor = layer()
    server.once("GET", blob_path(descriptor), ranges(BLOB, cut_after=cut), ranges(BLOB))
    assert read(remote(), descriptor) == BLOB
    assert server.seen[1].headers.get("range", "") == (f"bytes={cut}-" if cut else "")


def test_progress_resets_patience(server: ScriptedServer, remote: RemoteMaker) -> None:
    descriptor = layer()
    server.always("GET", blob_path(descriptor), ranges(BLOB, cut_after=200_000))
    assert read(remote(), descriptor) == BLOB
    assert len(server.seen) == 15


def test_three_times_without_progress_is_the_end(server: ScriptedServer, remote: RemoteMaker) -> None:
    descriptor = layer()
    path = blob_path(descriptor)
    server.once("GET", path, ranges(BLOB, cut_after=1000), *[ranges(BLOB, cut_after=0)] * 3)
    with pytest.raises(
        RegistryContentError, match="short read: expected 3000000 bytes but got 1000"
    ) as caught:
        read(remote(), descriptor)
    assert caught.value.repository == "team/app"
    assert str(descriptor.digest) in str(caught.value)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (Answer(200, BLOB[:-1]), "short read: expected 3000000 bytes but got 2999999"),
        (Answer(200, BLOB + b"x"), "has 3000001 bytes, expected 3000000"),
        (Answer(200, BLOB + b"x", chunked=True), "more than the expected 3000000 bytes"),
        (Answer(200, BLOB, endless=True), "more than the expected 3000000 bytes"),
        (Answer(200, BLOB, {"Content-Encoding": "gzip"}), "Content-Encoding 'gzip'"),
        (Answer(200, b"<html>", {"Content-Type": "text/html"}), "HTML page"),
        (Answer(204), "unexpected status 204"),
        (Answer(403), "pull access denied"),
    ],
)
def test_content_that_is_not_as_promised(
    server: ScriptedServer, remote: RemoteMaker, answer: Answer, message: str
) -> None:
    descriptor = layer()
    server.once("GET", blob_path(descriptor), answer)
    received: list[int] = []
    with pytest.raises(RegistryError, match=message) as caught:
        drain(remote(), descriptor, received)
    assert sum(received) <= descriptor.size
    assert caught.value.exit_code == 5


def test_a_short_body_without_length(server: ScriptedServer, remote: RemoteMaker) -> None:
    descriptor = layer()
    no_more = Answer(416)
    server.once("GET", blob_path(descriptor), Answer(200, BLOB[:500], chunked=True), no_more)
    with pytest.raises(RegistryContentError, match="short read: expected 3000000 bytes but got 500"):
        read(remote(), descriptor)


@pytest.mark.parametrize("text", ["bytes 6-2999999/3000000", "bytes 5-9/10", "items 5-", "bytes 5-2999999/x"])
def test_another_range_than_asked_for(server: ScriptedServer, remote: RemoteMaker, text: str) -> None:
    descriptor = layer()
    server.once("GET", blob_path(descriptor), Answer(206, BLOB[5:], {"Content-Range": text}))
    with pytest.raises(RegistryContentError, match="unhandled content range"):
        read(remote(), descriptor, 5)


def test_missing_content(server: ScriptedServer, remote: RemoteMaker) -> None:
    descriptor = layer()
    server.once("GET", blob_path(descriptor), Answer(404))
    with pytest.raises(RegistryError) as caught, remote().fetch(descriptor):
        pass
    assert str(caught.value) == (
        f"could not fetch content descriptor {descriptor.digest} ({descriptor.media_type})"
        " from remote: not found"
    )
    assert (caught.value.status, caught.value.host) == (404, server.host)


def test_leaving_early_drops_the_connection(server: ScriptedServer, remote: RemoteMaker) -> None:
    descriptor = layer()
    server.always("GET", blob_path(descriptor), ranges(BLOB))
    one = remote()
    with one.fetch(descriptor) as chunks:
        next(iter(chunks))
    assert read(one, descriptor) == BLOB
    assert server.connections == 2


def test_foreign_layers_come_from_their_own_url(
    server: ScriptedServer, other: ScriptedServer, remote: RemoteMaker
) -> None:
    foreign = f"{mediatypes.DOCKER_FOREIGN}.gzip"
    descriptor = layer(media_type=foreign, urls=("ftp://x/y", f"{other.url}/gone", f"{other.url}/here"))
    other.once("GET", "/gone", Answer(404))
    other.once("GET", "/here", ranges(BLOB))
    assert read(remote(username="me", password="hush"), descriptor) == BLOB
    assert [seen.authorization for seen in other.seen] == ["", ""]
    assert server.seen == []


def test_foreign_layers_may_be_in_the_registry(
    server: ScriptedServer, other: ScriptedServer, remote: RemoteMaker
) -> None:
    descriptor = layer(media_type=mediatypes.DOCKER_FOREIGN, urls=(f"{other.url}/gone",))
    other.once("GET", "/gone", Answer(404))
    server.once("GET", blob_path(descriptor), ranges(BLOB))
    assert read(remote(), descriptor) == BLOB


def test_memory_stays_bounded(server: ScriptedServer, remote: RemoteMaker) -> None:
    block = bytes(1 << 20)
    size = 256 << 20
    digest = hashlib.sha256()
    for _ in range(size >> 20):
        digest.update(block)
    descriptor = layer(b"", digest=Digest(f"sha256:{digest.hexdigest()}"), size=size)
    server.once("GET", blob_path(descriptor), Answer(200, block, endless=True))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    received: list[int] = []
    with pytest.raises(RegistryContentError, match="more than the expected"):
        drain(remote(), descriptor, received)
    assert size - (1 << 20) < sum(received) <= size
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 16 << 10


# --- hosts ------------------------------------------------------------------------------------------------


def mirror_config(folder: Path, server: ScriptedServer, other: ScriptedServer, extra: str = "") -> Path:
    directory = folder / "_default"
    directory.mkdir(parents=True)
    (directory / "hosts.toml").write_text(f'server = "{server.url}"\n[host."{other.url}"]\n{extra}')
    return folder


def test_a_mirror_is_asked_first_and_the_server_next(
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


def test_redirects_on_the_same_host_keep_them(server: ScriptedServer, remote: RemoteMaker) -> None:
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
def test_redirects_to_nowhere(server: ScriptedServer, remote: RemoteMaker, location: str) -> None:
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
    context.verify_mode = ssl.CERT_REQUIRED  # the client must show a certificate as well
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
        assert "--hosts-dir" in str(caught.value.hint)
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
    assert "--plain-http" in str(caught.value.hint)


def test_redirect_from_https_to_http(
    tls_server: tuple[trustme.CA, ssl.SSLContext], server: ScriptedServer, remote: RemoteMaker
) -> None:
    with ScriptedServer(tls_server[1]) as running:
        running.once("HEAD", TAG, Answer(302, headers={"Location": f"{server.url}/x?sig=topsecret"}))
        with pytest.raises(RegistryError, match="from https down to http"):
            remote(f"{running.host}/team/app:v1", skip_verify=True).resolve()
    assert server.seen == []


def test_nobody_listens(remote: RemoteMaker, pauses: list[float]) -> None:
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
    assert read(remote(read_timeout=0.2), descriptor) == BLOB
    assert server.seen[1].headers["range"] == "bytes=1000-"


def test_proxy(server: ScriptedServer, remote: RemoteMaker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", f"http://me:proxysecret@{server.host}")
    server.once("HEAD", f"http://registry.invalid{TAG}", Answer(200, MANIFEST, HEADERS))
    assert remote("registry.invalid/team/app:v1", plain_http=True).resolve().digest == DIGEST
    assert server.seen[0].headers["proxy-authorization"].startswith("Basic ")

    monkeypatch.setenv("HTTP_PROXY", "http://me:proxysecret@127.0.0.1:1")
    with pytest.raises(RegistryUnreachable, match=r"through proxy http://127.0.0.1:1\)") as caught:
        remote("registry.invalid/team/app:v1", plain_http=True).resolve()
    assert "proxysecret" not in str(caught.value)

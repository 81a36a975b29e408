"""fetch from a scripted server: valid responses, and those that are refused."""

from __future__ import annotations

import hashlib
import resource
import time

import pytest

from pyctrd.errors import (
    NotFound,
    RegistryContentError,
    RegistryError,
)
from pyctrd.oci import mediatypes
from pyctrd.oci.model import Digest
from tests.registry.conftest import RemoteMaker
from tests.registry.samples import (
    BLOB,
    MANIFEST,
    TAG,
    blob_path,
    drain,
    layer,
    read,
)
from tests.registry.server import Answer, ScriptedServer, Seen, ranges

# --- fetch ------------------------------------------------------------------------------------------------


def test_fetch_yields_the_bytes_in_chunks(server: ScriptedServer, remote: RemoteMaker) -> None:
    descriptor = layer()
    server.once("GET", blob_path(descriptor), ranges(BLOB))
    with remote().fetch(descriptor) as chunks:
        received = list(chunks)
    assert b"".join(received) == BLOB
    assert max(map(len, received)) <= 1 << 20
    assert "range" not in server.seen[0].headers
    assert server.seen[0].headers["accept"] == f"{mediatypes.OCI_LAYER_GZIP}, */*"


@pytest.mark.parametrize("media_type", [mediatypes.OCI_INDEX, mediatypes.DOCKER_MANIFEST])
def test_manifests_are_requested_as_manifests(
    server: ScriptedServer, remote: RemoteMaker, media_type: str
) -> None:
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


def test_no_request_if_nothing_is_missing(server: ScriptedServer, remote: RemoteMaker) -> None:
    assert read(remote(), layer(), len(BLOB)) == b""
    assert read(remote(), layer(b"")) == b""
    assert server.seen == []


@pytest.mark.parametrize("cut", [0, 1, 700_000, 1_500_000, 2_999_999])
def test_a_cut_download_is_resumed(server: ScriptedServer, remote: RemoteMaker, cut: int) -> None:
    descriptor = layer()
    server.once("GET", blob_path(descriptor), ranges(BLOB, cut_after=cut), ranges(BLOB))
    assert read(remote(), descriptor) == BLOB
    assert server.seen[1].headers.get("range", "") == (f"bytes={cut}-" if cut else "")


def test_progress_resets_the_count_of_failures(server: ScriptedServer, remote: RemoteMaker) -> None:
    descriptor = layer()
    server.always("GET", blob_path(descriptor), ranges(BLOB, cut_after=200_000))
    assert read(remote(), descriptor) == BLOB
    assert len(server.seen) == 15


def test_three_connections_without_progress_are_an_error(server: ScriptedServer, remote: RemoteMaker) -> None:
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
def test_content_that_does_not_match_the_descriptor(
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
def test_another_range_than_requested(server: ScriptedServer, remote: RemoteMaker, text: str) -> None:
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


def test_leaving_early_closes_the_connection(server: ScriptedServer, remote: RemoteMaker) -> None:
    descriptor = layer()
    server.always("GET", blob_path(descriptor), ranges(BLOB))
    one = remote()
    with one.fetch(descriptor) as chunks:
        next(iter(chunks))
    assert read(one, descriptor) == BLOB
    assert server.connections == 2


def test_foreign_layers_are_fetched_from_their_own_url(
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


@pytest.mark.parametrize("media_type", [mediatypes.DOCKER_FOREIGN, mediatypes.OCI_LAYER_GZIP])
def test_only_a_few_urls_of_a_manifest_are_requested(
    server: ScriptedServer, other: ScriptedServer, remote: RemoteMaker, media_type: str
) -> None:
    urls = tuple(f"{other.url}/{number}" for number in range(5000))
    descriptor = layer(media_type=media_type, urls=urls)
    with pytest.raises(RegistryError, match="not found"):
        read(remote(), descriptor)
    assert other.requests() == [f"GET /{number}" for number in range(8)]
    assert server.requests() == [f"GET {blob_path(descriptor)}"]


def test_urls_are_not_requested_when_the_budget_is_used_up(
    server: ScriptedServer, other: ScriptedServer, remote: RemoteMaker
) -> None:
    descriptor = layer(media_type=mediatypes.DOCKER_FOREIGN, urls=(f"{other.url}/a", f"{other.url}/b"))
    one = remote(stall_timeout=2, retry_budget=0.1)

    def late(_seen: Seen) -> Answer:
        time.sleep(1.5)
        return Answer(404)

    server.once("HEAD", TAG, late)
    with pytest.raises(NotFound):
        one.resolve()
    message = f"{other.host}/team/app: not asked, the retry budget is used up"
    with pytest.raises(RegistryError, match=message) as caught:
        read(one, descriptor)
    assert "`retry_budget`" in (caught.value.hint or "")
    server.once("GET", blob_path(descriptor), ranges(BLOB))
    assert read(one, descriptor) == BLOB
    assert other.seen == []


def test_a_media_type_of_other_letters_is_sent_as_utf8(server: ScriptedServer, remote: RemoteMaker) -> None:
    descriptor = layer(media_type="application/\u65e5\xe9")
    server.once("GET", blob_path(descriptor), ranges(BLOB))
    assert read(remote(), descriptor) == BLOB
    sent = server.seen[0].headers["accept"].encode("latin-1").decode()
    assert sent == "application/\u65e5\xe9, */*"


def test_a_media_type_cannot_add_a_header(server: ScriptedServer, remote: RemoteMaker) -> None:
    with pytest.raises(RegistryError, match="Accept cannot be sent in a header"):
        read(remote(), layer(media_type="a\r\nX-Evil: 1"))
    assert server.seen == []

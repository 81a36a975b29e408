"""Uploads to a scripted registry, for what real ones do not do on demand (see integration/test_push.py)."""

from __future__ import annotations

import base64
import json
import random
import ssl
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import pytest
import trustme
from hypothesis import given
from hypothesis import strategies as st

from pyctrd.errors import (
    AuthenticationFailed,
    ContentError,
    PyctrdError,
    RegistryContentError,
    RegistryError,
    RegistryUnreachable,
)
from pyctrd.oci import mediatypes, reference
from pyctrd.oci.model import Descriptor, Digest
from pyctrd.registry import RegistryClient, RegistryOptions
from pyctrd.registry.http.request_body import BlobReader
from pyctrd.registry.http.retry import MAX_FRUITLESS_UPLOADS
from pyctrd.registry.upload import RegistryUploader
from pyctrd.registry.upload_session import UploadSession
from tests.registry.samples import MANIFEST
from tests.registry.server import Answer, ScriptedServer, Seen

DATA = bytes(range(256)) * 4000  # 1,024,000 bytes
START, SESSION, BLOBS = "/v2/team/app/blobs/uploads/", "/v2/team/app/blobs/uploads/1", "/v2/team/app/blobs"
OPENED = Answer(202, headers={"Location": f"{SESSION}?_state=a"})


class Source:
    """A blob in memory as ports.BlobSource, which records where it was opened."""

    def __init__(self, data: bytes = DATA, error: Exception | None = None) -> None:
        self.data = data
        self.error = error
        self.opened: list[int] = []

    def open(self, offset: int) -> AbstractContextManager[Iterator[bytes]]:
        self.opened.append(offset)
        return nullcontext(self._chunks(offset))

    def _chunks(self, offset: int) -> Iterator[bytes]:
        for start in range(offset, len(self.data), 300_000):
            yield self.data[start : start + 300_000]
            if self.error:
                raise self.error

    def wrong(self, text: str) -> PyctrdError:
        return ContentError(f"{text}: damaged")


def blob(data: bytes = DATA) -> Descriptor:
    return Descriptor(media_type=mediatypes.OCI_LAYER_GZIP, digest=Digest.of(data), size=len(data))


class Registry:
    """Answers like a registry with chunked uploads; `taken` is what it has of the blob."""

    def __init__(self) -> None:
        self.taken = b""
        self.state = 0

    def location(self) -> dict[str, str]:
        self.state += 1
        return {"Location": f"{SESSION}?_state={self.state}", "Range": f"0-{max(len(self.taken) - 1, 0)}"}

    def start(self, _seen: Seen) -> Answer:
        self.taken = b""
        return Answer(202, headers=self.location())

    def patch(self, seen: Seen) -> Answer:
        start, _, end = seen.headers["content-range"].partition("-")
        if int(start) != len(self.taken):
            return Answer(416, headers=self.location())
        assert int(end) - int(start) + 1 == len(seen.body)
        self.taken += seen.body
        return Answer(202, headers=self.location())

    def where(self, _seen: Seen) -> Answer:
        return Answer(204, headers=self.location())

    def finish(self, seen: Seen) -> Answer:
        self.taken += seen.body
        right = Digest.of(self.taken) in seen.path.replace("%3A", ":")
        return Answer(201 if right else 400, headers={"Docker-Content-Digest": Digest.of(self.taken)})


@pytest.fixture
def registry(server: ScriptedServer) -> Registry:
    found = Registry()
    server.always("POST", START, found.start)
    server.always("PATCH", SESSION, found.patch)
    server.always("GET", SESSION, found.where)
    server.always("PUT", SESSION, found.finish)
    server.always("DELETE", SESSION, Answer(204))
    return found


UploaderMaker = Callable[..., RegistryUploader]


@pytest.fixture
def uploader(server: ScriptedServer, pauses: list[float]) -> Iterator[UploaderMaker]:
    """Make the uploader of `host/team/app:v1`; keywords are RegistryOptions."""
    clients: list[RegistryClient] = []

    def make(text: str = "", *, chunk_bytes: int = 400_000, **options: Any) -> RegistryUploader:
        client = RegistryClient(RegistryOptions(**options), sleep=pauses.append)
        clients.append(client)
        wanted = reference.parse(text or f"{server.host}/team/app:v1")
        return client.uploader(wanted, chunk_bytes=chunk_bytes)

    yield make
    for client in clients:
        client.close()


def calls(server: ScriptedServer) -> list[str]:
    return [f"{one.method} {one.path.partition('?')[0].removeprefix(BLOBS)}" for one in server.seen]


# --- whole and in chunks ---------------------------------------------------------------------------------


@pytest.mark.parametrize("absolute", [False, True])
def test_a_small_blob_is_uploaded_whole(
    server: ScriptedServer, uploader: UploaderMaker, registry: Registry, absolute: bool
) -> None:
    place = f"{server.url if absolute else ''}{SESSION}?_state=x%2Fy&z=1"
    server.once("POST", START, Answer(202, headers={"Location": place}))
    sent: list[int] = []
    assert uploader(chunk_bytes=0).upload(blob(), Source(), report=sent.append) == "uploaded"
    assert calls(server) == ["POST /uploads/", "PUT /uploads/1"]
    query = server.seen[1].path.partition("?")[2]
    assert query == f"_state=x%2Fy&z=1&digest={blob().digest}".replace("sha256:", "sha256%3A")
    assert registry.taken == DATA
    assert server.seen[1].headers["content-length"] == str(len(DATA))
    assert sent[-1] == len(DATA)
    assert sent == sorted(sent)


def test_a_large_blob_is_uploaded_in_chunks(
    server: ScriptedServer, uploader: UploaderMaker, registry: Registry
) -> None:
    source = Source()
    uploader().upload(blob(), source)
    assert calls(server) == ["POST /uploads/", *["PATCH /uploads/1"] * 3, "PUT /uploads/1"]
    ranges = [one.headers["content-range"] for one in server.seen if one.method == "PATCH"]
    assert ranges == ["0-399999", "400000-799999", "800000-1023999"]
    assert registry.taken == DATA
    assert source.opened == [0], "read in one go"


def test_the_smallest_chunk_of_the_registry(
    server: ScriptedServer, uploader: UploaderMaker, registry: Registry
) -> None:
    headers = {"Location": SESSION, "OCI-Chunk-Min-Length": "600000"}
    server.once("POST", START, Answer(202, headers=headers))
    uploader().upload(blob(), Source())
    ranges = [one.headers["content-range"] for one in server.seen if one.method == "PATCH"]
    assert ranges == ["0-599999", "600000-1023999"]


def test_an_upload_begins_with_an_empty_post(
    server: ScriptedServer, uploader: UploaderMaker, registry: Registry
) -> None:
    """The spec requires `Content-Length: 0`, and the type and length of each part after it."""
    uploader().upload(blob(), Source())
    begun, *patches, finished = server.seen
    assert (begun.headers["content-length"], begun.body) == ("0", b"")
    for patch in patches:
        assert patch.headers["content-type"] == "application/octet-stream"
        assert patch.headers["content-length"] == str(len(patch.body))
    assert (finished.headers["content-length"], finished.body) == ("0", b"")


def test_an_empty_blob(server: ScriptedServer, uploader: UploaderMaker, registry: Registry) -> None:
    uploader().upload(blob(b""), Source(b""))
    assert calls(server) == ["POST /uploads/", "PUT /uploads/1"]


@pytest.mark.parametrize("status", [400, 404, 405, 415, 501])
def test_a_registry_without_chunks(
    server: ScriptedServer, uploader: UploaderMaker, registry: Registry, status: int
) -> None:
    server.once("PATCH", SESSION, Answer(status))
    uploader().upload(blob(), Source())
    assert calls(server) == [
        "POST /uploads/",
        "PATCH /uploads/1",
        "DELETE /uploads/1",
        "POST /uploads/",
        "PUT /uploads/1",
    ]
    assert registry.taken == DATA


# --- resuming --------------------------------------------------------------------------------------------


def test_an_upload_is_resumed_at_the_offset_of_the_registry(
    server: ScriptedServer, uploader: UploaderMaker, registry: Registry, pauses: list[float]
) -> None:
    def half(seen: Seen) -> Answer:
        registry.taken += seen.body[:123_456]
        return Answer(hang_up=True)

    server.once("PATCH", SESSION, registry.patch, half)
    source = Source()
    uploader().upload(blob(), source)
    assert registry.taken == DATA
    ranges = [one.headers["content-range"] for one in server.seen if one.method == "PATCH"]
    assert ranges == ["0-399999", "400000-799999", "523456-923455", "923456-1023999"]
    assert source.opened == [0, 523_456]
    assert len(pauses) == 1


def test_a_whole_upload_is_resumed_in_chunks(
    server: ScriptedServer, uploader: UploaderMaker, registry: Registry
) -> None:
    def half(seen: Seen) -> Answer:
        registry.taken += seen.body[:500_000]
        return Answer(hang_up=True)

    server.once("PUT", SESSION, half)
    uploader(chunk_bytes=4_000_000).upload(blob(), Source())
    assert registry.taken == DATA
    assert [one.headers["content-range"] for one in server.seen if one.method == "PATCH"] == [
        "500000-1023999"
    ]


def test_the_registry_takes_less_than_it_was_sent(
    server: ScriptedServer, uploader: UploaderMaker, registry: Registry
) -> None:
    def some(seen: Seen) -> Answer:
        registry.taken += seen.body[:70_000]
        return Answer(202, headers=registry.location())

    server.once("PATCH", SESSION, some)
    uploader().upload(blob(), Source())
    assert registry.taken == DATA
    assert [one.headers["content-range"] for one in server.seen if one.method == "PATCH"][1] == "70000-469999"


def test_after_416_the_offset_is_requested(
    server: ScriptedServer, uploader: UploaderMaker, registry: Registry
) -> None:
    def lost(seen: Seen) -> Answer:
        registry.taken += seen.body
        return Answer(500)  # it has the chunk, but we do not know that

    def astray(seen: Seen) -> Answer:
        return registry.patch(seen)

    server.once("PATCH", SESSION, lost, astray)
    server.once("GET", SESSION, Answer(503))
    uploader().upload(blob(), Source())
    assert registry.taken == DATA
    assert "GET /uploads/1" in calls(server)


@pytest.mark.parametrize("complete", [True, False])
def test_an_upload_that_the_registry_has_forgotten(
    server: ScriptedServer, uploader: UploaderMaker, registry: Registry, complete: bool
) -> None:
    server.once("PUT", SESSION, Answer(hang_up=True))
    server.once("GET", SESSION, Answer(404))
    server.once("HEAD", f"{BLOBS}/{blob().digest}", Answer(200 if complete else 404))
    uploader().upload(blob(), Source())
    assert calls(server).count("POST /uploads/") == (1 if complete else 2)
    assert registry.taken == DATA


def test_a_registry_with_a_wrong_offset_gets_a_new_upload(
    server: ScriptedServer, uploader: UploaderMaker, registry: Registry
) -> None:
    """One that stores a chunk twice, since docker-registry ignores Content-Range."""

    def twice(seen: Seen) -> Answer:
        registry.taken += seen.body[:100]
        return Answer(503, headers={"Retry-After": "0"})

    server.once("PATCH", SESSION, twice)
    server.once("GET", SESSION, Answer(204, headers={"Location": SESSION, "Range": "0-0"}))
    server.once("PATCH", SESSION, *[lambda seen: blind(registry, seen)] * 3)
    uploader().upload(blob(), Source())
    assert registry.taken == DATA
    assert calls(server).count("POST /uploads/") == 2


def blind(registry: Registry, seen: Seen) -> Answer:
    registry.taken += seen.body
    return Answer(202)


@pytest.mark.parametrize("answer", [Answer(503), Answer(429), Answer(hang_up=True)])
def test_tries_end(
    server: ScriptedServer, uploader: UploaderMaker, registry: Registry, answer: Answer, pauses: list[float]
) -> None:
    server.always("PATCH", SESSION, answer)
    with pytest.raises(RegistryError, match=f"could not push blob {blob().digest}: {server.host}"):
        uploader().upload(blob(), Source())
    assert calls(server).count("PATCH /uploads/1") == MAX_FRUITLESS_UPLOADS + 1
    assert len(pauses) == MAX_FRUITLESS_UPLOADS
    assert calls(server)[-1] == ("PATCH /uploads/1" if answer.hang_up else "DELETE /uploads/1")


def test_tries_to_finish_end(
    server: ScriptedServer, uploader: UploaderMaker, registry: Registry, pauses: list[float]
) -> None:
    server.always("PUT", SESSION, Answer(502))
    with pytest.raises(RegistryError, match="status 502"):
        uploader().upload(blob(), Source())
    assert calls(server).count("PUT /uploads/1") <= 2 * (MAX_FRUITLESS_UPLOADS + 1)
    assert calls(server).count("PATCH /uploads/1") == 3


@pytest.mark.parametrize("taken", ["0-1", "0-400001"])
def test_a_registry_that_takes_a_byte_at_a_time(
    server: ScriptedServer, uploader: UploaderMaker, registry: Registry, taken: str
) -> None:
    """A chunk is accepted, but almost nothing of it stored: a push must not go on like that."""
    server.once("PATCH", SESSION, *([registry.patch] if taken != "0-1" else []))
    server.always("PATCH", SESSION, Answer(202, headers={"Range": taken}))
    with pytest.raises(RegistryContentError, match="took only 2 of them"):
        uploader().upload(blob(), Source())
    # The server records a cut request when it ends, which may be after the next request.
    assert "DELETE /uploads/1" in calls(server)


def test_an_upload_without_chunks_is_resumed_without_chunks(
    server: ScriptedServer, uploader: UploaderMaker, registry: Registry
) -> None:
    def half(seen: Seen) -> Answer:
        registry.taken += seen.body[:500_000]
        return Answer(hang_up=True)

    server.once("PUT", SESSION, half)
    uploader(chunk_bytes=0).upload(blob(), Source())
    assert registry.taken == DATA
    assert calls(server).count("PATCH /uploads/1") == 1


def test_retry_after_is_obeyed_within_the_budget(
    server: ScriptedServer, uploader: UploaderMaker, registry: Registry, pauses: list[float]
) -> None:
    server.once("PATCH", SESSION, Answer(429, headers={"Retry-After": "7"}))
    uploader().upload(blob(), Source())
    assert pauses == [7.0]
    server.once("PATCH", SESSION, Answer(429, headers={"Retry-After": "86400"}))
    with pytest.raises(RegistryError, match="status 429"):
        uploader().upload(blob(), Source())
    assert pauses == [7.0]


@pytest.mark.parametrize("status", [400, 403, 404])
def test_an_upload_that_cannot_begin(server: ScriptedServer, uploader: UploaderMaker, status: int) -> None:
    server.once("POST", START, Answer(status, b'{"errors":[{"code":"NAME_UNKNOWN"}]}'))
    with pytest.raises(RegistryError, match="NAME_UNKNOWN"):
        uploader().upload(blob(), Source())
    assert calls(server) == ["POST /uploads/"]


@pytest.mark.parametrize("status", [401, 403, 413, 422])
def test_a_refusal_is_final(
    server: ScriptedServer, uploader: UploaderMaker, registry: Registry, status: int
) -> None:
    server.once("PATCH", SESSION, Answer(status, b'{"errors":[{"code":"DENIED","message":"quota"}]}'))
    with pytest.raises(RegistryError, match="DENIED: quota") as caught:
        uploader().upload(blob(), Source())
    assert caught.value.status == status
    assert calls(server) == ["POST /uploads/", "PATCH /uploads/1", "DELETE /uploads/1"]


# --- the source ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (DATA[:-1] + b"x", "its bytes have the digest sha256:"),
        (DATA[:-1], "has 1023999 bytes, expected 1024000"),
        (DATA + b"x", "has more than 1024000 bytes"),
        (b"", "has 0 bytes"),
    ],
)
@pytest.mark.parametrize("chunk", [0, 400_000])
def test_wrong_bytes_are_never_completed(
    server: ScriptedServer,
    uploader: UploaderMaker,
    registry: Registry,
    data: bytes,
    message: str,
    chunk: int,
) -> None:
    with pytest.raises(ContentError, match=f"{message}.*: damaged"):
        uploader(chunk_bytes=chunk).upload(blob(), Source(data))
    assert len(registry.taken) < len(DATA)
    # The server records a cut request when it ends, which may be after the next request.
    assert "DELETE /uploads/1" in calls(server)
    assert not any(one.method == "PUT" and len(one.body) == len(DATA) for one in server.seen)


def test_an_error_of_the_source_is_raised_unchanged(
    server: ScriptedServer, uploader: UploaderMaker, registry: Registry
) -> None:
    error = RegistryUnreachable("source.example: gone")
    with pytest.raises(RegistryUnreachable) as caught:
        uploader().upload(blob(), Source(error=error))
    assert caught.value is error
    # The server records a cut request when it ends, which may be after the next request.
    assert "DELETE /uploads/1" in calls(server)
    assert calls(server).count("PATCH /uploads/1") <= 1


@given(
    st.integers(1, 400_000),
    st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1), st.integers(1, 10)), max_size=12),
)
def test_every_byte_is_hashed_once(size: int, parts: list[tuple[float, float, int]]) -> None:
    """Parts begin anywhere in what is hashed, and are left after some pieces; the last one is the rest."""
    content = random.Random(size).randbytes(size)
    source = Source(content)
    received = bytearray(len(content))
    with BlobReader(blob(content), source, lambda _sent: None) as reader:
        for begin, share, limit in [*parts, (1.0, 1.0, len(content))]:
            start = int(begin * reader.hashed)
            length = int(share * (len(content) - start))
            if not length:
                continue
            with reader.part(start, length).open() as pieces:
                position = start
                for number, piece in enumerate(pieces):
                    received[position : position + len(piece)] = piece
                    position += len(piece)
                    if number == limit:
                        break
        assert reader.hashed == len(content)
    assert received == content


# --- mounts ----------------------------------------------------------------------------------------------


def test_a_mount_sends_nothing(server: ScriptedServer, uploader: UploaderMaker) -> None:
    server.once("POST", START, Answer(201, headers={"Location": f"{BLOBS}/{blob().digest}"}))
    source = Source()
    assert uploader().upload(blob(), source, mount_from="team/other") == "mounted"
    assert source.opened == []
    assert server.seen[0].path.endswith(f"?mount={blob().digest.replace(':', '%3A')}&from=team%2Fother")


def test_a_mount_that_is_an_upload(
    server: ScriptedServer, uploader: UploaderMaker, registry: Registry
) -> None:
    assert uploader().upload(blob(), Source(), mount_from="team/other") == "uploaded"
    assert calls(server).count("POST /uploads/") == 1


@pytest.mark.parametrize("status", [400, 401, 403, 404, 405])
def test_a_mount_that_is_refused(
    server: ScriptedServer, uploader: UploaderMaker, registry: Registry, status: int
) -> None:
    server.once("POST", START, Answer(status))
    assert uploader().upload(blob(), Source(), mount_from="team/other") == "uploaded"
    assert calls(server)[:2] == ["POST /uploads/"] * 2
    assert registry.taken == DATA


# --- hosts and credentials -------------------------------------------------------------------------------


def test_credentials_stay_with_the_registry(
    server: ScriptedServer, other: ScriptedServer, uploader: UploaderMaker
) -> None:
    def guarded(answer: Answer) -> Callable[[Seen], Answer]:
        challenge = {"WWW-Authenticate": 'Basic realm="x"'}
        return lambda seen: answer if seen.authorization else Answer(401, headers=challenge)

    elsewhere = Answer(202, headers={"Location": f"{other.url}/store/1?sig=x"})
    server.always("POST", START, guarded(elsewhere))
    other.once("PUT", "/store/1", Answer(201))
    uploader(chunk_bytes=0, username="me", password="secret").upload(blob(), Source())
    assert server.seen[-1].authorization == f"Basic {base64.b64encode(b'me:secret').decode()}"
    assert other.seen[0].authorization == ""
    assert other.seen[0].body == DATA


@pytest.mark.parametrize("host", ["same", "other"])
def test_a_redirected_upload_keeps_its_body(
    server: ScriptedServer, other: ScriptedServer, uploader: UploaderMaker, host: str
) -> None:
    place = server if host == "same" else other
    challenge = {"WWW-Authenticate": 'Basic realm="x"'}
    server.always(
        "POST", START, lambda seen: OPENED if seen.authorization else Answer(401, headers=challenge)
    )
    server.once("PUT", SESSION, Answer(307, headers={"Location": f"{place.url}/moved"}))
    place.once("PUT", "/moved", Answer(201))
    uploader(chunk_bytes=0, username="me", password="secret").upload(blob(), Source())
    assert place.seen[-1].body == DATA
    assert bool(place.seen[-1].authorization) == (host == "same")


@pytest.mark.parametrize("status", [301, 302, 303])
def test_a_redirect_that_would_lose_the_body(
    server: ScriptedServer, uploader: UploaderMaker, registry: Registry, status: int
) -> None:
    server.once("PUT", SESSION, Answer(status, headers={"Location": "/login"}))
    with pytest.raises(RegistryError, match=f"of an upload to .*/login, by status {status}, is not followed"):
        uploader(chunk_bytes=0).upload(blob(), Source())


def test_a_token_that_expires_between_chunks(
    server: ScriptedServer, uploader: UploaderMaker, registry: Registry
) -> None:
    challenge = {"WWW-Authenticate": f'Bearer realm="{server.url}/token",service="s"'}
    server.once("GET", "/token", Answer(body=b'{"token":"one"}'), Answer(body=b'{"token":"two"}'))
    server.once("POST", START, Answer(401, headers=challenge))
    server.once("PATCH", SESSION, registry.patch, Answer(401, headers=challenge))
    uploader().upload(blob(), Source())
    assert registry.taken == DATA
    asked = [one.path for one in server.seen if one.path.startswith("/token")]
    assert asked == ["/token?service=s&scope=repository%3Ateam%2Fapp%3Apull%2Cpush"] * 2


@pytest.mark.parametrize(
    "location", ["", "ftp://x/y", "http://u:p@x/y", "http://[x/y", "http://h:99999/", "/a b", "/\xe9"]
)
def test_invalid_locations(server: ScriptedServer, uploader: UploaderMaker, location: str) -> None:
    server.once("POST", START, Answer(202, headers={"Location": location} if location else {}))
    with pytest.raises(RegistryContentError, match="names no usable URL for the upload"):
        uploader().upload(blob(), Source())


@pytest.mark.parametrize(
    "host", ["169.254.169.254", "0xa9fea9fe", "100.100.100.200", "169.254.43518", "metadata.google.internal"]
)
def test_a_location_that_the_registry_may_not_send_us_to(
    server: ScriptedServer, uploader: UploaderMaker, host: str
) -> None:
    place = f"http://{host}/latest?x=y"
    server.once("POST", START, Answer(202, headers={"Location": place}))
    with pytest.raises(RegistryError, match=f"it names {host}, which is not asked: {host} is a"):
        uploader().upload(blob(), Source())
    assert server.requests() == [f"POST {START}"]


class Told:
    """A response with headers only."""

    url = "https://registry.example/v2/team/app/blobs/uploads/"
    host, status = "registry.example", 202

    def __init__(self, headers: Mapping[str, str]) -> None:
        self._headers = headers

    def header(self, name: str) -> str:
        return self._headers.get(name, "")


_URLISH = st.text(alphabet="htps:/?#[]@%.0123456789aé\x00\r\n \\u202e-_~&=", max_size=60)


@given(location=_URLISH | st.text(max_size=40), minimum=st.text(max_size=20) | st.integers().map(str))
def test_no_header_of_an_upload_breaks_us(location: str, minimum: str) -> None:
    answer: Any = Told({"Location": location, "OCI-Chunk-Min-Length": minimum})
    with RegistryClient(RegistryOptions()) as client:
        repository = client.uploader(reference.parse("registry.example/team/app:v1"))
    try:
        session = UploadSession.of(repository, answer)
    except RegistryContentError:
        return
    assert session.url.startswith("https://")
    assert session.minimum >= 0


def test_no_upload_from_https_to_http(tmp_path: Path) -> None:
    authority = trustme.CA()
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    options = RegistryOptions(skip_verify=True, hosts_dir=tmp_path)
    with ScriptedServer(context) as server, RegistryClient(options) as client:
        folder = tmp_path / server.host
        folder.mkdir()
        (folder / "hosts.toml").write_text(f'server = "{server.url}"\nskip_verify = true\n')
        server.once("POST", START, Answer(202, headers={"Location": f"http://{server.host}{SESSION}"}))
        uploader = client.uploader(reference.parse(f"{server.host}/team/app:v1"))
        with pytest.raises(RegistryContentError, match="wants the upload over plain http") as caught:
            uploader.upload(blob(), Source())
    assert caught.value.hint
    assert "external URL" in caught.value.hint


def test_only_hosts_with_the_push_capability(
    server: ScriptedServer, other: ScriptedServer, uploader: UploaderMaker, tmp_path: Path
) -> None:
    folder = tmp_path / "registry.invalid"
    folder.mkdir()
    mirror = f'[host."{other.url}"]\ncapabilities = ["pull", "resolve"]\n'
    (folder / "hosts.toml").write_text(f'server = "{server.url}"\n{mirror}')
    server.once("HEAD", f"{BLOBS}/{blob().digest}", Answer(200))
    made = uploader("registry.invalid/team/app:v1", hosts_dir=tmp_path)
    assert made.has(blob())
    (folder / "hosts.toml").write_text(f'server = "{server.url}"\ncapabilities = ["pull"]\n{mirror}')
    with pytest.raises(RegistryError, match="no configured host allows push"):
        uploader("registry.invalid/team/app:v1", hosts_dir=tmp_path).has(blob())
    assert other.seen == []


# --- checks and manifests --------------------------------------------------------------------------------

INDEX = Descriptor(media_type=mediatypes.OCI_INDEX, digest=Digest.of(MANIFEST), size=len(MANIFEST))
TAG = "/v2/team/app/manifests/v1"


def test_checks_by_head(server: ScriptedServer, uploader: UploaderMaker) -> None:
    made = uploader()
    server.once("HEAD", f"{BLOBS}/{blob().digest}", Answer(200), Answer(404), Answer(405), Answer(403))
    assert [made.has(blob()) for _ in range(3)] == [True, False, False]
    with pytest.raises(AuthenticationFailed, match="push access denied"):
        made.has(blob())
    server.once("HEAD", f"/v2/team/app/manifests/{INDEX.digest}", Answer(200))
    assert made.has(INDEX)
    digest = {"Docker-Content-Digest": str(INDEX.digest)}
    server.once("HEAD", TAG, Answer(200, headers=digest), Answer(200), Answer(404))
    server.once("HEAD", TAG, Answer(200, headers={"Docker-Content-Digest": "sha256:nonsense"}))
    assert [made.tagged("v1") for _ in range(4)] == [INDEX.digest, None, None, None]


def test_a_manifest_under_its_digest_and_its_tag(server: ScriptedServer, uploader: UploaderMaker) -> None:
    server.once("PUT", f"/v2/team/app/manifests/{INDEX.digest}", Answer(201))
    server.once("PUT", TAG, Answer(503), Answer(201))
    uploader().put(INDEX, MANIFEST)
    uploader().put(INDEX, MANIFEST, "v1")
    assert [one.body for one in server.seen] == [MANIFEST] * 3
    assert {one.headers["content-type"] for one in server.seen} == {mediatypes.OCI_INDEX}


def test_a_manifest_that_is_refused_or_changed(server: ScriptedServer, uploader: UploaderMaker) -> None:
    body = b'{"errors":[{"code":"MANIFEST_BLOB_UNKNOWN","message":"blob unknown to registry"}]}'
    lie = {"Docker-Content-Digest": str(Digest.of(b"other"))}
    server.once("PUT", TAG, Answer(400, body), Answer(201, headers=lie), Answer(401))
    with pytest.raises(RegistryError, match=f"could not push manifest {INDEX.digest}: .*BLOB_UNKNOWN"):
        uploader().put(INDEX, MANIFEST, "v1")
    with pytest.raises(RegistryContentError, match="but the registry stored"):
        uploader().put(INDEX, MANIFEST, "v1")
    with pytest.raises(AuthenticationFailed, match="push access denied") as caught:
        uploader().put(INDEX, MANIFEST, "v1")
    assert caught.value.exit_code == 5


# --- referrers ------------------------------------------------------------------------------------------

SUBJECT = {"mediaType": mediatypes.OCI_MANIFEST, "digest": str(Digest.of(b"image")), "size": 5}
LIST = f"/v2/team/app/manifests/sha256-{Digest.of(b'image').encoded}"


def referrer(**more: Any) -> tuple[Descriptor, bytes]:
    config = {"mediaType": "application/vnd.example+json", "digest": str(Digest.of(b"{}")), "size": 2}
    raw = json.dumps(
        {"schemaVersion": 2, "config": config, "subject": SUBJECT, "layers": [], **more}
    ).encode()
    return Descriptor(media_type=mediatypes.OCI_MANIFEST, digest=Digest.of(raw), size=len(raw)), raw


def test_a_registry_that_lists_referrers_itself(server: ScriptedServer, uploader: UploaderMaker) -> None:
    manifest, raw = referrer()
    server.once("PUT", TAG, Answer(201, headers={"OCI-Subject": str(SUBJECT["digest"])}))
    uploader().put(manifest, raw, "v1")
    assert len(server.seen) == 1


def test_referrers_are_listed_under_a_tag_if_the_registry_has_no_api(
    server: ScriptedServer, uploader: UploaderMaker
) -> None:
    manifest, raw = referrer(annotations={"b": "<", "a": "1"})
    second, other = referrer(artifactType="application/vnd.other")
    lists: list[bytes] = []

    def take(seen: Seen) -> Answer:
        lists.append(seen.body)
        return Answer(201)

    server.always("PUT", TAG, Answer(201))
    server.always("PUT", LIST, take)
    server.always("GET", LIST, lambda _seen: Answer(200, lists[-1]) if lists else Answer(404))
    uploader().put(manifest, raw, "v1")
    uploader().put(second, other, "v1")
    uploader().put(manifest, raw, "v1")
    assert len(lists) == 2, "nothing is listed twice"
    entries = json.loads(lists[-1])["manifests"]
    assert [entry["artifactType"] for entry in entries] == [
        "application/vnd.example+json",
        "application/vnd.other",
    ]
    assert [entry["digest"] for entry in entries] == [manifest.digest, second.digest]
    assert entries[0]["annotations"] == {"a": "1", "b": "<"}


@pytest.mark.parametrize("answer", [Answer(200, b"<html>"), Answer(500), Answer(403)])
def test_a_list_of_referrers_that_cannot_be_read(
    server: ScriptedServer, uploader: UploaderMaker, answer: Answer
) -> None:
    manifest, raw = referrer()
    server.always("PUT", TAG, Answer(201))
    server.always("GET", LIST, answer)
    with pytest.raises(RegistryError) as caught:
        uploader().put(manifest, raw, "v1")
    assert caught.value.host == server.host
    assert not any(one.method == "PUT" and one.path == LIST for one in server.seen)

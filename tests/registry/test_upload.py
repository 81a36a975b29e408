"""Uploads of blobs to a scripted registry, for what real registries do not do on demand."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyctrd.errors import ContentError, RegistryUnreachable
from pyctrd.registry.http.request_body import BlobReader
from tests.registry.server import Answer, ScriptedServer
from tests.registry.uploads import (
    BLOBS,
    DATA,
    SESSION,
    START,
    ChunkedRegistry,
    Source,
    UploaderMaker,
    blob,
    calls,
)

# --- whole and in chunks ---------------------------------------------------------------------------------


@pytest.mark.parametrize("absolute", [False, True])
def test_a_small_blob_is_uploaded_whole(
    server: ScriptedServer, uploader: UploaderMaker, registry: ChunkedRegistry, absolute: bool
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
    server: ScriptedServer, uploader: UploaderMaker, registry: ChunkedRegistry
) -> None:
    source = Source()
    uploader().upload(blob(), source)
    assert calls(server) == ["POST /uploads/", *["PATCH /uploads/1"] * 3, "PUT /uploads/1"]
    ranges = [one.headers["content-range"] for one in server.seen if one.method == "PATCH"]
    assert ranges == ["0-399999", "400000-799999", "800000-1023999"]
    assert registry.taken == DATA
    assert source.opened == [0], "read in one go"


def test_chunks_have_the_minimum_length_of_the_registry(
    server: ScriptedServer, uploader: UploaderMaker, registry: ChunkedRegistry
) -> None:
    headers = {"Location": SESSION, "OCI-Chunk-Min-Length": "600000"}
    server.once("POST", START, Answer(202, headers=headers))
    uploader().upload(blob(), Source())
    ranges = [one.headers["content-range"] for one in server.seen if one.method == "PATCH"]
    assert ranges == ["0-599999", "600000-1023999"]


def test_an_upload_begins_with_an_empty_post(
    server: ScriptedServer, uploader: UploaderMaker, registry: ChunkedRegistry
) -> None:
    """The spec requires `Content-Length: 0`, and the type and length of each part after it."""
    uploader().upload(blob(), Source())
    begun, *patches, finished = server.seen
    assert (begun.headers["content-length"], begun.body) == ("0", b"")
    for patch in patches:
        assert patch.headers["content-type"] == "application/octet-stream"
        assert patch.headers["content-length"] == str(len(patch.body))
    assert (finished.headers["content-length"], finished.body) == ("0", b"")


def test_an_empty_blob(server: ScriptedServer, uploader: UploaderMaker, registry: ChunkedRegistry) -> None:
    uploader().upload(blob(b""), Source(b""))
    assert calls(server) == ["POST /uploads/", "PUT /uploads/1"]


@pytest.mark.parametrize("status", [400, 404, 405, 415, 501])
def test_a_registry_that_does_not_support_chunks(
    server: ScriptedServer, uploader: UploaderMaker, registry: ChunkedRegistry, status: int
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
    registry: ChunkedRegistry,
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
    server: ScriptedServer, uploader: UploaderMaker, registry: ChunkedRegistry
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
    """Parts start anywhere within the hashed bytes, and are left early; the last part is the rest."""
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


def test_a_mount_sends_no_data(server: ScriptedServer, uploader: UploaderMaker) -> None:
    server.once("POST", START, Answer(201, headers={"Location": f"{BLOBS}/{blob().digest}"}))
    source = Source()
    assert uploader().upload(blob(), source, mount_from="team/other") == "mounted"
    assert source.opened == []
    assert server.seen[0].path.endswith(f"?mount={blob().digest.replace(':', '%3A')}&from=team%2Fother")


def test_a_registry_may_start_an_upload_instead_of_a_mount(
    server: ScriptedServer, uploader: UploaderMaker, registry: ChunkedRegistry
) -> None:
    assert uploader().upload(blob(), Source(), mount_from="team/other") == "uploaded"
    assert calls(server).count("POST /uploads/") == 1


@pytest.mark.parametrize("status", [400, 401, 403, 404, 405])
def test_a_mount_that_is_refused(
    server: ScriptedServer, uploader: UploaderMaker, registry: ChunkedRegistry, status: int
) -> None:
    server.once("POST", START, Answer(status))
    assert uploader().upload(blob(), Source(), mount_from="team/other") == "uploaded"
    assert calls(server)[:2] == ["POST /uploads/"] * 2
    assert registry.taken == DATA

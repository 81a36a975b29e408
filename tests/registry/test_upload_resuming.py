"""Resumed uploads, and the end of those that cannot succeed."""

from __future__ import annotations

import pytest

from pyctrd.errors import RegistryContentError, RegistryError
from pyctrd.registry.http.retry import MAX_FRUITLESS_UPLOADS
from tests.registry.server import Answer, ScriptedServer, Seen
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


def test_an_upload_is_resumed_at_the_offset_of_the_registry(
    server: ScriptedServer, uploader: UploaderMaker, registry: ChunkedRegistry, pauses: list[float]
) -> None:
    server.once("PATCH", SESSION, registry.patch, registry.cut_after(123_456))
    source = Source()
    uploader().upload(blob(), source)
    assert registry.taken == DATA
    ranges = [one.headers["content-range"] for one in server.seen if one.method == "PATCH"]
    assert ranges == ["0-399999", "400000-799999", "523456-923455", "923456-1023999"]
    assert source.opened == [0, 523_456]
    assert len(pauses) == 1


def test_a_whole_upload_is_resumed_in_chunks(
    server: ScriptedServer, uploader: UploaderMaker, registry: ChunkedRegistry
) -> None:
    server.once("PUT", SESSION, registry.cut_after(500_000))
    uploader(chunk_bytes=4_000_000).upload(blob(), Source())
    assert registry.taken == DATA
    assert [one.headers["content-range"] for one in server.seen if one.method == "PATCH"] == [
        "500000-1023999"
    ]


def test_the_registry_stores_less_than_it_was_sent(
    server: ScriptedServer, uploader: UploaderMaker, registry: ChunkedRegistry
) -> None:
    def some(seen: Seen) -> Answer:
        registry.taken += seen.body[:70_000]
        return Answer(202, headers=registry.location())

    server.once("PATCH", SESSION, some)
    uploader().upload(blob(), Source())
    assert registry.taken == DATA
    assert [one.headers["content-range"] for one in server.seen if one.method == "PATCH"][1] == "70000-469999"


def test_after_416_the_offset_is_requested(
    server: ScriptedServer, uploader: UploaderMaker, registry: ChunkedRegistry
) -> None:
    def lost(seen: Seen) -> Answer:
        registry.taken += seen.body
        return Answer(500)  # the registry has the chunk, but the client does not know that

    def astray(seen: Seen) -> Answer:
        return registry.patch(seen)

    server.once("PATCH", SESSION, lost, astray)
    server.once("GET", SESSION, Answer(503))
    uploader().upload(blob(), Source())
    assert registry.taken == DATA
    assert "GET /uploads/1" in calls(server)


@pytest.mark.parametrize("complete", [True, False])
def test_an_upload_that_the_registry_has_forgotten(
    server: ScriptedServer, uploader: UploaderMaker, registry: ChunkedRegistry, complete: bool
) -> None:
    server.once("PUT", SESSION, Answer(hang_up=True))
    server.once("GET", SESSION, Answer(404))
    server.once("HEAD", f"{BLOBS}/{blob().digest}", Answer(200 if complete else 404))
    uploader().upload(blob(), Source())
    assert calls(server).count("POST /uploads/") == (1 if complete else 2)
    assert registry.taken == DATA


def test_a_registry_with_a_wrong_offset_gets_a_new_upload(
    server: ScriptedServer, uploader: UploaderMaker, registry: ChunkedRegistry
) -> None:
    """For example one that stores a chunk twice, since docker-registry ignores Content-Range."""

    def twice(seen: Seen) -> Answer:
        registry.taken += seen.body[:100]
        return Answer(503, headers={"Retry-After": "0"})

    server.once("PATCH", SESSION, twice)
    server.once("GET", SESSION, Answer(204, headers={"Location": SESSION, "Range": "0-0"}))
    server.once("PATCH", SESSION, *[lambda seen: blind(registry, seen)] * 3)
    uploader().upload(blob(), Source())
    assert registry.taken == DATA
    assert calls(server).count("POST /uploads/") == 2


def blind(registry: ChunkedRegistry, seen: Seen) -> Answer:
    registry.taken += seen.body
    return Answer(202)


@pytest.mark.parametrize("answer", [Answer(503), Answer(429), Answer(hang_up=True)])
def test_the_number_of_attempts_is_limited(
    server: ScriptedServer,
    uploader: UploaderMaker,
    registry: ChunkedRegistry,
    answer: Answer,
    pauses: list[float],
) -> None:
    server.always("PATCH", SESSION, answer)
    with pytest.raises(RegistryError, match=f"could not push blob {blob().digest}: {server.host}"):
        uploader().upload(blob(), Source())
    assert calls(server).count("PATCH /uploads/1") == MAX_FRUITLESS_UPLOADS + 1
    assert len(pauses) == MAX_FRUITLESS_UPLOADS
    assert calls(server)[-1] == ("PATCH /uploads/1" if answer.hang_up else "DELETE /uploads/1")


def test_the_number_of_attempts_to_finish_is_limited(
    server: ScriptedServer, uploader: UploaderMaker, registry: ChunkedRegistry, pauses: list[float]
) -> None:
    server.always("PUT", SESSION, Answer(502))
    with pytest.raises(RegistryError, match="status 502"):
        uploader().upload(blob(), Source())
    assert calls(server).count("PUT /uploads/1") <= 2 * (MAX_FRUITLESS_UPLOADS + 1)
    assert calls(server).count("PATCH /uploads/1") == 3


@pytest.mark.parametrize("taken", ["0-1", "0-400001"])
def test_a_registry_that_stores_one_byte_at_a_time(
    server: ScriptedServer, uploader: UploaderMaker, registry: ChunkedRegistry, taken: str
) -> None:
    """A chunk is accepted, but hardly any of it stored: a push must not continue like that."""
    server.once("PATCH", SESSION, *([registry.patch] if taken != "0-1" else []))
    server.always("PATCH", SESSION, Answer(202, headers={"Range": taken}))
    with pytest.raises(RegistryContentError, match="took only 2 of them"):
        uploader().upload(blob(), Source())
    # The server records a cut request when it ends, which may be after the next request.
    assert "DELETE /uploads/1" in calls(server)


def test_an_upload_without_chunks_is_resumed_without_chunks(
    server: ScriptedServer, uploader: UploaderMaker, registry: ChunkedRegistry
) -> None:
    server.once("PUT", SESSION, registry.cut_after(500_000))
    uploader(chunk_bytes=0).upload(blob(), Source())
    assert registry.taken == DATA
    assert calls(server).count("PATCH /uploads/1") == 1


def test_retry_after_is_obeyed_within_the_budget(
    server: ScriptedServer, uploader: UploaderMaker, registry: ChunkedRegistry, pauses: list[float]
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
    server: ScriptedServer, uploader: UploaderMaker, registry: ChunkedRegistry, status: int
) -> None:
    server.once("PATCH", SESSION, Answer(status, b'{"errors":[{"code":"DENIED","message":"quota"}]}'))
    with pytest.raises(RegistryError, match="DENIED: quota") as caught:
        uploader().upload(blob(), Source())
    assert caught.value.status == status
    assert calls(server) == ["POST /uploads/", "PATCH /uploads/1", "DELETE /uploads/1"]

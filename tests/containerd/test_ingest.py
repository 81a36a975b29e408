"""The Write stream: what is sent, and how every failure is reported."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import pytest

from pyctrd.containerd import Daemon
from pyctrd.containerd.ingest import MESSAGE_BYTES, WINDOW
from pyctrd.errors import (
    AlreadyExists,
    DaemonError,
    DaemonUnreachable,
    FailedPrecondition,
    IngestLocked,
    NotFound,
)
from pyctrd.oci.model import Digest
from tests.containerd.fake import FakeDaemon, fault, serve, stop

DATA = bytes(range(256)) * 12_000  # about 3 MiB, not a multiple of a message
DIGEST = Digest.of(DATA)


def actions(fake: FakeDaemon) -> list[str]:
    return [method for method, _ in fake.calls if method in {"STAT", "WRITE", "COMMIT"}]


def sending_threads() -> int:
    """Count gRPC's own threads in this process; the fake daemon's are those of an executor."""
    return sum(not thread.name.startswith("ThreadPoolExecutor") for thread in threading.enumerate())


def fail_after_a_thousand_bytes(client: Daemon, error: type[BaseException]) -> None:
    with client.content.open_ingest("layer-x", digest=DIGEST, size=len(DATA)) as ingest:
        ingest.write(DATA[:1000])
        raise error


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 5
    while not condition():
        assert time.monotonic() < deadline, "the condition did not become true within 5 seconds"
        time.sleep(0.01)


def write(client: Daemon, size_of_pieces: int, labels: dict[str, str] | None = None) -> None:
    with client.content.open_ingest("layer-x", digest=DIGEST, size=len(DATA)) as ingest:
        for start in range(ingest.offset, len(DATA), size_of_pieces):
            ingest.write(DATA[start : start + size_of_pieces])
        assert ingest.offset == len(DATA)
        ingest.commit(labels=labels)


@pytest.mark.parametrize(
    "size_of_pieces", [1000, MESSAGE_BYTES - 1, MESSAGE_BYTES, MESSAGE_BYTES + 1, len(DATA)]
)
def test_pieces_of_any_size_are_sent_in_messages_of_one_mebibyte(
    client: Daemon, fake: FakeDaemon, size_of_pieces: int
) -> None:
    write(client, size_of_pieces)
    assert fake.blobs[DIGEST] == DATA
    assert actions(fake) == ["STAT", "WRITE", "WRITE", "COMMIT"]
    assert [len(request.data) for request in fake.requests("WRITE")] == [MESSAGE_BYTES, MESSAGE_BYTES]
    (commit,) = fake.requests("COMMIT")
    assert len(commit.data) == len(DATA) - 2 * MESSAGE_BYTES


def test_every_message_carries_its_offset(client: Daemon, fake: FakeDaemon) -> None:
    write(client, 1000, {"a": "1"})
    (stat,), (commit,) = fake.requests("STAT"), fake.requests("COMMIT")
    assert (stat.ref, stat.total, stat.expected) == ("layer-x", len(DATA), DIGEST)
    assert [request.offset for request in fake.requests("WRITE")] == [0, MESSAGE_BYTES]
    assert (commit.offset, commit.total, commit.expected) == (2 * MESSAGE_BYTES, len(DATA), DIGEST)
    assert dict(commit.labels) == {"a": "1"}


def test_a_write_resumes_at_the_offset_of_the_store(client: Daemon, fake: FakeDaemon) -> None:
    fake.ingests["layer-x"] = bytearray(DATA[:1234])
    write(client, 1000)
    assert fake.requests("WRITE")[0].offset == 1234
    assert fake.blobs[DIGEST] == DATA


def test_a_complete_ingest_is_only_committed(client: Daemon, fake: FakeDaemon) -> None:
    fake.ingests["layer-x"] = bytearray(DATA)
    write(client, 1000)
    assert actions(fake) == ["STAT", "COMMIT"]
    assert fake.blobs[DIGEST] == DATA


def test_the_second_response_to_a_commit_is_consumed(client: Daemon, fake: FakeDaemon) -> None:
    write(client, 1000)
    assert fake.write_ended.wait(5)
    write(client, 1000)  # the next stream starts with its own first response
    assert fake.blobs[DIGEST] == DATA


def test_a_locked_ingest(client: Daemon, fake: FakeDaemon) -> None:
    fake.faults["STAT"] = fault(
        grpc.StatusCode.UNAVAILABLE, "ref testing/1/layer-x locked for 2s: unavailable"
    )
    with pytest.raises(IngestLocked, match="locked for 2s") as caught:
        write(client, 1000)
    assert (caught.value.kind, caught.value.name) == ("ingest", "layer-x")
    assert isinstance(caught.value.__cause__, grpc.RpcError)


def test_a_stopped_daemon_is_not_a_locked_ingest(sockets: Path) -> None:
    server = serve(sockets / "c.sock", FakeDaemon())
    with Daemon.connect(str(sockets / "c.sock"), environ={}) as client:
        stop(server)
        with pytest.raises(DaemonUnreachable):
            write(client, 1000)


def test_a_lost_connection_is_not_a_locked_ingest(client: Daemon, fake: FakeDaemon) -> None:
    """A lock is waited for; waiting for a restarting daemon, or a proxy that outlives it, would not end."""
    fake.faults["STAT"] = fault(grpc.StatusCode.UNAVAILABLE, "Socket closed")
    with pytest.raises(DaemonUnreachable, match="Socket closed"):
        write(client, 1000)


def test_content_exists_when_the_write_is_opened(client: Daemon, fake: FakeDaemon) -> None:
    fake.faults["STAT"] = fault(grpc.StatusCode.ALREADY_EXISTS, f"content {DIGEST}: already exists")
    with pytest.raises(AlreadyExists) as caught:
        write(client, 1000)
    assert (caught.value.kind, caught.value.name) == ("content", DIGEST)


def test_content_is_committed_by_another_client_while_the_write_is_opened(
    client: Daemon, fake: FakeDaemon
) -> None:
    """The first error is that of the content service, which does not know leases: the call is repeated."""
    words = [f"content {DIGEST}: already exists", f"blob with expected digest {DIGEST} exists"]

    def answer(request: object, context: grpc.ServicerContext) -> None:
        context.abort(grpc.StatusCode.ALREADY_EXISTS, words.pop())

    fake.faults["STAT"] = answer
    with pytest.raises(AlreadyExists, match="already exists"):
        write(client, 1000)
    assert actions(fake) == ["STAT", "STAT"]


def test_content_is_always_committed_by_another_client(client: Daemon, fake: FakeDaemon) -> None:
    words = f"blob with expected digest {DIGEST} exists"
    fake.faults["STAT"] = fault(grpc.StatusCode.ALREADY_EXISTS, words)
    with pytest.raises(AlreadyExists, match=words):
        write(client, 1000)


def test_content_exists_at_the_commit(client: Daemon, fake: FakeDaemon) -> None:
    """The content is not under our lease, so the caller has to know."""
    fake.faults["COMMIT"] = fault(
        grpc.StatusCode.ALREADY_EXISTS, f"blob with expected digest {DIGEST} exists"
    )
    with pytest.raises(AlreadyExists):
        write(client, 1000)
    assert actions(fake)[-1] == "COMMIT"


def test_a_wrong_digest_is_refused(client: Daemon, fake: FakeDaemon) -> None:
    fake.faults["COMMIT"] = fault(
        grpc.StatusCode.FAILED_PRECONDITION, f"unexpected commit digest x, expected {DIGEST}"
    )
    with pytest.raises(FailedPrecondition, match="unexpected commit digest"):
        write(client, 1000)


def test_a_lease_that_was_deleted(client: Daemon, fake: FakeDaemon) -> None:
    fake.faults["STAT"] = fault(grpc.StatusCode.NOT_FOUND, "lease does not exist: not found")
    with client.lease("test") as leased, pytest.raises(NotFound) as caught:
        write(leased, 1000)
    assert caught.value.kind == "lease"
    assert caught.value.name in caught.value.message


def test_an_error_of_a_write_is_raised_before_the_commit(client: Daemon, fake: FakeDaemon) -> None:
    fake.faults["WRITE"] = fault(grpc.StatusCode.RESOURCE_EXHAUSTED, "no space left on device")
    with pytest.raises(DaemonError, match="no space left on device") as caught:
        write(client, 1000)
    assert caught.value.code == "RESOURCE_EXHAUSTED"
    assert "COMMIT" not in actions(fake)


def test_an_error_of_a_write_is_raised_within_the_window(client: Daemon, fake: FakeDaemon) -> None:
    fake.faults["WRITE"] = fault(grpc.StatusCode.RESOURCE_EXHAUSTED, "no space left on device")
    size = 10 * WINDOW * MESSAGE_BYTES
    with client.content.open_ingest("layer-x", digest=DIGEST, size=size) as ingest:
        for _ in range(WINDOW - 1):
            ingest.write(bytes(MESSAGE_BYTES))
        with pytest.raises(DaemonError, match="no space left"):
            ingest.write(bytes(MESSAGE_BYTES))


def test_a_stream_that_the_daemon_ends_without_a_response(client: Daemon, fake: FakeDaemon) -> None:
    class Ended(Exception):
        pass

    def end(_request: Any, _context: grpc.ServicerContext) -> None:
        raise Ended

    fake.faults["WRITE"] = end
    with pytest.raises(DaemonError) as caught:
        write(client, 1000)
    assert "Ended" in caught.value.message or "Exception" in caught.value.message


def test_an_error_of_the_caller_is_raised_and_the_write_can_be_resumed(
    client: Daemon, fake: FakeDaemon
) -> None:
    with pytest.raises(ZeroDivisionError):
        fail_after_a_thousand_bytes(client, ZeroDivisionError)
    assert fake.ingests["layer-x"] == DATA[:1000]
    assert "COMMIT" not in actions(fake)
    assert fake.write_ended.is_set()  # so the lock is free, too
    write(client, 1000)
    assert fake.blobs[DIGEST] == DATA


def test_an_interrupt_cancels_at_once(client: Daemon, fake: FakeDaemon) -> None:
    with pytest.raises(KeyboardInterrupt):
        fail_after_a_thousand_bytes(client, KeyboardInterrupt)
    assert fake.write_ended.wait(5)
    assert actions(fake) == ["STAT"]


def test_a_failing_daemon_does_not_hide_the_error_of_the_caller(client: Daemon, fake: FakeDaemon) -> None:
    fake.faults["WRITE"] = fault(grpc.StatusCode.INTERNAL, "disk on fire")
    with pytest.raises(ZeroDivisionError):
        fail_after_a_thousand_bytes(client, ZeroDivisionError)


def test_a_committed_write_accepts_no_more_data(client: Daemon) -> None:
    with client.content.open_ingest("layer-x", digest=DIGEST, size=len(DATA)) as ingest:
        ingest.write(DATA)
        ingest.commit()
        with pytest.raises(DaemonError, match="closed"):
            ingest.write(DATA)


def test_no_thread_is_left_behind(client: Daemon, fake: FakeDaemon) -> None:
    write(client, 1000)
    before = sending_threads()
    for _ in range(5):
        write(client, 1000)
    fake.faults["STAT"] = fault(grpc.StatusCode.UNAVAILABLE, "ref x locked: unavailable")
    for _ in range(5):
        with pytest.raises(IngestLocked):
            write(client, 1000)
    wait_for(lambda: sending_threads() <= before)

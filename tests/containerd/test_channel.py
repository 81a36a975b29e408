"""Metadata and deadlines of calls, and the exceptions for each gRPC status."""

from __future__ import annotations

import time
from pathlib import Path

import grpc
import pytest

from pyctrd.containerd import Daemon, channel
from pyctrd.errors import (
    AlreadyExists,
    DaemonError,
    DaemonUnreachable,
    FailedPrecondition,
    NotFound,
    PyctrdError,
    Unsupported,
)
from pyctrd.oci.model import Descriptor, Digest
from tests.containerd.fake import FakeDaemon, fault, serve, stop

DIGEST = Digest.of(b"content")

CODES = [
    (grpc.StatusCode.NOT_FOUND, NotFound),
    (grpc.StatusCode.ALREADY_EXISTS, AlreadyExists),
    (grpc.StatusCode.FAILED_PRECONDITION, FailedPrecondition),
    (grpc.StatusCode.UNIMPLEMENTED, Unsupported),
    (grpc.StatusCode.UNAVAILABLE, DaemonUnreachable),
    (grpc.StatusCode.INVALID_ARGUMENT, DaemonError),
    (grpc.StatusCode.PERMISSION_DENIED, DaemonError),
    (grpc.StatusCode.UNAUTHENTICATED, DaemonError),
    (grpc.StatusCode.RESOURCE_EXHAUSTED, DaemonError),
    (grpc.StatusCode.DEADLINE_EXCEEDED, DaemonError),
    (grpc.StatusCode.OUT_OF_RANGE, DaemonError),
    (grpc.StatusCode.DATA_LOSS, DaemonError),
    (grpc.StatusCode.INTERNAL, DaemonError),
    (grpc.StatusCode.ABORTED, DaemonError),
    (grpc.StatusCode.CANCELLED, DaemonError),
    (grpc.StatusCode.UNKNOWN, DaemonError),
]


def test_the_table_has_every_status_code() -> None:
    assert {code for code, _ in CODES} == set(grpc.StatusCode) - {grpc.StatusCode.OK}


@pytest.mark.parametrize(("code", "kind"), CODES, ids=lambda value: getattr(value, "name", ""))
def test_a_status_code_raises_its_exception(
    client: Daemon, fake: FakeDaemon, code: grpc.StatusCode, kind: type[PyctrdError]
) -> None:
    fake.faults["Info"] = fault(code, "the daemon's own phrase")
    with pytest.raises(PyctrdError, match="the daemon's own phrase") as caught:
        client.content.info(DIGEST)
    assert type(caught.value) is kind
    assert isinstance(caught.value.__cause__, grpc.RpcError)
    if isinstance(caught.value, DaemonError):
        assert caught.value.code == code.name
    if isinstance(caught.value, DaemonError | NotFound):
        assert (caught.value.kind, caught.value.name) == ("content", DIGEST)


def test_an_error_names_its_object_once(client: Daemon, fake: FakeDaemon) -> None:
    fake.faults["Info"] = fault(grpc.StatusCode.NOT_FOUND, f"content digest {DIGEST}: not found")
    with pytest.raises(NotFound) as caught:
        client.content.info(DIGEST)
    assert caught.value.message == f"content digest {DIGEST}: not found"
    fake.faults["Info"] = fault(grpc.StatusCode.INTERNAL, "disk on fire")
    with pytest.raises(DaemonError) as other:
        client.content.info(DIGEST)
    assert other.value.message == f"content {DIGEST}: disk on fire"


def test_an_error_without_a_message_says_what_happened(client: Daemon, fake: FakeDaemon) -> None:
    fake.faults["Info"] = fault(grpc.StatusCode.INTERNAL, "")
    with pytest.raises(DaemonError, match="INTERNAL"):
        client.content.info(DIGEST)


def test_an_error_in_the_middle_of_a_stream(client: Daemon, fake: FakeDaemon) -> None:
    fake.blobs[DIGEST] = b"content"
    fake.faults["Read"] = fault(grpc.StatusCode.DATA_LOSS, "bad sector")
    with client.content.read(DIGEST) as chunks:
        assert next(chunks) == b"content"
        with pytest.raises(DaemonError, match="bad sector"):
            next(chunks)
    fake.faults["List"] = fault(grpc.StatusCode.INTERNAL, "index broken")
    listing = client.content.list()
    assert next(listing).digest == DIGEST
    with pytest.raises(DaemonError, match="index broken"):
        next(listing)


@pytest.mark.parametrize(
    ("phrase", "advice"),
    [
        ("no space left on device", "containerd's disk is full"),
        ("read-only file system", "cannot write to its root directory"),
    ],
)
def test_a_disk_that_the_daemon_cannot_write_to(
    client: Daemon, fake: FakeDaemon, phrase: str, advice: str
) -> None:
    fake.faults["Info"] = fault(grpc.StatusCode.UNKNOWN, f"write /var/lib/containerd/x: {phrase}")
    with pytest.raises(DaemonError, match=phrase) as caught:
        client.content.info(DIGEST)
    assert advice in (caught.value.hint or "")


def test_a_service_that_the_daemon_does_not_have(client: Daemon) -> None:
    with pytest.raises(Unsupported) as caught:
        client.diffs.apply(descriptor_of(DIGEST), [])
    assert (caught.value.kind, caught.value.name) == ("layer", DIGEST)
    assert "too old" in (caught.value.hint or "")


def test_a_daemon_that_stops_between_two_calls(sockets: Path) -> None:
    server = serve(sockets / "c.sock", FakeDaemon())
    with Daemon.connect(str(sockets / "c.sock"), environ={}) as daemon:
        stop(server)
        with pytest.raises(DaemonUnreachable, match="no such file or directory"):
            daemon.introspection.plugins()


def test_every_kind_of_call_sends_namespace_and_lease(client: Daemon, fake: FakeDaemon) -> None:
    fake.blobs[DIGEST] = b"content"
    with client.lease("test") as leased:
        (lease_id,) = fake.leases
        fake.headers.clear()
        leased.content.info(DIGEST)
        list(leased.content.list())
        with leased.content.open_ingest("ref", digest=DIGEST, size=1):
            pass
        assert len(fake.headers) == 3
        for headers in fake.headers:
            assert headers["containerd-namespace"] == "testing"
            assert headers["containerd-lease"] == lease_id
    fake.headers.clear()
    client.content.info(DIGEST)
    assert "containerd-lease" not in fake.headers[0]
    assert fake.headers[0]["containerd-namespace"] == "testing"


def test_calls_have_deadlines_and_streams_have_none(client: Daemon, fake: FakeDaemon) -> None:
    fake.blobs[DIGEST] = b"content"
    client.content.info(DIGEST)
    client.content.read_all(DIGEST, limit=10)
    with client.content.open_ingest("ref", digest=DIGEST, size=1):
        pass
    info = fake.deadlines["Info"]
    assert info is not None
    assert abs(info - channel.UNARY_SECONDS) < 10
    # without a deadline gRPC reports one some centuries away
    for method in ("Read", "STAT"):
        assert (fake.deadlines[method] or 1e9) > 1e8


def test_a_call_that_takes_too_long(
    client: Daemon, fake: FakeDaemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(channel, "UNARY_SECONDS", 0.1)
    fake.faults["Info"] = lambda _request, _context: time.sleep(0.5)
    with pytest.raises(DaemonError) as caught:
        client.content.info(DIGEST)
    assert caught.value.code == "DEADLINE_EXCEEDED"
    assert "did not answer in time" in (caught.value.hint or "")


def descriptor_of(digest: Digest) -> Descriptor:
    return Descriptor(media_type="application/vnd.oci.image.layer.v1.tar+gzip", digest=digest, size=7)

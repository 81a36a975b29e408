"""Content, images, snapshots, leases: requests to the daemon, and results made from its responses."""

from __future__ import annotations

import datetime as dt

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyctrd.containerd import Daemon, containers, content, convert, leases
from pyctrd.containerd.content import data_of
from pyctrd.errors import (
    ContentError,
    DaemonError,
    LeaseLost,
    NotFound,
    PyctrdError,
    RegistryError,
    Unsupported,
)
from pyctrd.oci.errors import IncompleteContent
from pyctrd.oci.model import Descriptor, Digest, ImageRecord
from pyctrd.protos.services.containers.v1 import containers_pb2
from pyctrd.protos.services.content.v1 import content_pb2
from tests.containerd.fake import FakeDaemon, fault

DATA = b"0123456789" * 300_000
DIGEST = Digest.of(DATA)
IMAGE = ImageRecord(
    name="docker.io/library/alpine:latest",
    target=Descriptor(media_type="application/vnd.oci.image.index.v1+json", digest=DIGEST, size=7),
    labels={"a": "1"},
)


def test_content_is_read_from_an_offset(client: Daemon, fake: FakeDaemon) -> None:
    fake.blobs[DIGEST] = DATA
    with client.content.read(DIGEST, offset=5, size=10) as chunks:
        assert b"".join(chunks) == DATA[5:15]
    with client.content.read(DIGEST, offset=5) as chunks:
        assert b"".join(chunks) == DATA[5:]


def test_a_read_that_is_left_early_is_cancelled(client: Daemon, fake: FakeDaemon) -> None:
    fake.blobs[DIGEST] = bytes(64 * 1024 * 1024)
    with client.content.read(DIGEST) as chunks:
        next(chunks)
    assert fake.read_cancelled.wait(5)
    assert not fake.requests("Read"), "the daemon had sent it all"


def test_several_documents_are_read_at_a_time(client: Daemon, fake: FakeDaemon) -> None:
    """What is absent, damaged, or larger than its descriptor says is left out."""
    good = [b"%d" % number for number in range(100)]
    fake.blobs |= {Digest.of(data): data for data in good}
    damaged, large = Digest.of(b"damaged"), Digest.of(bytes(70_000))
    fake.blobs |= {damaged: b"changed", large: bytes(70_000)}
    wanted = [*map(Digest.of, good[:50]), damaged, large, DIGEST, *map(Digest.of, good[50:])]
    documents = [Descriptor(media_type="application/json", digest=digest, size=1) for digest in wanted]
    found = list(client.content.read_several(documents))
    assert found == [(Digest.of(data), data) for data in good]
    assert len(fake.requests("Read")) == 102  # but for the absent one


def test_a_server_that_splits_documents_is_asked_for_each(
    client: Daemon, fake: FakeDaemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(content, "_SMALL_SECONDS", 0.5)
    data = b"in two messages"
    digest = Digest.of(data)
    fake.pieces[digest] = [data[:5], data[5:]]
    documents = [Descriptor(media_type="application/json", digest=digest, size=len(data))]
    assert list(client.content.read_several(documents)) == []
    fake.pieces.clear()
    assert list(client.content.read_several(documents * 100)) == []
    assert not fake.requests("Read")


def test_read_all_has_a_limit(client: Daemon, fake: FakeDaemon) -> None:
    fake.blobs[DIGEST] = DATA
    assert client.content.read_all(DIGEST, limit=len(DATA)) == DATA
    with pytest.raises(ContentError, match=f"larger than {len(DATA) - 1} bytes"):
        client.content.read_all(DIGEST, limit=len(DATA) - 1)


def test_labels_are_updated_one_by_one(client: Daemon, fake: FakeDaemon) -> None:
    client.content.set_labels(DIGEST, {"containerd.io/gc.ref.content.m.0": "x", "gone": ""})
    (request,) = fake.requests("Update")
    assert sorted(request.update_mask.paths) == ["labels.containerd.io/gc.ref.content.m.0", "labels.gone"]
    assert dict(request.info.labels) == {"containerd.io/gc.ref.content.m.0": "x", "gone": ""}


def test_without_labels_there_is_no_call(client: Daemon, fake: FakeDaemon) -> None:
    client.content.set_labels(DIGEST, {})
    assert not fake.calls


def test_aborting_an_absent_ingest_succeeds(client: Daemon, fake: FakeDaemon) -> None:
    fake.faults["Abort"] = fault(grpc.StatusCode.NOT_FOUND, "no such ref")
    client.content.abort("layer-x")
    fake.faults["Abort"] = fault(grpc.StatusCode.INTERNAL, "disk on fire")
    with pytest.raises(DaemonError, match="layer-x: disk on fire"):
        client.content.abort("layer-x")


def test_an_image_update_names_its_fields(client: Daemon, fake: FakeDaemon) -> None:
    assert client.images.update(IMAGE, fields=["target", "labels.a"]) == IMAGE
    (request,) = fake.requests("Images.Update")
    assert list(request.update_mask.paths) == ["target", "labels.a"]


def test_an_image_update_without_fields_is_refused(client: Daemon, fake: FakeDaemon) -> None:
    with pytest.raises(ValueError, match="must name the fields"):
        client.images.update(IMAGE, fields=[])
    assert not fake.calls


def test_the_default_snapshotter(client: Daemon, fake: FakeDaemon) -> None:
    assert client.default_snapshotter() == "overlayfs"
    assert client.snapshots.stat("", "sha256:1").kind == "committed"
    (request,) = fake.requests("Snapshots.Stat")
    assert request.snapshotter == "overlayfs"


def test_a_namespace_label_sets_the_default_snapshotter(client: Daemon, fake: FakeDaemon) -> None:
    fake.namespace_labels["containerd.io/defaults/snapshotter"] = "zfs"
    with pytest.raises(Unsupported, match="snapshotter not loaded: zfs: no zfs here: skip plugin") as caught:
        client.default_snapshotter()
    assert "has loaded overlayfs;" in (caught.value.hint or "")


def test_an_absent_snapshotter_is_named_in_the_error(client: Daemon, fake: FakeDaemon) -> None:
    fake.faults["Snapshots.Stat"] = fault(grpc.StatusCode.INVALID_ARGUMENT, "some text")
    with pytest.raises(Unsupported, match="snapshotter not loaded: lazy: there is no such plugin"):
        client.snapshots.stat("lazy", "sha256:1")
    with pytest.raises(DaemonError, match="some text"):
        client.snapshots.stat("overlayfs", "sha256:1")


def test_a_lease_has_labels_and_is_deleted(client: Daemon, fake: FakeDaemon) -> None:
    with client.lease("pyctrd pull alpine") as leased:
        assert leased.namespace == client.namespace
        ((lease_id, labels),) = fake.leases.items()
        assert labels["pyctrd.io/command"] == "pyctrd pull alpine"
        with leased.lease("inner") as inner:
            assert inner is leased
        assert lease_id in fake.leases
    assert not fake.leases
    assert [request.sync for request in fake.requests("Leases.Delete")] == [False]


@pytest.mark.parametrize("error", [ZeroDivisionError, KeyboardInterrupt])
def test_a_lease_is_deleted_after_an_error(
    client: Daemon, fake: FakeDaemon, error: type[BaseException]
) -> None:
    with pytest.raises(error), client.lease("test"):
        raise error
    assert fake.requests("Leases.Create")
    assert not fake.leases


def test_a_lease_deleted_by_another_client_is_an_error(client: Daemon, fake: FakeDaemon) -> None:
    fake.faults["Leases.Delete"] = fault(grpc.StatusCode.NOT_FOUND, "no such lease")
    words = "not found: it was deleted by another client while 'pull' was using it$"
    with pytest.raises(LeaseLost, match=words), client.lease("pull"):
        pass


@pytest.mark.parametrize(
    "failure", [NotFound("gone", kind="content", name="x"), IncompleteContent("gone", missing=[])]
)
def test_failures_after_a_lost_lease_are_reported_as_a_lost_lease(
    client: Daemon, fake: FakeDaemon, failure: PyctrdError
) -> None:
    fake.faults["Leases.Delete"] = fault(grpc.StatusCode.NOT_FOUND, "no such lease")
    with pytest.raises(LeaseLost, match="gone") as caught, client.lease("pull"):
        raise failure
    assert caught.value.__cause__ is failure
    assert caught.value.exit_code == 1


@pytest.mark.parametrize("failure", [RegistryError("refused"), KeyboardInterrupt()])
def test_a_lost_lease_does_not_hide_other_errors(
    client: Daemon, fake: FakeDaemon, failure: BaseException
) -> None:
    fake.faults["Leases.Delete"] = fault(grpc.StatusCode.NOT_FOUND, "no such lease")
    with pytest.raises(type(failure)), client.lease("pull"):
        raise failure


def test_an_expired_lease_is_an_error(
    client: Daemon, fake: FakeDaemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leases, "LIFETIME", dt.timedelta(0))
    fake.faults["Leases.Delete"] = fault(grpc.StatusCode.NOT_FOUND, "no such lease")
    with pytest.raises(LeaseLost, match="not found: it expired at 20"), client.lease("pull"):
        pass


def test_content_that_is_absent_without_its_lease_is_a_lost_lease(client: Daemon, fake: FakeDaemon) -> None:
    gone = NotFound("content x: not found", kind="content", name="x")
    with pytest.raises(NotFound, match="content x: not found") as caught, client.lease("test"):
        raise gone
    assert caught.value is gone  # the lease exists, so it is not the reason
    fake.faults["Leases.Delete"] = fault(grpc.StatusCode.NOT_FOUND, "no such lease")
    words = r"^lease \S+: not found: .*: content x: not found"
    with pytest.raises(LeaseLost, match=words) as lost, client.lease("test"):
        raise gone
    assert lost.value.kind == "lease"
    assert f"{client.address} now belongs to another containerd" in (lost.value.hint or "")
    with pytest.raises(ZeroDivisionError), client.lease("test"):
        raise ZeroDivisionError


def test_a_lease_that_cannot_be_deleted(client: Daemon, fake: FakeDaemon) -> None:
    fake.faults["Leases.Delete"] = fault(grpc.StatusCode.INTERNAL, "disk on fire")
    with pytest.raises(DaemonError, match="disk on fire"), client.lease("test"):
        pass
    with pytest.raises(ZeroDivisionError) as caught, client.lease("test"):
        raise ZeroDivisionError
    assert "expires within 24 hours" in caught.value.__notes__[0]


def test_a_lease_that_cannot_be_created(client: Daemon, fake: FakeDaemon) -> None:
    fake.faults["Leases.Create"] = fault(grpc.StatusCode.INTERNAL, "disk on fire")
    with pytest.raises(DaemonError, match="disk on fire"), client.lease("test"):
        pytest.fail("the context was entered")


def test_lease_labels_are_within_the_limits_of_the_server() -> None:
    now = dt.datetime(2026, 1, 2, 3, 4, 5, 678, tzinfo=dt.timezone(dt.timedelta(hours=2)))
    labels = leases.lease_labels("ä" * 5000, now)
    assert labels["containerd.io/gc.expire"] == "2026-01-03T01:04:05Z"
    assert 4090 < len("pyctrd.io/command") + len(labels["pyctrd.io/command"].encode()) <= 4096


def test_lease_ids_are_unique() -> None:
    assert len({leases.new_lease_id() for _ in range(100)}) == 100


def test_times_are_in_utc_and_unset_ones_are_none() -> None:
    info = content_pb2.Info()
    assert convert.to_datetime(info.created_at) is None
    info.created_at.FromJsonString("0001-01-01T00:00:00Z")  # the zero time of Go
    assert convert.to_datetime(info.created_at) is None
    info.created_at.FromJsonString("2026-01-02T03:04:05.678901234Z")
    assert convert.to_datetime(info.created_at) == dt.datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=dt.UTC)


@given(data=st.binary(max_size=300), offset=st.integers(min_value=0, max_value=2**63 - 1))
def test_data_is_extracted_without_protobuf(data: bytes, offset: int) -> None:
    message = content_pb2.ReadContentResponse(offset=offset, data=data).SerializeToString()
    assert data_of(message) == data
    assert isinstance(data_of(message), memoryview) == bool(data)


@given(data=st.binary(min_size=1, max_size=50), later=st.binary(min_size=1, max_size=50))
def test_messages_of_any_other_form_are_parsed_by_protobuf(data: bytes, later: bytes) -> None:
    parts = [content_pb2.ReadContentResponse(data=item).SerializeToString() for item in (data, later)]
    assert data_of(b"".join(parts)) == later  # the last value counts
    assert data_of(parts[0] + b"\x18\x01") == data  # a field of a later version


@pytest.mark.parametrize(
    ("record", "image_id"),
    [
        (
            b'{"Version":"v1","Metadata":{"ID":"c","ImageRef":"sha256:0123","Config":{"image":{}}}}',
            "sha256:0123",
        ),
        (b'{"Version":"v1","Metadata":{}}', ""),
        (b'{"Metadata":{"ImageRef":7}}', ""),
        (b"\xff", ""),
        (None, ""),
    ],
)
def test_the_image_of_a_container_of_cri(record: bytes | None, image_id: str) -> None:
    message = containers_pb2.Container(id="c", image="docker.io/a:1")
    if record is not None:
        message.extensions["io.cri-containerd.container.metadata"].value = record
    found = containers.to_container(message)
    assert (found.image, found.image_id) == ("docker.io/a:1", image_id)

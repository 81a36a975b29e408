"""The containerd package on real daemons: the behaviour it relies on, and its results.

The first tests use bare stubs of containerd, and fail if a new release behaves differently.
"""

from __future__ import annotations

import concurrent.futures
import datetime as dt
import gzip
import hashlib
import io
import os
import tarfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress

import grpc
import pytest

from integration.rig.containerd import Containerd
from pyctrd.containerd import Daemon
from pyctrd.containerd.ingest import MESSAGE_BYTES, WINDOW
from pyctrd.errors import (
    AlreadyExists,
    DaemonUnreachable,
    FailedPrecondition,
    IngestLocked,
    LeaseLost,
    NotFound,
    Unsupported,
)
from pyctrd.oci.model import Descriptor, Digest, ImageRecord
from pyctrd.protos.services.content.v1 import content_pb2, content_pb2_grpc

LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
PATIENCE_SECONDS = 20.0


@pytest.fixture
def client(containerd: Containerd, namespace: str) -> Iterator[Daemon]:
    with Daemon.connect(str(containerd.address), namespace, environ={}) as daemon:
        yield daemon


@pytest.fixture
def stub(containerd: Containerd) -> Iterator[content_pb2_grpc.ContentStub]:
    """A bare stub of containerd's content service; see `headers`."""
    with grpc.insecure_channel(f"unix:{containerd.address}") as channel:
        yield content_pb2_grpc.ContentStub(channel)


@pytest.fixture
def headers(namespace: str) -> tuple[tuple[str, str], ...]:
    return (("containerd-namespace", namespace),)


def new_blob(size: int) -> tuple[bytes, Digest]:
    data = os.urandom(size)
    return data, Digest.of(data)


def put(client: Daemon, data: bytes) -> Digest:
    digest = Digest.of(data)
    with client.content.open_ingest(f"layer-{digest}", digest=digest, size=len(data)) as ingest:
        ingest.write(data)
        ingest.commit()
    return digest


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < deadline, f"it did not come to pass within {PATIENCE_SECONDS} seconds"
        time.sleep(0.05)


def collect_garbage(client: Daemon) -> None:
    """Run the garbage collector, which otherwise may wait for half a minute on a busy machine."""
    client.leases.create("collect", {})
    client.leases.delete("collect", sync=True)


def has(client: Daemon, digest: Digest) -> bool:
    try:
        return client.content.info(digest).digest == digest
    except NotFound:
        return False


# --- facts about containerd -------------------------------------------------------------------------------


def write_request(action: int, **fields: object) -> content_pb2.WriteContentRequest:
    return content_pb2.WriteContentRequest(action=action, **fields)  # type: ignore[arg-type]


def test_a_commit_at_offset_zero_truncates(
    stub: content_pb2_grpc.ContentStub, headers: tuple[tuple[str, str], ...]
) -> None:
    """This is why the client sends the offset with every message."""
    data, digest = new_blob(3000)
    requests = [
        write_request(content_pb2.STAT, ref="t50", total=len(data), expected=digest),
        write_request(content_pb2.WRITE, offset=0, data=data),
        write_request(content_pb2.COMMIT, offset=0, total=len(data), expected=digest),
    ]
    call = stub.Write(iter(requests), metadata=headers)
    assert [next(call).offset, next(call).offset] == [0, len(data)]
    with pytest.raises(grpc.RpcError) as caught:
        next(call)
    assert caught.value.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert "0 != 3000" in (caught.value.details() or "")
    status = stub.Status(content_pb2.StatusRequest(ref="t50"), metadata=headers)
    assert status.status.offset == 0


def test_a_commit_has_two_responses(
    stub: content_pb2_grpc.ContentStub, headers: tuple[tuple[str, str], ...]
) -> None:
    """This is why the client reads a stream to its end."""
    data, digest = new_blob(3000)
    requests = [
        write_request(content_pb2.STAT, ref="t51", total=len(data), expected=digest),
        write_request(content_pb2.WRITE, offset=0, data=data),
        write_request(content_pb2.COMMIT, offset=len(data), total=len(data), expected=digest),
    ]
    answers = list(stub.Write(iter(requests), metadata=headers))
    assert [content_pb2.WriteAction.Name(answer.action) for answer in answers] == [
        "STAT",
        "WRITE",
        "COMMIT",
        "COMMIT",
    ]
    assert answers[-1] == answers[-2]


def test_a_write_of_existing_content_puts_it_under_the_lease(client: Daemon) -> None:
    """This is why the client opens a write for existing content, too, instead of only looking it up."""
    with client.lease("first") as leased:
        digest = put(leased, b'{"schemaVersion": 2}' + os.urandom(20))
        target = Descriptor(media_type=MANIFEST, digest=digest, size=40)
        leased.images.create(ImageRecord(name="t52:latest", target=target))
    with client.lease("second") as leased:
        with (
            pytest.raises(AlreadyExists),
            leased.content.open_ingest(f"manifest-{digest}", digest=digest, size=40),
        ):
            pytest.fail("the content was opened for writing")
        client.images.delete("t52:latest", sync=True)
        assert has(client, digest)
    collect_garbage(client)
    assert not has(client, digest)


# --- writing ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, 1024 * 1024, 5 * 1024 * 1024 + 17])
def test_written_content_is_read_back(client: Daemon, containerd: Containerd, size: int) -> None:
    data, digest = new_blob(size)
    with client.lease("test") as leased:
        with leased.content.open_ingest(f"layer-{digest}", digest=digest, size=size) as ingest:
            for start in range(0, size, 300_000):
                ingest.write(data[start : start + 300_000])
            ingest.commit(labels={"test/label": "1"})
        info = leased.content.info(digest)
        assert (info.size, info.labels) == (size, {"test/label": "1"})
        assert leased.content.read_all(digest, limit=size) == data
        with leased.content.read(digest, offset=size // 2) as chunks:
            assert b"".join(chunks) == data[size // 2 :]
        assert containerd.ctr("content", "get", digest, namespace=client.namespace).stdout == data


def fail_in_the_middle(client: Daemon, data: bytes, digest: Digest) -> None:
    with client.content.open_ingest("layer-resume", digest=digest, size=len(data)) as ingest:
        ingest.write(data[:1_234_567])
        raise ZeroDivisionError


def test_an_interrupted_write_is_resumed(client: Daemon) -> None:
    data, digest = new_blob(3_000_000)
    with client.lease("test") as leased:
        with pytest.raises(ZeroDivisionError):
            fail_in_the_middle(leased, data, digest)
        (status,) = leased.content.ingests()
        assert (status.ref, status.offset, status.total) == ("layer-resume", 1_234_567, len(data))
        with leased.content.open_ingest("layer-resume", digest=digest, size=len(data)) as ingest:
            assert ingest.offset == 1_234_567
            ingest.write(data[ingest.offset :])
            ingest.commit()
        assert leased.content.read_all(digest, limit=len(data)) == data
        assert leased.content.ingests() == ()


def test_a_complete_ingest_is_committed_without_writing(client: Daemon) -> None:
    data, digest = new_blob(100_000)
    with client.lease("test") as leased:
        with leased.content.open_ingest("layer-x", digest=digest, size=len(data)) as ingest:
            ingest.write(data)
        with leased.content.open_ingest("layer-x", digest=digest, size=len(data)) as ingest:
            assert ingest.offset == len(data)
            ingest.commit()
        assert has(leased, digest)


def test_an_ingest_is_locked_during_a_write(client: Daemon) -> None:
    data, digest = new_blob(100_000)
    with client.lease("test") as leased:
        with leased.content.open_ingest("layer-locked", digest=digest, size=len(data)) as ingest:
            with (
                pytest.raises(IngestLocked, match="locked") as caught,
                leased.content.open_ingest("layer-locked", digest=digest, size=len(data)),
            ):
                pytest.fail("the ingest was opened twice")
            assert caught.value.name == "layer-locked"
            ingest.write(data)
        with leased.content.open_ingest("layer-locked", digest=digest, size=len(data)) as ingest:
            ingest.commit()  # the lock is released when the context is left


def test_wrong_bytes_are_refused_until_aborted(client: Daemon) -> None:
    data, digest = new_blob(100_000)
    with client.lease("test") as leased:
        for _ in range(2):
            with leased.content.open_ingest("layer-bad", digest=digest, size=len(data)) as ingest:
                ingest.write(bytes(len(data) - ingest.offset))
                with pytest.raises(FailedPrecondition, match="unexpected commit digest"):
                    ingest.commit()
            assert leased.content.ingest_status("layer-bad").offset == len(data)
        leased.content.abort("layer-bad")
        leased.content.abort("layer-bad")
        with leased.content.open_ingest("layer-bad", digest=digest, size=len(data)) as ingest:
            assert ingest.offset == 0
            ingest.write(data)
            ingest.commit()


def test_a_wrong_size_is_refused(client: Daemon) -> None:
    data, digest = new_blob(1000)
    with (
        client.lease("test") as leased,
        leased.content.open_ingest("short", digest=digest, size=2000) as ingest,
    ):
        ingest.write(data)
        with pytest.raises(FailedPrecondition, match="failed size validation"):
            ingest.commit()


def test_content_of_another_namespace_is_adopted(client: Daemon, containerd: Containerd) -> None:
    data, digest = new_blob(100_000)
    other = Daemon.connect(str(containerd.address), f"{client.namespace}-2", environ={})
    with client.lease("test") as leased, other, other.lease("test") as elsewhere:
        put(leased, data)
        assert not has(elsewhere, digest)
        with elsewhere.content.open_ingest(f"layer-{digest}", digest=digest, size=len(data)) as ingest:
            assert ingest.offset == len(data)
            ingest.commit()
        assert elsewhere.content.read_all(digest, limit=len(data)) == data


def test_two_clients_write_a_blob_at_the_same_time(client: Daemon) -> None:
    data, digest = new_blob(2_000_000)
    both_open = threading.Barrier(2)

    def write(ref: str) -> None:
        with leased.content.open_ingest(ref, digest=digest, size=len(data)) as ingest:
            both_open.wait(10)
            ingest.write(data)
            with suppress(AlreadyExists):
                ingest.commit()

    with client.lease("test") as leased, concurrent.futures.ThreadPoolExecutor(2) as pool:
        list(pool.map(write, ["one", "two"]))
        assert leased.content.read_all(digest, limit=len(data)) == data


def test_a_read_that_is_left_early_is_cancelled(client: Daemon) -> None:
    with client.lease("test") as leased:
        digest = put(leased, os.urandom(20_000_000))
        for _ in range(20):
            with leased.content.read(digest) as chunks:
                assert next(chunks)
        assert has(leased, digest)


# --- labels, leases, images -------------------------------------------------------------------------------


def test_labels_are_merged_and_removed(client: Daemon) -> None:
    with client.lease("test") as leased:
        digest = put(leased, os.urandom(10))
        leased.content.set_labels(digest, {"containerd.io/gc.ref.content.l.0": digest, "keep": "1"})
        leased.content.set_labels(digest, {"keep": "2", "more": "x"})
        leased.content.set_labels(digest, {"more": ""})
        labels = {"containerd.io/gc.ref.content.l.0": digest, "keep": "2"}
        assert leased.content.info(digest).labels == labels
        found = list(leased.content.list([f'labels."keep"==2,digest=={digest}']))
        assert [info.digest for info in found] == [digest]
        with pytest.raises(NotFound, match="not found"):
            leased.content.set_labels(Digest.of(b"absent"), {"a": "1"})


def test_a_lease_expires_within_a_day_and_is_deleted(client: Daemon, containerd: Containerd) -> None:
    before = dt.datetime.now(dt.UTC)
    with client.lease("pyctrd pull alpine") as leased:
        digest = put(leased, os.urandom(10))
        (lease,) = client.leases.list()
        expires = dt.datetime.fromisoformat(lease.labels["containerd.io/gc.expire"])
        assert abs(expires - before - dt.timedelta(hours=24)) < dt.timedelta(minutes=1)
        assert lease.labels["pyctrd.io/command"] == "pyctrd pull alpine"
        assert [(item.type, item.id) for item in client.leases.resources(lease.id)] == [("content", digest)]
        listed = containerd.ctr("leases", "ls", namespace=client.namespace).stdout.decode()
        assert lease.id in listed
    assert client.leases.list() == ()
    collect_garbage(client)
    assert not has(client, digest)


def test_content_that_another_client_commits_first_is_not_under_our_lease(client: Daemon) -> None:
    """Only when it is opened again: the service answers the COMMIT without adding the blob to the lease."""
    data, digest = new_blob(1000)
    with client.lease("test") as leased:
        (lease,) = client.leases.list()
        with leased.content.open_ingest(f"ours-{digest}", digest=digest, size=len(data)) as ingest:
            ingest.write(data)
            put(client, data)
            with pytest.raises(AlreadyExists, match="blob with expected digest"):
                ingest.commit()
        assert not client.leases.resources(lease.id)
        with (
            pytest.raises(AlreadyExists),
            leased.content.open_ingest(f"ours-{digest}", digest=digest, size=len(data)),
        ):
            pytest.fail("the content was opened for writing")
        assert [held.id for held in client.leases.resources(lease.id)] == [digest]


def test_a_write_under_a_deleted_lease(client: Daemon) -> None:
    with pytest.raises(LeaseLost, match="it was deleted by another client"):
        write_under_a_deleted_lease(client)


def write_under_a_deleted_lease(client: Daemon) -> None:
    data, digest = new_blob(10)
    with client.lease("test") as leased:
        (lease,) = client.leases.list()
        client.leases.delete(lease.id, sync=True)
        with (
            pytest.raises(NotFound) as caught,
            leased.content.open_ingest("x", digest=digest, size=len(data)),
        ):
            pytest.fail("the content was opened for writing")
        assert (caught.value.kind, caught.value.name) == ("lease", lease.id)


def test_image_records(client: Daemon) -> None:
    name = "docker.io/library/test:latest"
    target = Descriptor(media_type=MANIFEST, digest=Digest.of(b"1"), size=1)
    made = client.images.create(ImageRecord(name=name, target=target, labels={"a": "1", "b": "2"}))
    assert made.created_at is not None
    assert abs(dt.datetime.now(dt.UTC) - made.created_at) < dt.timedelta(minutes=1)
    with pytest.raises(AlreadyExists) as caught:
        client.images.create(made)
    assert (caught.value.kind, caught.value.name) == ("image", name)
    moved = Descriptor(media_type=MANIFEST, digest=Digest.of(b"2"), size=2)
    wanted = ImageRecord(name=name, target=moved, labels={"a": "3"})
    client.images.update(wanted, fields=["target", "labels.a"])
    found = client.images.get(name)
    assert (found.target, found.labels, found.created_at) == (moved, {"a": "3", "b": "2"}, made.created_at)
    assert [image.name for image in client.images.list([f"name=={name}"])] == [name]
    assert client.images.list(["name==other"]) == ()
    client.images.delete(name, sync=True)
    for call in (client.images.get, client.images.delete):
        with pytest.raises(NotFound, match=f'image "{name}": not found'):
            call(name)
    with pytest.raises(NotFound):
        client.images.update(wanted, fields=["target"])


def test_namespaces(client: Daemon) -> None:
    name = f"{client.namespace}-made"
    assert client.namespaces.create(name, {"a": "1"}).labels == {"a": "1"}
    with pytest.raises(AlreadyExists):
        client.namespaces.create(name)
    client.namespaces.set_labels(name, {"b": "2", "a": ""})
    assert client.namespaces.get(name).labels == {"b": "2"}
    assert name in [namespace.name for namespace in client.namespaces.list()]
    client.namespaces.delete(name)
    assert name not in [namespace.name for namespace in client.namespaces.list()]


# --- snapshots --------------------------------------------------------------------------------------------


def test_a_layer_is_unpacked(client: Daemon) -> None:
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        entry = tarfile.TarInfo("hello")
        entry.size = 5
        tar.addfile(entry, io.BytesIO(b"world"))
    plain = archive.getvalue()
    diff_id = Digest(f"sha256:{hashlib.sha256(plain).hexdigest()}")
    data = gzip.compress(plain, mtime=0)
    with client.lease("test") as leased:
        digest = put(leased, data)
        snapshots, layer = leased.snapshots, Descriptor(media_type=LAYER, digest=digest, size=len(data))
        mounts = snapshots.prepare("", "extract-1", "", {"containerd.io/gc.root": "1"})
        applied = leased.diffs.apply(layer, mounts)
        assert applied.digest == diff_id
        snapshots.commit("", diff_id, "extract-1", {"a": "1"})
        info = snapshots.stat("", diff_id)
        assert (info.name, info.parent, info.kind, info.labels["a"]) == (diff_id, "", "committed", "1")
        assert [item.name for item in snapshots.list(leased.default_snapshotter())] == [diff_id]
        with pytest.raises(AlreadyExists):
            snapshots.prepare("", diff_id, "")
        with pytest.raises(NotFound, match="absent"):
            snapshots.prepare("", "extract-2", "absent")
        snapshots.remove("", diff_id)
        with pytest.raises(NotFound):
            snapshots.remove("", diff_id)


def test_an_absent_layer_cannot_be_unpacked(client: Daemon) -> None:
    with client.lease("test") as leased:
        mounts = leased.snapshots.prepare("", "extract-1", "")
        absent = Descriptor(media_type=LAYER, digest=Digest.of(b"absent"), size=6)
        with pytest.raises(NotFound) as caught:
            leased.diffs.apply(absent, mounts)
        assert caught.value.name == absent.digest
        leased.snapshots.remove("", "extract-1")


def test_a_snapshotter_that_is_not_loaded(client: Daemon, containerd: Containerd) -> None:
    for call in (
        lambda: client.snapshots.stat("lazy", "x"),
        lambda: client.snapshots.prepare("lazy", "x", ""),
        lambda: list(client.snapshots.list("lazy")),
    ):
        with pytest.raises(Unsupported, match="snapshotter not loaded: lazy") as caught:
            call()
        assert all(name in (caught.value.hint or "") for name in containerd.snapshotters)
    with (
        Daemon.connect(str(containerd.address), client.namespace, snapshotter="lazy", environ={}) as other,
        pytest.raises(Unsupported),
    ):
        other.default_snapshotter()


def test_a_namespace_label_sets_the_snapshotter(client: Daemon) -> None:
    client.namespaces.create(client.namespace, {"containerd.io/defaults/snapshotter": "native"})
    assert client.default_snapshotter() == "native"


# --- the daemon -------------------------------------------------------------------------------------------


def test_version_and_plugins_of_the_daemon(client: Daemon, containerd: Containerd) -> None:
    assert client.version().version.removeprefix("v").startswith(f"{containerd.generation}.")
    assert client.introspection.server_uuid()
    loaded = [
        plugin.id
        for plugin in client.introspection.plugins(["type==io.containerd.snapshotter.v1"])
        if not plugin.error
    ]
    assert sorted(loaded) == list(containerd.snapshotters)


def write_until_it_fails(client: Daemon, containerd: Containerd) -> None:
    size = 1_000_000_000
    with client.content.open_ingest("layer-x", digest=Digest.of(b"never"), size=size) as ingest:
        for written in range(size // MESSAGE_BYTES):
            ingest.write(bytes(MESSAGE_BYTES))
            if written == 2 * WINDOW:  # by now the store has confirmed some of it
                containerd.kill()


def test_a_daemon_that_is_killed_during_a_write(fresh_containerd: Containerd, namespace: str) -> None:
    with Daemon.connect(str(fresh_containerd.address), namespace, environ={}) as client:
        with pytest.raises(DaemonUnreachable):
            write_until_it_fails(client, fresh_containerd)
        with pytest.raises(DaemonUnreachable, match="connection refused") as caught:
            client.images.list()
        assert "start containerd" in (caught.value.hint or "")
        fresh_containerd.start()
        wait_until(lambda: answers(client))
        (status,) = client.content.ingests()
        assert MESSAGE_BYTES <= status.offset < status.total == 1_000_000_000


def answers(client: Daemon) -> bool:
    try:
        client.images.list()
    except DaemonUnreachable:
        return False
    return True

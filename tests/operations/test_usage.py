"""The disk space of images: own, shared and reclaimable bytes of blobs and snapshots."""

from __future__ import annotations

import datetime as dt

import msgspec
import pytest

from pyctrd.oci.model import PINNED, PINNED_LABEL, Digest, SnapshotInfo
from pyctrd.oci.resources import Container, SnapshotUsage
from pyctrd.operations.usage import ImageUsage, SpaceTotal, UsageResult, usage
from tests.support.memory import SNAPSHOTTER, MemoryStore
from tests.support.memory_content import Resource, Unfinished

NOW = dt.datetime(2026, 11, 27, tzinfo=dt.UTC)
BLOCK = 4096


def blob(store: MemoryStore, data: bytes, **labels: str) -> Digest:
    digest = Digest.of(data)
    store.put({digest: data})
    store.content.set_labels(digest, {f"containerd.io/gc.ref.{key}": value for key, value in labels.items()})
    return digest


def image(store: MemoryStore, name: str, own: bytes, *shared: bytes, snapshot: str = "") -> Digest:
    """Store an image of a document that refers to blobs, and to a snapshot."""
    parts = {f"content.l.{number}": blob(store, data) for number, data in enumerate((own, *shared))}
    target = blob(store, f"document of {own!r}".encode(), **parts)
    if snapshot:
        store.content.set_labels(target, {f"containerd.io/gc.ref.snapshot.{SNAPSHOTTER}": snapshot})
    store.tag(
        name, {"mediaType": "application/json", "digest": target, "size": len(store.state.blobs[target])}
    )
    return target


def snapshots(store: MemoryStore, *names: str) -> None:
    """Add committed snapshots, each on the one before."""
    for parent, name in zip(("", *names), names, strict=False):
        store.state.snapshots[SNAPSHOTTER, name] = SnapshotInfo(name=name, parent=parent, kind="committed")


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore()


def used(store: MemoryStore, **how: bool) -> UsageResult:
    return usage(store, NOW, **how)


def named(found: UsageResult, name: str) -> ImageUsage:
    (image,) = (image for image in found.images if image.name == name)
    return image


def test_an_empty_namespace_has_nothing(store: MemoryStore) -> None:
    assert used(store) == UsageResult()


def test_content_of_several_images_is_shared_and_the_rest_is_their_own(store: MemoryStore) -> None:
    image(store, "registry.example/a:1", b"a" * 1000, b"base" * 100)
    image(store, "registry.example/b:1", b"b" * 10, b"base" * 100)
    found = used(store)
    a, b = found.images
    document = len(b"document of b'") + 1
    assert (a.bytes_own, a.bytes_shared) == (1000 + document + 1000, 400)
    assert (b.bytes_own, b.bytes_shared) == (10 + document + 10, 400)
    assert (a.bytes_blobs, a.bytes_snapshots) == (a.bytes_own + a.bytes_shared, 0)
    assert found.blobs == SpaceTotal(
        count=5, bytes=a.bytes_own + b.bytes_own + 400, reclaimable=a.bytes_own + b.bytes_own + 400
    )
    assert (found.bytes, found.reclaimable) == (found.blobs.bytes, found.blobs.bytes)


def test_all_names_of_one_target_are_one_image(store: MemoryStore) -> None:
    target = image(store, "registry.example/a:1", b"a")
    (record,) = store.state.images.values()
    for other in (f"registry.example/a@{target}", str(target), "registry.example/a:latest"):
        store.state.images[other] = msgspec.structs.replace(record, name=other)
    (found,) = used(store).images
    assert (found.name, found.bytes_shared) == ("registry.example/a:1", 0)
    assert len(found.names) == 4


def test_snapshots_belong_to_the_image_whose_content_refers_to_them(store: MemoryStore) -> None:
    snapshots(store, "base", "top")
    image(store, "registry.example/a:1", b"a", snapshot="top")
    image(store, "registry.example/b:1", b"b", snapshot="base")
    found = used(store)
    assert named(found, "registry.example/a:1").bytes_snapshots == 2 * BLOCK
    assert named(found, "registry.example/a:1").bytes_shared == BLOCK
    assert named(found, "registry.example/b:1").bytes_shared == BLOCK
    assert found.snapshots.snapshotters == {
        SNAPSHOTTER: SpaceTotal(count=2, bytes=2 * BLOCK, reclaimable=2 * BLOCK)
    }
    assert (found.snapshots.count, found.snapshots.bytes) == (2, 2 * BLOCK)


def test_what_containers_use_and_what_is_pinned_is_not_reclaimable(store: MemoryStore) -> None:
    snapshots(store, "base", "top")
    image(store, "registry.example/used:1", b"u" * 10, b"shared", snapshot="base")
    image(store, "registry.example/pinned:1", b"p" * 10)
    image(store, "registry.example/free:1", b"f" * 10, b"shared")
    store.state.containers["c"] = Container(
        id="c", image="registry.example/used:1", snapshotter=SNAPSHOTTER, snapshot_key="top"
    )
    pinned = store.state.images["registry.example/pinned:1"]
    store.state.images[pinned.name] = msgspec.structs.replace(pinned, labels={PINNED_LABEL: PINNED})
    found = used(store)
    free = named(found, "registry.example/free:1")
    assert free.bytes_reclaimable == free.bytes_own == found.blobs.reclaimable
    assert named(found, "registry.example/used:1").in_use
    assert named(found, "registry.example/pinned:1").pinned
    assert {image.bytes_reclaimable for image in found.images if image.in_use or image.pinned} == {0}
    assert found.snapshots.reclaimable == 0
    assert found.snapshots.bytes == 2 * BLOCK


def test_what_a_lease_holds_is_not_reclaimable(store: MemoryStore) -> None:
    image(store, "registry.example/a:1", b"a" * 10)
    store.state.leases["l"] = {Resource("content", Digest.of(b"a" * 10))}
    found = used(store)
    (only,) = found.images
    assert only.bytes_own - only.bytes_reclaimable == 10
    assert found.blobs.bytes - found.blobs.reclaimable == 10


def test_what_nothing_refers_to_is_reclaimable(store: MemoryStore) -> None:
    blob(store, b"orphan")
    snapshots(store, "orphan")
    store.state.ingests["gone"] = Unfinished(bytearray(b"123"), leased=True)
    store.state.ingests["kept"] = Unfinished(bytearray(b"1234"))
    found = used(store)
    assert found.images == ()
    assert found.blobs == SpaceTotal(count=1, bytes=6, reclaimable=6)
    assert found.snapshots.reclaimable == BLOCK
    assert found.ingests == SpaceTotal(count=2, bytes=7)


def test_what_another_namespace_has_is_only_reclaimable_in_both(store: MemoryStore) -> None:
    other = store.in_namespace("k8s.io")
    for each in (store, other):
        image(each, "registry.example/a:1", b"a" * 10)
    image(other, "registry.example/b:1", b"b")
    here = used(store)
    assert (here.blobs.reclaimable, here.images[0].bytes_reclaimable) == (0, 0)
    everywhere = used(store, all_namespaces=True)
    assert [(image.namespace, image.name) for image in everywhere.images] == [
        ("default", "registry.example/a:1"),
        ("k8s.io", "registry.example/a:1"),
        ("k8s.io", "registry.example/b:1"),
    ]
    assert everywhere.blobs.count == 4
    assert (
        everywhere.blobs.bytes
        == everywhere.blobs.reclaimable
        == here.blobs.bytes + used(other).images[1].bytes_own
    )
    pinned = other.state.images["registry.example/a:1"]
    other.state.images[pinned.name] = msgspec.structs.replace(pinned, labels={PINNED_LABEL: PINNED})
    assert used(store, all_namespaces=True).blobs.reclaimable == everywhere.images[2].bytes_own


def test_a_snapshot_that_is_gone_meanwhile_takes_no_space(
    store: MemoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    snapshots(store, "a", "b", "c")

    def size(snapshotter: str, name: str) -> SnapshotUsage:
        if name == "b":
            store.state.snapshots.pop((snapshotter, name), None)
        store.snapshots.stat(snapshotter, name)
        return SnapshotUsage(bytes=BLOCK, inodes=1)

    monkeypatch.setattr(store.snapshots, "usage", size)
    found = used(store)
    assert (found.snapshots.count, found.snapshots.bytes) == (3, 2 * BLOCK)

"""What a removal frees, and who uses an image."""

from __future__ import annotations

import datetime as dt

import msgspec
import pytest

from pyctrd.oci.model import PINNED, PINNED_LABEL, Digest, ImageRecord, SnapshotInfo
from pyctrd.oci.resources import Container, LeaseResource
from pyctrd.steps.gc_nodes import Node
from pyctrd.steps.image_use import ImageUse, uses
from pyctrd.steps.removal import Removal, RemovedBlob, RemovedSnapshot, RemoveResult, read_graph
from tests.support import shapes
from tests.support.images import Graph
from tests.support.memory import SNAPSHOTTER, MemoryStore

NOW = dt.datetime(2026, 11, 27, tzinfo=dt.UTC)


def removal_from(store: MemoryStore) -> Removal:
    return Removal(store, read_graph(store, NOW))


def add(store: MemoryStore, name: str, graph: Graph) -> ImageRecord:
    """Store an image whose target refers to all of its blobs."""
    store.put(graph.blobs)
    others = sorted(set(graph.blobs) - {graph.digest})
    labels = {f"containerd.io/gc.ref.content.{number}": digest for number, digest in enumerate(others)}
    store.content.set_labels(Digest(graph.digest), labels)
    return store.tag(name, graph.root)


def images(*names: str) -> list[Node]:
    return [Node("image", name) for name in names]


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore()


def test_a_removal_frees_what_only_the_image_keeps(store: MemoryStore) -> None:
    one, two = shapes.single(), shapes.five_platform()
    add(store, "one", one)
    add(store, "two", two)
    common = set(one.blobs) & set(two.blobs)
    result = removal_from(store).predict(images("one"))
    assert result.images == ("one",)
    assert {blob.digest: blob.size for blob in result.blobs} == {
        digest: len(data) for digest, data in one.blobs.items() if digest not in common
    }
    assert result.bytes == sum(blob.size for blob in result.blobs)


def test_of_two_names_the_last_one_frees_the_content(store: MemoryStore) -> None:
    graph = shapes.single()
    add(store, "one", graph)
    store.tag("other", graph.root)
    removal = removal_from(store)
    assert removal.predict(images("one")) == RemoveResult(images=("one",))
    assert {blob.digest for blob in removal.predict(images("one", "other")).blobs} == set(graph.blobs)


def test_content_of_another_namespace_frees_nothing(store: MemoryStore) -> None:
    graph = shapes.single()
    add(store, "one", graph)
    store.in_namespace("other").put(graph.blobs)
    result = removal_from(store).predict(images("one"))
    assert {blob.digest for blob in result.blobs if blob.shared} == set(graph.blobs)
    assert result.bytes == 0


@pytest.mark.parametrize("sync", [False, True])
def test_what_is_predicted_is_carried_out(store: MemoryStore, sync: bool) -> None:
    graph = shapes.single()
    add(store, "one", graph)
    top = SnapshotInfo(name="top", parent="base", kind="committed", labels={})
    base = SnapshotInfo(name="base", parent="", kind="committed", labels={})
    store.state.snapshots |= {(SNAPSHOTTER, "top"): top, (SNAPSHOTTER, "base"): base}
    label = {f"containerd.io/gc.ref.snapshot.{SNAPSHOTTER}": "top"}
    store.content.set_labels(Digest(graph.digest), label)
    removal = removal_from(store)
    predicted = removal.predict(images("one"))
    assert predicted.snapshots == tuple(
        RemovedSnapshot(snapshotter=SNAPSHOTTER, key=key, bytes=4096) for key in ("base", "top")
    )
    assert removal.carry_out(images("one"), sync=sync) == predicted
    assert store.state.images == {}
    assert bool(store.state.blobs) == (not sync)
    assert bool(store.state.snapshots) == (not sync)


def test_what_another_client_deletes_first_is_no_error(store: MemoryStore) -> None:
    add(store, "one", shapes.single())
    add(store, "two", shapes.five_platform())
    removal = removal_from(store)
    store.images.delete("one", sync=True)
    result = removal.carry_out(images("one", "two"))
    assert result.images == ("one", "two")
    assert store.state.blobs == {}


def test_what_another_client_keeps_in_the_meantime_is_not_reported(store: MemoryStore) -> None:
    graph = shapes.single()
    record = add(store, "one", graph)
    removal = removal_from(store)
    store.leases.create("held", {})
    store.leases.add("held", LeaseResource(type="content", id=str(record.target.digest)))
    assert removal.carry_out(images("one")) == RemoveResult(images=("one",))
    assert set(store.state.blobs) == set(graph.blobs)


def test_leases_and_unfinished_writes(store: MemoryStore) -> None:
    blob = Digest.of(b"held")
    store.put({blob: b"held"})
    store.leases.create("held", {})
    store.leases.add("held", LeaseResource(type="content", id=str(blob)))
    with store.content.open_ingest("write", digest=None, size=10) as ingest:
        ingest.write(b"half")
    result = removal_from(store).carry_out([Node("lease", "held"), Node("ingest", "write")])
    assert result == RemoveResult(
        blobs=(RemovedBlob(digest=blob, size=4),), leases=("held",), ingests=("write",)
    )
    assert (store.state.blobs, store.state.leases, store.state.ingests) == ({}, {}, {})


def test_who_uses_an_image() -> None:
    target = MemoryStore().tag("docker.io/a:1", shapes.single().root)
    other = MemoryStore().tag("docker.io/b:1", shapes.five_platform().root)
    by_id = msgspec.structs.replace(target, name="sha256:0123", labels={PINNED_LABEL: PINNED})
    almost = msgspec.structs.replace(other, labels={PINNED_LABEL: "no"})
    containers = [Container(id="2", image="docker.io/a:1"), Container(id="1", image="sha256:0123")]
    found = uses([target, by_id, almost], [*containers, Container(id="3", image="gone:1"), Container(id="4")])
    assert found == {
        target.target.digest: ImageUse(
            named={"1": "sha256:0123", "2": "docker.io/a:1"}, pinned=("sha256:0123",)
        )
    }
    assert found[target.target.digest].containers == ("1", "2")
    assert all(found.values())
    assert not ImageUse()


def test_a_container_of_cri_uses_the_image_that_it_was_made_from() -> None:
    """Not the one that its name has moved to since, unless nothing else is known."""
    old = MemoryStore().tag("sha256:0123", shapes.single().root)
    new = MemoryStore().tag("docker.io/a:1", shapes.five_platform().root)
    container = Container(id="1", image="docker.io/a:1", image_id="sha256:0123")
    assert set(uses([old, new], [container])) == {old.target.digest}
    assert set(uses([new], [container])) == {new.target.digest}

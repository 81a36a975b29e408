"""What keeps an object: how it is named, and what an image's chains are."""

from __future__ import annotations

import datetime as dt
from functools import partial

import msgspec
import pytest

from pyctrd.errors import AmbiguousReference, ImageNotFound, NotFound, Remedy
from pyctrd.oci.model import PINNED, PINNED_LABEL, Digest, SnapshotInfo
from pyctrd.oci.resources import Container, LeaseResource
from pyctrd.operations import lookup
from pyctrd.operations.why import WhyResult, why
from tests.support import shapes
from tests.support.images import Graph
from tests.support.memory import SNAPSHOTTER, MemoryStore

APP = "docker.io/library/app:1"
TOP = f"sha256:{64 * 'e'}"
EXPIRY = dt.datetime(2026, 11, 28, tzinfo=dt.UTC)


@pytest.fixture
def graph() -> Graph:
    return shapes.single()


@pytest.fixture
def store(graph: Graph) -> MemoryStore:
    """An image whose manifest refers to its other blobs, one of which refers to a snapshot."""
    store = MemoryStore()
    store.put(graph.blobs)
    store.tag(APP, graph.root)
    labels = {f"containerd.io/gc.ref.content.{number}": digest for number, digest in enumerate(others(graph))}
    store.content.set_labels(Digest(graph.digest), labels)
    keeping = {f"containerd.io/gc.ref.snapshot.{SNAPSHOTTER}": TOP}
    store.content.set_labels(Digest(others(graph)[0]), keeping)
    for name, parent in ((TOP, "base"), ("base", ""), ("web", TOP)):
        store.state.snapshots[SNAPSHOTTER, name] = SnapshotInfo(name=name, parent=parent)
    return store


def others(graph: Graph) -> list[str]:
    return sorted(set(graph.blobs) - {graph.digest})


def run(store: MemoryStore, name: str) -> WhyResult:
    return why(
        store,
        name,
        find=partial(lookup.find, store.images),
        now=dt.datetime(2026, 11, 27, tzinfo=dt.UTC),
    )


def kinds(result: WhyResult) -> list[str]:
    return [" ".join(item.kind for item in chain) for chain in result.chains]


@pytest.mark.parametrize("digits", [None, 20, 8])
def test_a_blob_by_its_digest_or_a_prefix(store: MemoryStore, graph: Graph, digits: int | None) -> None:
    digest = Digest(others(graph)[1])
    result = run(store, str(digest) if digits is None else digest.encoded[:digits])
    assert [(item.kind, item.name) for item in result.objects] == [("content", digest)]
    assert [[(item.kind, item.name, item.via) for item in chain] for chain in result.chains] == [
        [
            ("image", APP, ""),
            ("content", graph.digest, "target"),
            ("content", digest, "containerd.io/gc.ref.content.1"),
        ]
    ]


@pytest.mark.parametrize("name", ["base", "ba", TOP, TOP[:12], 16 * "e"])
def test_a_snapshot_by_its_key_or_a_prefix(store: MemoryStore, name: str) -> None:
    result = run(store, name)
    assert [(item.kind, item.snapshotter) for item in result.objects] == [("snapshot", SNAPSHOTTER)]
    tail = " snapshot" if name.startswith("b") else ""
    assert kinds(result) == [f"image content content snapshot{tail}"]


def test_without_a_chain_the_next_collection_removes_it(store: MemoryStore) -> None:
    assert run(store, "web").chains == ()
    store.collect_garbage()
    with pytest.raises(NotFound):
        run(store, "web")


def test_a_container_and_a_lease(store: MemoryStore, graph: Graph) -> None:
    store.state.containers["c"] = Container(id="c", image=APP, snapshotter=SNAPSHOTTER, snapshot_key="web")
    labels = {"containerd.io/gc.expire": "2026-11-28T00:00:00Z", "pyctrd.io/command": "pull"}
    store.leases.create("l", labels)
    store.leases.add("l", LeaseResource(type="content", id=graph.digest))
    assert kinds(run(store, "web")) == ["container snapshot"]
    first, second = run(store, graph.digest).chains
    assert [item.kind for item in second] == ["lease", "content"]
    assert (second[0].expires_at, second[0].purpose) == (EXPIRY, "pull")
    assert [item.kind for item in first] == ["image", "content"]


@pytest.mark.parametrize("name", [APP, "app:1"])
def test_an_image_has_its_record_and_what_else_keeps_its_content(
    store: MemoryStore, graph: Graph, name: str
) -> None:
    store.tag("docker.io/library/app:2", graph.root)
    store.state.containers["c"] = Container(id="c", image="docker.io/library/app:2")
    record = store.state.images[APP]
    store.state.images[APP] = msgspec.structs.replace(record, labels={PINNED_LABEL: PINNED})
    result = run(store, name)
    assert [[item.name for item in chain] for chain in result.chains] == [
        [APP],
        ["docker.io/library/app:2", graph.digest],
    ]
    assert (result.containers, result.pinned) == (("c",), (APP,))


def test_an_expired_image_is_removed_next(store: MemoryStore) -> None:
    record = store.state.images[APP]
    expired = {"containerd.io/gc.expire": "2026-11-26T00:00:00Z"}
    store.state.images[APP] = msgspec.structs.replace(record, labels=expired)
    assert run(store, APP).chains == ()


def test_an_image_by_its_id_if_its_content_is_missing(store: MemoryStore, graph: Graph) -> None:
    del store.state.blobs[Digest(graph.digest)]
    assert [item.kind for item in run(store, graph.digest).objects] == ["image"]


def test_a_digest_may_be_a_blob_and_a_snapshot(store: MemoryStore, graph: Graph) -> None:
    """The chain id of an image with one uncompressed layer is the layer's digest."""
    digest = others(graph)[0]
    store.state.snapshots[SNAPSHOTTER, digest] = SnapshotInfo(name=digest)
    result = run(store, digest)
    assert [item.kind for item in result.objects] == ["content", "snapshot"]
    assert kinds(result) == ["image content content"]


def test_a_prefix_of_several_is_ambiguous(store: MemoryStore) -> None:
    with pytest.raises(
        AmbiguousReference, match="blobs and snapshots have names that begin with it: sha256:"
    ):
        run(store, "sha256:")


def test_what_is_not_here(store: MemoryStore) -> None:
    with pytest.raises(ImageNotFound):
        run(store, "docker.io/library/missing:1")
    with pytest.raises(NotFound, match="no blob, snapshot or image has a name that begins with it") as caught:
        run(store, "0123456789")
    assert caught.value.hint is None
    digest = Digest.of(b"elsewhere")
    store.in_namespace("other").put({digest: b"elsewhere"})
    with pytest.raises(NotFound, match=f"content digest {digest}: not found") as caught:
        run(store, digest)
    assert caught.value.remedy == Remedy(namespace="other")

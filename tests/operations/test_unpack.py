"""Unpack an image that is in the store, in memory."""

from __future__ import annotations

import pytest

from pyctrd.errors import ImageNotFound, NoMatchingPlatform, Remedy
from pyctrd.oci.errors import IncompleteContent
from pyctrd.oci.model import Digest, ImageRecord
from pyctrd.oci.platforms import parse, select
from pyctrd.operations.unpack import UnpackResult, unpack
from tests.support import shapes
from tests.support.images import Graph
from tests.support.memory import SNAPSHOTTER, MemoryStore

NAME = "registry.example/app:1"
AMD64, ARM64 = parse("linux/amd64"), parse("linux/arm64")


def stored(graph: Graph) -> tuple[MemoryStore, ImageRecord]:
    store = MemoryStore()
    store.put(graph.blobs)
    return store, store.tag(NAME, graph.root)


def run(store: MemoryStore, image: ImageRecord, platforms: str = "linux/amd64") -> UnpackResult:
    return unpack(store, image, select(platforms))


def layers(graph: Graph) -> list[Digest]:
    return [Digest(layer["digest"]) for layer in graph.document()["layers"]]


def test_the_selected_platform_is_unpacked() -> None:
    store, image = stored(shapes.multi(["linux/amd64", "linux/arm64"], layers=3))
    result = run(store, image)
    assert (list(result.snapshots), result.layers, result.snapshotter) == ([AMD64], 3, SNAPSHOTTER)
    assert (SNAPSHOTTER, result.snapshots[AMD64]) in store.state.snapshots
    assert len(store.state.snapshots) == 3
    assert store.state.leases == {}


def test_unpacking_again_changes_nothing() -> None:
    store, image = stored(shapes.multi(["linux/amd64", "linux/arm64"]))
    first = run(store, image)
    before = dict(store.state.snapshots)
    again = run(store, image)
    assert (again.snapshots, again.layers) == (first.snapshots, 0)
    assert store.state.snapshots == before


def test_all_platforms_are_unpacked_and_no_attestation_is_needed() -> None:
    graph = shapes.mixed()
    store, image = stored(graph)
    attestation = next(
        child for child in graph.document()["manifests"] if child.get("platform", {}).get("os") == "unknown"
    )
    store.state.remove_blob(Digest(attestation["digest"]))
    assert set(run(store, image, "all").snapshots) == {
        *map(parse, ("linux/amd64", "linux/arm64", "linux/arm/v7", "linux/386"))
    }


def test_what_is_unpacked_stays_after_a_collection() -> None:
    store, image = stored(shapes.single())
    result = run(store, image)
    config = Digest(shapes.single().document()["config"]["digest"])
    store.state.labels[image.target.digest] = {"containerd.io/gc.ref.content.config": str(config)}
    store.collect_garbage()
    assert (SNAPSHOTTER, result.snapshots[AMD64]) in store.state.snapshots


def test_missing_content_is_reported_with_the_command() -> None:
    graph = shapes.multi(["linux/amd64", "linux/arm64"])
    store, image = stored(graph)
    store.state.remove_blob(layers(graph.child(0))[1])
    with pytest.raises(IncompleteContent, match=r"missing: linux/amd64: 1 blob") as caught:
        run(store, image)
    assert caught.value.remedy == Remedy(method="ensure", images=(NAME,), platforms=("linux/amd64",))
    assert store.state.snapshots == {}
    assert list(run(store, image, "linux/arm64").snapshots) == [ARM64]
    assert list(run(store, image, "local").snapshots) == [ARM64]
    with pytest.raises(IncompleteContent) as caught:
        run(store, image, "all")
    assert caught.value.remedy == Remedy(method="ensure", images=(NAME,), all_platforms=True)


def test_a_missing_layer_is_not_needed_if_its_snapshot_exists() -> None:
    graph = shapes.single(layers=2)
    store, image = stored(graph)
    first = run(store, image)
    for digest in layers(graph):
        store.state.remove_blob(digest)
    again = run(store, image)
    assert (again.snapshots, again.layers) == (first.snapshots, 0)
    del store.state.snapshots[SNAPSHOTTER, str(first.snapshots[AMD64])]
    with pytest.raises(IncompleteContent):
        run(store, image)


def test_a_platform_that_the_image_does_not_have_is_refused() -> None:
    store, image = stored(shapes.multi(["linux/amd64"]))
    with pytest.raises(NoMatchingPlatform, match="linux/s390x"):
        run(store, image, "linux/s390x")


def test_an_image_that_was_deleted_meanwhile_is_not_found() -> None:
    store, image = stored(shapes.single())
    store.images.delete(NAME, sync=True)
    with pytest.raises(ImageNotFound):
        run(store, image)

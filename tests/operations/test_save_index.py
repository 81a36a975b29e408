"""Save with a pruned or flattened index, on a store in memory."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from pyctrd.errors import (
    InvalidInput,
)
from pyctrd.oci.model import Index
from pyctrd.oci.prune import ORIGINAL_INDEX
from tests.support import images, shapes
from tests.support.images import Graph
from tests.support.saving import NAME, Bench, below, children, everything, layers


def test_prune_names_what_is_inside_and_remembers_the_original() -> None:
    graph = images.index(children(shapes.mixed()), annotations={"z": "kept", "a": "<kept>"})
    bench = Bench(graph)
    archive = bench.save("linux/amd64,linux/arm/v7", index="prune")
    (entry,) = archive.index
    raw = archive.blob(entry["digest"])
    assert entry["size"] == len(raw)
    assert graph.digest not in archive.blobs
    pruned, original = json.loads(raw), graph.document()
    assert pruned["manifests"] == [original["manifests"][0], original["manifests"][2]]
    assert pruned["annotations"] == {"a": "<kept>", ORIGINAL_INDEX: graph.digest, "z": "kept"}
    assert {key: value for key, value in pruned.items() if key not in ("manifests", "annotations")} == {
        "schemaVersion": 2,
        "mediaType": images.OCI_INDEX,
    }
    assert archive.blobs == {entry["digest"]} | below(graph.child(0)) | below(graph.child(2))
    assert archive.raw == bench.save("linux/amd64,linux/arm/v7", index="prune").raw
    assert archive.docker == bench.save("linux/amd64,linux/arm/v7").docker


def test_prune_rewrites_nested_indexes() -> None:
    graph = images.index([shapes.multi(["linux/amd64", "linux/arm64"]), shapes.multi(["linux/s390x"])])
    archive = Bench(graph).save(index="prune")
    outer = Index.parse(archive.blob(archive.index[0]["digest"]))
    (inner,) = outer.manifests
    raw = archive.blob(inner.digest)
    assert inner.size == len(raw)
    assert [item.digest for item in Index.parse(raw).manifests] == [graph.child(0).child(0).digest]
    assert Index.parse(raw).annotations == {ORIGINAL_INDEX: graph.child(0).digest}
    assert archive.blobs == {archive.index[0]["digest"], inner.digest} | below(graph.child(0).child(0))
    assert archive.docker[0]["RepoTags"] == [NAME]


def test_prune_leaves_an_index_alone_that_loses_nothing() -> None:
    bench = Bench(shapes.mixed())
    assert bench.save("all", index="prune").raw == bench.save("all").raw


def test_pruning_what_was_pruned_keeps_the_first_origin() -> None:
    graph = images.index(children(shapes.mixed()), annotations={ORIGINAL_INDEX: "sha256:first"})
    archive = Bench(graph).save(index="prune")
    assert Index.parse(archive.blob(archive.index[0]["digest"])).annotations[ORIGINAL_INDEX] == "sha256:first"


def test_flatten_puts_the_one_manifest_in_the_indexs_place() -> None:
    graph = shapes.mixed()
    archive = Bench(graph).save(index="flatten")
    (entry,) = archive.index
    assert entry["digest"] == graph.child(0).digest
    assert "platform" not in entry
    assert entry["annotations"] == {
        "io.containerd.image.name": NAME,
        ORIGINAL_INDEX: graph.digest,
        "org.opencontainers.image.ref.name": "1",
    }
    assert archive.blobs == below(graph.child(0))


def test_flatten_of_everything_names_the_image_and_not_the_attestation() -> None:
    graph = shapes.attested_as_amd64()
    archive = Bench(graph).save("all", index="flatten")
    image, attestation = archive.index
    assert [entry["digest"] for entry in archive.index] == [item.digest for item in children(graph)]
    assert "platform" not in image
    assert image["annotations"]["io.containerd.image.name"] == NAME
    assert "io.containerd.image.name" not in attestation["annotations"]
    assert attestation["annotations"]["vnd.docker.reference.digest"] == graph.child(0).digest
    assert archive.blobs == everything(graph) - {graph.digest}


@pytest.mark.parametrize("platforms", ["all", "local", "linux/amd64,linux/arm64"])
@pytest.mark.parametrize("make", [shapes.mixed, lambda: images.index([shapes.mixed()])])
def test_several_images_are_not_flattened_and_nothing_is_fetched(
    platforms: str, make: Callable[[], Graph]
) -> None:
    graph = make()
    bench = Bench(graph, without=[*layers(shapes.mixed().child(2))])
    for run in (bench.plan, bench.save):
        with pytest.raises(
            InvalidInput, match=r"needs one image, but there are \d \(linux/amd64, linux/"
        ) as caught:
            run(platforms, index="flatten")
        assert caught.value.exit_code == 2
        assert "`index=prune`" in str(caught.value.hint)
    assert (bench.opened, bench.remote.done("fetch")) == (0, [])


def test_an_image_that_is_listed_for_several_platforms_is_one_to_flatten() -> None:
    archive = Bench(shapes.listed_for_many(3)).save("all", index="flatten")
    (entry,) = archive.index
    assert "platform" not in entry


@pytest.mark.parametrize("make", [shapes.artifact, shapes.signature])
def test_an_artifact_has_no_platform(make: Callable[[], Graph]) -> None:
    bench = Bench(make())
    assert bench.save().result.platforms == bench.plan().platforms == ()


@pytest.mark.parametrize("index", ["prune", "flatten"])
def test_a_single_manifest_has_no_index_to_change(index: str) -> None:
    bench = Bench(shapes.single())
    assert bench.save(index=index).raw == bench.save().raw

"""Load, in memory: the names of images, and the archives of docker."""

from __future__ import annotations

import json
import tarfile
from typing import Any

import pytest

from pyctrd.errors import (
    ArchiveError,
    InvalidInput,
    NotFound,
)
from tests.support import images, shapes
from tests.support.images import to_json
from tests.support.loading import (
    IMAGE_NAME,
    IMPORT,
    NAME,
    REF_NAME,
    Bench,
    archive_of,
    docker_archive,
    entry,
    layout,
    manifest_of,
)
from tests.support.tars import member, tar, tar_of

PIPE = pytest.mark.parametrize("pipe", [False, True], ids=["file", "pipe"])


@pytest.fixture
def bench() -> Bench:
    return Bench()


# --- names ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("annotations", "options", "expected"),
    [
        ({"name": NAME, "tag": "latest"}, {}, {NAME}),
        ({"tag": "v1"}, {}, {f"{IMPORT}:v1"}),
        ({"tag": "example.com/app:v1"}, {}, {"example.com/app:v1"}),
        ({"tag": "v1"}, {"base_name": "example.com/base"}, {"example.com/base:v1"}),
        ({"name": NAME}, {"base_name": "registry.example/team/app"}, {NAME}),
        ({}, {}, {f"{IMPORT}@DIGEST"}),
        ({}, {"name": "example.com/new:v1"}, {"example.com/new:v1"}),
        ({"name": NAME}, {"name": "example.com/new:v1"}, {"example.com/new:v1"}),
        ({"name": NAME}, {"digests": True}, {NAME, f"{IMPORT}@DIGEST"}),
        ({"tag": "v1"}, {"digests": True, "base_name": "b"}, {"b:v1", "b@DIGEST"}),
    ],
)
def test_names(bench: Bench, annotations: Any, options: Any, expected: set[str]) -> None:
    graph = shapes.single()
    result = bench.load(tar_of(layout(entry(graph, **annotations), blobs=graph.blobs)), **options)
    assert bench.names == {name.replace("DIGEST", graph.digest) for name in expected}
    assert {image.name for image in result.images} == bench.names


def test_no_name_begins_with_the_base_name(bench: Bench) -> None:
    with pytest.raises(NotFound, match="no image of the archive begins with team") as caught:
        bench.load(archive_of(shapes.single()), base_name="team")
    assert caught.value.exit_code == 3
    assert NAME in str(caught.value.hint)
    bench.check_nothing_is_left()


def several() -> bytes:
    one, other = shapes.single(), shapes.single(salt="other")
    blobs = {**one.blobs, **other.blobs}
    return tar_of(layout(entry(one, NAME), entry(one, "second:v1"), entry(other, "other:v1"), blobs=blobs))


def test_several_images_with_several_names(bench: Bench) -> None:
    result = bench.load(several())
    assert bench.names == {NAME, "second:v1", "other:v1"}
    assert bench.store.images.get("second:v1").target.annotations[IMAGE_NAME] == "second:v1"
    assert len(result.images) == 3


def test_one_name_for_several_images_is_refused(bench: Bench) -> None:
    with pytest.raises(InvalidInput, match="to 2 images of the archive"):
        bench.load(several(), name="x:v1")
    one, other = shapes.single(), shapes.single(salt="other")
    data = tar_of(layout(entry(one, NAME), entry(other, NAME), blobs={**one.blobs, **other.blobs}))
    with pytest.raises(ArchiveError, match="has 2 images with the name"):
        bench.load(data)
    bench.check_nothing_is_left()


def test_one_name_for_an_image_of_each_platform(bench: Bench) -> None:
    graph = shapes.multi(["linux/amd64", "linux/arm64"])
    entries = [entry(graph.child(number), NAME) for number in range(2)]
    result = bench.load(tar_of(layout(*entries, blobs=graph.blobs)), "arm64")
    assert result.images[0].target.digest == graph.child(1).digest
    assert bench.here == manifest_of(graph, 1)


def test_what_only_accompanies_an_image_has_no_name(bench: Bench) -> None:
    graph = shapes.mixed()
    entries = [entry(graph.child(0), NAME), entry(graph.child(4)), entry(graph.child(1))]
    assert len(bench.load(tar_of(layout(*entries, blobs=graph.blobs))).images) == 1
    with pytest.raises(ArchiveError, match="there is no image in the archive"):
        bench.load(tar_of(layout(entry(graph.child(4)), blobs=graph.blobs)))


def test_options_that_contradict_each_other_are_refused(bench: Bench) -> None:
    data = archive_of(shapes.single())
    for options in (
        {"name": "a", "base_name": "b"},
        {"name": "a", "digests": True},
        {"discard_layers": True, "unpack": False},
        {"name": "a b"},
        {"labels": {"a": "x" * 5000}},
        {"cri": True},
    ):
        with pytest.raises(InvalidInput):
            bench.load(data, **options)


def test_the_names_that_a_kubelet_needs(bench: Bench) -> None:
    bench.store.namespace = "k8s.io"
    graph = shapes.mixed()
    bench.load(archive_of(graph, "busybox"), cri=True, labels={"a": "b"})
    config = graph.child(0).document()["config"]["digest"]
    assert bench.names == {
        "docker.io/library/busybox:latest",
        f"docker.io/library/busybox@{graph.digest}",
        config,
    }
    for image in bench.store.images.list():
        assert image.labels == {"io.cri-containerd.image": "managed", "a": "b"}
        assert image.target.digest == graph.digest


def test_labels_of_other_tools_stay_on_a_name_that_moves(bench: Bench) -> None:
    bench.load(archive_of(shapes.single()), labels={"mine": "1"})
    other = shapes.single(salt="other")
    bench.load(archive_of(other))
    assert bench.store.images.get(NAME).labels == {"mine": "1"}
    assert bench.store.images.get(NAME).target.digest == other.digest


# --- docker's archive -------------------------------------------------------------------------------------


@PIPE
@pytest.mark.parametrize("config_first", [False, True])
@pytest.mark.parametrize("compression", ["", "gzip"])
def test_an_archive_of_docker(bench: Bench, compression: str, config_first: bool, pipe: bool) -> None:
    layers = [images.random_layer(200_000, seed=seed, compression=compression) for seed in (1, 2)]
    graph = images.manifest(images.config(layers), layers)
    data = docker_archive(graph, "busybox", "example.com/other:v1", config_first=config_first)
    result = bench.load(data, pipe=pipe)
    assert bench.names == {"docker.io/library/busybox:latest", "example.com/other:v1"}
    assert bench.here >= set(graph.blobs) - {graph.digest}
    assert len(bench.here) == len(graph.blobs)
    target = result.images[0].target
    assert target.media_type == images.DOCKER_MANIFEST
    assert target.annotations == {IMAGE_NAME: "docker.io/library/busybox:latest", REF_NAME: "latest"}
    assert len(bench.store.state.snapshots) == 2


def test_a_layer_that_is_there_compressed_is_not_stored_again(bench: Bench) -> None:
    compressed = shapes.single()
    bench.load(archive_of(compressed, "pulled:v1"))
    plain = images.manifest(
        images.Blob(compressed.blobs[compressed.document()["config"]["digest"]], images.OCI_CONFIG),
        shapes.layers_for("linux/amd64", 2, compression=""),
    )
    result = bench.load(docker_archive(plain, "app:v1"))
    stored = json.loads(bench.store.content.read_all(result.images[0].target.digest, limit=9999))
    assert [one["digest"] for one in stored["layers"]] == [
        one["digest"] for one in compressed.document()["layers"]
    ]
    assert {one["mediaType"] for one in stored["layers"]} == {f"{images.DOCKER_LAYER}.gzip"}
    assert result.bytes_written == result.images[0].target.size


def test_an_image_without_tags_has_a_name_with_its_digest(bench: Bench) -> None:
    result = bench.load(docker_archive(shapes.single()))
    assert bench.names == {f"{IMPORT}@{result.images[0].target.digest}"}


def test_links_to_layers_are_followed(bench: Bench) -> None:
    made = images.layer({"file": b"data"}, compression="")
    manifest = [{"Config": "c.json", "RepoTags": ["app:v1"], "Layers": ["a/layer.tar", "b/layer.tar"]}]
    data = tar(
        member("b/layer.tar", kind=tarfile.SYMTYPE, target="../a/layer.tar"),
        member("a/layer.tar", made.data),
        member("c.json", images.config([made, made]).data),
        member("manifest.json", to_json(manifest)),
    )
    for pipe in (False, True):
        assert bench.load(data, pipe=pipe).images[0].name == "docker.io/library/app:v1"

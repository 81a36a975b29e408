"""inspect and history of images of every shape, on a store in memory."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from pyctrd.errors import ContentError, InvalidPlatform, NoMatchingPlatform
from pyctrd.oci import mediatypes
from pyctrd.oci.errors import IncompleteContent
from pyctrd.oci.model import Digest, ImageRecord
from pyctrd.oci.platforms import Selection, parse, select
from pyctrd.oci.resources import Container, LeaseResource
from pyctrd.operations.history import HistoryStep, history
from pyctrd.operations.inspect import ImageInfo, inspect
from pyctrd.steps.unpack import read_config, unpack
from tests.support import images, shapes
from tests.support.images import Graph
from tests.support.memory import SNAPSHOTTER, MemoryStore

NAME = "registry.example:5000/team/app:1"
HOST = parse("linux/amd64")
BUILD = [
    {"created": "2024-05-22T18:18:12Z", "created_by": "ADD file:1 in /"},
    {"created": "2024-05-22T18:18:12Z", "created_by": "ENV A=b", "empty_layer": True},
    {"created": "2024-05-22T18:18:13Z", "created_by": "RUN make", "comment": "buildkit", "author": "me"},
]


def built(entries: Sequence[Any] = BUILD, layers: int = 2, on: str = "linux/amd64") -> Graph:
    made = shapes.layers_for(on, layers)
    return images.manifest(images.config(made, on, history=list(entries), author="me"), made, on=on)


def stored(graph: Graph, *, without: Sequence[str] = ()) -> tuple[MemoryStore, ImageRecord]:
    store = MemoryStore()
    store.put(graph.blobs, without=without)
    return store, store.tag(NAME, graph.root)


def steps_of(graph: Graph, platform: str | None = None, **how: Any) -> tuple[HistoryStep, ...]:
    store, image = stored(graph, **how)
    return history(store, image, choice(platform))


def choice(platform: str | None) -> Selection:
    return select(platform) if platform else Selection(host=HOST)


def info_of(graph: Graph, platform: str | None = None, **how: Any) -> ImageInfo:
    store, image = stored(graph, **how)
    return inspect(store, image, choice(platform))


def manifest_of(graph: Graph, place: int = 0) -> Any:
    return json.loads(graph.child(place).blobs[graph.child(place).digest])


# --- history ----------------------------------------------------------------------------------------------


def test_layers_belong_to_the_steps_that_made_some() -> None:
    graph = built()
    layers = graph.document()["layers"]
    steps = steps_of(graph)
    assert [step.created_by for step in steps] == ["RUN make", "ENV A=b", "ADD file:1 in /"]
    assert [step.layer and step.layer.digest for step in steps] == [
        layers[1]["digest"],
        None,
        layers[0]["digest"],
    ]
    assert [step.bytes for step in steps] == [layers[1]["size"], 0, layers[0]["size"]]
    assert [step.present for step in steps] == [True, False, True]
    assert (steps[0].comment, steps[0].author, str(steps[0].created_at)) == (
        *("buildkit", "me", "2024-05-22 18:18:13+00:00"),
    )
    assert [step.snapshot for step in steps] == ["", "", ""]


@pytest.mark.parametrize(
    ("entries", "layers", "shown"),
    [
        ([], 2, [("", 1), ("", 0)]),
        (BUILD[:1], 3, [("", 2), ("", 1), ("ADD file:1 in /", 0)]),
        (BUILD, 1, [("RUN make", None), ("ENV A=b", None), ("ADD file:1 in /", 0)]),
        (BUILD[1:2], 0, [("ENV A=b", None)]),
        (["text", 7], 2, [("", 1), ("", 0)]),
    ],
)
def test_a_history_that_does_not_match_the_layers(
    entries: list[Any], layers: int, shown: list[tuple[str, int | None]]
) -> None:
    graph = built(entries, layers)
    found = [item["digest"] for item in graph.document()["layers"]]
    assert [
        (step.created_by, found.index(step.layer.digest) if step.layer else None) for step in steps_of(graph)
    ] == shown


def test_an_unpacked_layer_has_the_size_of_its_snapshot() -> None:
    store, image = stored(built())
    unpack_all(store, image)
    steps = history(store, image, choice(None))
    assert [step.bytes_unpacked for step in steps] == [4096, 0, 4096]
    assert steps[0].snapshotter == SNAPSHOTTER
    assert len({step.snapshot for step in steps}) == 3
    assert all((SNAPSHOTTER, step.snapshot) in store.state.snapshots for step in steps if step.layer)


def unpack_all(store: MemoryStore, image: ImageRecord) -> None:
    (info,) = inspect(store, image, choice(None)).manifests
    assert info.manifest is not None
    unpack(store, info.manifest, read_config(store, info.manifest), snapshotter=SNAPSHOTTER)


def test_a_layer_that_is_missing() -> None:
    graph = built()
    steps = steps_of(graph, without=[graph.document()["layers"][1]["digest"]])
    assert [step.present for step in steps] == [False, False, True]
    assert steps[0].bytes > 0


@pytest.mark.parametrize("what", ["index", "manifest", "config"])
def test_without_its_documents_there_is_no_history(what: str) -> None:
    graph = images.index([built(), built(on="linux/arm64")])
    gone = {
        "index": graph.digest,
        "manifest": graph.child(0).digest,
        "config": manifest_of(graph)["config"]["digest"],
    }[what]
    with pytest.raises(IncompleteContent, match=f"content digest {gone}: not found") as caught:
        steps_of(graph, without=[gone])
    assert caught.value.remedy is not None
    assert (caught.value.remedy.method, caught.value.remedy.images) == ("ensure", (NAME,))
    assert caught.value.remedy.platforms == (() if what == "index" else ("linux/amd64",))


def test_the_history_of_a_platform() -> None:
    graph = images.index([built(), built([{"created_by": "on arm"}], 1, on="linux/arm64")])
    assert [step.created_by for step in steps_of(graph, "linux/arm64")] == ["on arm"]
    assert steps_of(graph)[0].created_by == steps_of(graph, "local")[0].created_by == "RUN make"
    with pytest.raises(NoMatchingPlatform, match=r"no linux/s390x") as caught:
        steps_of(graph, "linux/s390x")
    assert caught.value.hint == "it has linux/amd64, linux/arm64"
    for several in ("all", "linux/amd64,linux/arm64"):
        with pytest.raises(InvalidPlatform, match="one platform"):
            steps_of(graph, several)


def test_local_without_a_complete_platform() -> None:
    graph = built()
    with pytest.raises(IncompleteContent):
        steps_of(graph, "local", without=[graph.document()["layers"][0]["digest"]])


# --- inspect ----------------------------------------------------------------------------------------------


def test_the_documents_of_an_image() -> None:
    graph = images.index([built(), built(on="linux/arm64"), shapes.attestation(built())])
    info = info_of(graph)
    assert info.index is not None
    assert info.index.raw == graph.blobs[graph.digest]
    (found,) = info.manifests
    assert found.manifest is not None
    assert found.config is not None
    assert found.details is not None
    assert found.manifest.raw == graph.blobs[graph.child(0).digest]
    assert found.config.raw == graph.blobs[manifest_of(graph)["config"]["digest"]]
    assert found.details.author == "me"
    assert [step.created_by for step in found.history] == ["RUN make", "ENV A=b", "ADD file:1 in /"]
    assert [(row.platform, row.kind, row.target) for row in info.platforms] == [
        ("linux/amd64", "image", True),
        ("linux/arm64", "image", False),
        ("unknown/unknown", "attestation", False),
    ]
    assert info.complete
    assert found.bytes == len(found.manifest.raw) + len(found.config.raw) + sum(
        layer.size for layer in found.manifest.layers
    )


@pytest.mark.parametrize(
    ("platform", "shown"),
    [
        (None, ["linux/amd64"]),
        ("linux/arm64", ["linux/arm64"]),
        ("all", ["linux/amd64", "linux/arm64"]),
        ("arm64,amd64", ["linux/arm64", "linux/amd64"]),
        ("local", ["linux/amd64"]),
    ],
)
def test_the_selected_platforms(platform: str | None, shown: list[str]) -> None:
    graph = images.index([built(), built(on="linux/arm64"), shapes.attestation(built())])
    info = info_of(graph, platform, without=[manifest_of(graph, 1)["layers"][0]["digest"]])
    assert [item.state.platform for item in info.manifests] == shown
    assert [row.platform for row in info.platforms if row.target] == sorted(shown)
    assert info.complete == ("linux/arm64" not in shown)


def test_without_the_hosts_platform_one_that_is_complete_is_shown() -> None:
    graph = images.index([built(on="linux/arm64"), built(on="linux/s390x")])
    assert info_of(graph).manifests[0].state.platform == "linux/arm64"
    info = info_of(graph, without=[manifest_of(graph)["layers"][0]["digest"]])
    assert info.manifests[0].state.platform == "linux/s390x"
    with pytest.raises(NoMatchingPlatform, match="no linux/amd64"):
        info_of(graph, "linux/amd64")


def test_content_that_is_missing() -> None:
    graph = images.index([built()])
    layer = manifest_of(graph)["layers"][0]
    info = info_of(graph, without=[layer["digest"]])
    assert [item.digest for item in info.manifests[0].missing] == [layer["digest"]]
    assert info.platforms[0].missing_bytes == layer["size"]
    assert not info.complete
    whole = info_of(graph).manifests[0]
    assert info.manifests[0].bytes == whole.bytes - layer["size"]
    info = info_of(graph, without=[graph.child(0).digest])
    assert (info.manifests[0].manifest, info.manifests[0].config) == (None, None)
    assert (info.manifests[0].history, info.manifests[0].bytes) == ((), 0)
    info = info_of(graph, without=[graph.digest])
    assert (info.index, info.manifests, info.platforms) == (None, (), ())
    assert [item.digest for item in info.unread] == [graph.digest]
    assert not info.complete


def test_who_uses_an_image_and_where_it_came_from() -> None:
    store, image = stored(built())
    target = image.target
    store.tag("docker.io/library/other:1", built().root)
    store.tag("docker.io/library/elsewhere:1", built(BUILD[:1], 1).root)
    store.state.images[str(target.digest)] = ImageRecord(
        name="sha256:0123", target=target, labels={"io.cri-containerd.pinned": "pinned"}
    )
    store.state.containers = {
        name: Container(id=name, image=used)
        for name, used in (
            ("c2", NAME),
            ("c1", "docker.io/library/other:1"),
            ("c3", "docker.io/library/elsewhere:1"),
        )
    }
    store.state.labels[target.digest] = {
        f"{mediatypes.DISTRIBUTION_SOURCE}registry.example": "team/app,team/base",
        f"{mediatypes.DISTRIBUTION_SOURCE}docker.io": "library/other",
    }
    unpack_all(store, image)
    (top,) = inspect(store, image, choice(None)).manifests[0].unpacked
    for name, kind, held in (
        ("content", "content", target.digest),
        ("snapshot", f"snapshots/{SNAPSHOTTER}", top.snapshot),
        ("image", "images", "docker.io/library/other:1"),
        ("unrelated", "content", Digest.of(b"x")),
    ):
        store.leases.create(name, {})
        store.leases.add(name, LeaseResource(type=kind, id=held))
    info = inspect(store, image, choice(None))
    assert info.names == ("docker.io/library/other:1", "sha256:0123")
    assert info.containers == ("c1", "c2")
    assert (info.in_use, info.pinned) == (True, True)
    assert [lease.id for lease in info.leases] == ["content", "image", "snapshot"]
    assert info.sources == (
        "docker.io/library/other",
        "registry.example:5000/team/app",
        "registry.example/team/base",
    )
    assert (top.snapshotter, top.bytes) == (SNAPSHOTTER, 8192)
    assert info.platforms[0].unpacked_in == (SNAPSHOTTER,)


@pytest.mark.parametrize(
    "shape",
    [
        shapes.nested,
        shapes.without_platforms,
        shapes.artifact,
        shapes.signature,
        shapes.wasm,
        shapes.octet_stream_config,
        shapes.inline_data,
        shapes.shared_layers,
        shapes.compressions,
        shapes.attested_as_amd64,
    ],
)
@pytest.mark.parametrize("platform", [None, "all"])
def test_images_of_every_shape(shape: Callable[[], Graph], platform: str | None) -> None:
    info = info_of(shape(), platform)
    assert info.complete
    for found in info.manifests:
        assert found.manifest is not None
        assert [step.layer for step in reversed(found.history) if step.layer] == list(found.manifest.layers)


def test_a_document_that_is_not_what_the_record_says() -> None:
    graph = built()
    with pytest.raises(ContentError, match="expected index but found manifest"):
        info_of(graph.described_as(mediaType=images.OCI_INDEX))

"""Push and copy, in memory: selected content, the order of uploads, errors, and the lease."""

from __future__ import annotations

import json
import threading
from collections.abc import Sequence
from typing import Any

import pytest

from pyctrd.errors import (
    ContentError,
    InvalidInput,
    NoMatchingPlatform,
    RegistryContentError,
    RegistryError,
    Remedy,
)
from pyctrd.oci import reference
from pyctrd.oci.errors import IncompleteContent
from pyctrd.oci.graph import children_in
from pyctrd.oci.model import Descriptor, Digest, Index
from pyctrd.oci.prune import ORIGINAL_INDEX
from pyctrd.operations import copy, ensure, push
from pyctrd.progress import Progress
from pyctrd.steps.upload import SendOptions, SendResult
from tests.support import images, shapes
from tests.support.images import Graph, reachable
from tests.support.memory import MemoryStore
from tests.support.repository import MemoryRepository
from tests.support.selections import selected

NAME = "registry.example/team/app:1"
SOURCE = "containerd.io/distribution.source.registry.example"


def options(*platforms: str, **more: Any) -> SendOptions:
    return SendOptions(platforms=selected(*(platforms or ["all"])), **more)


class Bench:
    """An image in a store, complete or not, and the repository that it is pushed to."""

    def __init__(self, graph: Graph, *, without: Sequence[str] = ()) -> None:
        self.store = MemoryStore()
        self.store.put(graph.blobs, without=without)
        self.record = self.store.tag(NAME, graph.root)
        self.target = MemoryRepository(repository="team/new")
        self.events: list[Progress] = []

    def push(self, *platforms: str, name: str = "registry.example/team/new:2", **more: Any) -> SendResult:
        return push.push(
            self.store,
            self.record,
            self.target,
            reference.parse(name),
            options(*platforms, **more),
            progress=self.events.append,
        )

    def plan(self, *platforms: str) -> SendResult:
        name = reference.parse("registry.example/team/new:2")
        chosen = options(*platforms)
        return push.push(self.store, self.record, self.target, name, chosen, dry_run=True)


def copied(
    graph: Graph, *platforms: str, target: MemoryRepository | None = None, **more: Any
) -> tuple[SendResult, MemoryRepository, MemoryRepository]:
    source = MemoryRepository("source.example")
    source.publish(graph)
    target = target or MemoryRepository("target.example")
    name = reference.parse("target.example/team/app:2")
    result = copy.copy(source, "source.example/team/app", target, name, options(*platforms, **more))
    return result, source, target


# --- complete images ---------------------------------------------------------------------------------------

SHAPES = {
    "five": shapes.five_platform(),
    "attestation": shapes.mixed(),
    "nested": shapes.nested(),
    "shared indexes": shapes.shared_indexes(4, 3),
    "single": shapes.single(),
    "artifact": shapes.artifact(),
    "shared": shapes.shared_layers(),
    "without platforms": shapes.without_platforms(),
}


@pytest.mark.parametrize("graph", SHAPES.values(), ids=SHAPES)
def test_everything_is_sent_children_first(graph: Graph) -> None:
    bench = Bench(graph)
    result = bench.push()
    assert bench.target.blobs == reachable(graph)
    assert bench.target.tags["2"].digest == graph.digest
    assert result.original == result.target
    assert {item.digest for item in result.uploaded} == set(reachable(graph))
    assert result.bytes_uploaded == sum(map(len, reachable(graph).values()))
    there: set[str] = set()
    for what, name in bench.target.calls:
        if what == "upload":
            there.add(name)
        elif what == "put":
            digest = graph.digest if name == "2" else name
            media_type = json.loads(graph.blobs[digest])["mediaType"]
            document = Descriptor(media_type=media_type, digest=Digest(digest), size=len(graph.blobs[digest]))
            assert there >= {child.digest for child in children_in(document, graph.blobs[digest])}
            there.add(digest)
    assert bench.target.calls[-1] == ("put", "2")
    assert bench.events[-1].action == "done"


@pytest.mark.parametrize("graph", SHAPES.values(), ids=SHAPES)
def test_a_copy_is_identical(graph: Graph) -> None:
    result, source, target = copied(graph)
    assert target.blobs == reachable(graph)
    assert target.tags["2"].digest == graph.digest
    assert sorted(source.done("fetch")) == sorted(reachable(graph)), "each once"
    assert result.source == "source.example/team/app"
    assert not result.present


def test_present_content_is_not_sent_again() -> None:
    bench = Bench(shapes.mixed())
    first = bench.push()
    bench.target.calls.clear()
    again = bench.push()
    assert (again.uploaded, again.mounted, again.bytes_uploaded) == ((), (), 0)
    assert set(again.present) == set(first.uploaded)
    assert not bench.target.done("put")
    assert not bench.target.done("upload")


def test_a_moved_tag_is_set_again_even_if_all_content_is_present() -> None:
    bench = Bench(shapes.mixed())
    bench.push()
    bench.target.tags["2"] = bench.target.tags["2"].__class__(
        media_type="x", digest=Digest.of(b"other"), size=5
    )
    bench.target.calls.clear()
    bench.push()
    assert bench.target.done("put") == ["2"]


def test_a_plan_only_asks_and_predicts_the_push() -> None:
    graph = shapes.mixed()
    bench = Bench(graph)
    plan = bench.plan()
    assert {kind for kind, _ in bench.target.calls} == {"has", "tagged"}
    assert {item.digest for item in plan.uploaded} == set(reachable(graph))
    assert plan.bytes_uploaded == bench.push().bytes_uploaded
    assert bench.plan().uploaded == ()
    assert bench.store.state.leases == {}


# --- selected platforms ------------------------------------------------------------------------------------


def index_of(repository: MemoryRepository) -> Index:
    return Index.parse(repository.blobs[repository.tags["2"].digest])


@pytest.mark.parametrize(
    ("platforms", "kept"),
    [
        (["linux/amd64"], [0, 4]),  # 4 is the attestation of 0
        (["linux/386,linux/arm64"], [1, 3]),
        (["linux/amd64", "linux/arm/v7"], [0, 2, 4]),
    ],
)
def test_an_index_is_pruned_to_the_selected_platforms(platforms: list[str], kept: list[int]) -> None:
    graph = shapes.mixed()
    bench = Bench(graph)
    result = bench.push(*platforms)
    index = index_of(bench.target)
    assert [item.digest for item in index.manifests] == [graph.child(number).digest for number in kept]
    assert index.annotations[ORIGINAL_INDEX] == result.original.digest == graph.digest
    assert result.target.digest != graph.digest
    assert len(result.platforms) == len([number for number in kept if number != 4])
    assert copied(graph, *platforms)[2].tags["2"].digest == result.target.digest, "as copy does"


def test_nested_indexes_are_pruned_and_empty_ones_removed() -> None:
    inner = [shapes.multi(["linux/amd64", "linux/arm64"]), shapes.multi(["linux/s390x"])]
    graph = images.index(inner)
    bench = Bench(graph)
    bench.push("linux/arm64")
    (child,) = index_of(bench.target).manifests
    (leaf,) = Index.parse(bench.target.blobs[child.digest]).manifests
    assert leaf.digest == inner[0].child(1).digest


def test_selecting_every_platform_by_name_keeps_the_index() -> None:
    graph = shapes.five_platform()
    assert Bench(graph).push(*shapes.PAUSE_PLATFORMS).target.digest == graph.digest


def test_a_flattened_index() -> None:
    graph = shapes.mixed()
    bench = Bench(graph)
    assert bench.push("linux/arm64", index="flatten").target.digest == graph.child(1).digest
    with pytest.raises(InvalidInput, match=r"there are 4 \(linux/amd64, linux/arm64,"):
        bench.push(index="flatten")
    single = shapes.single()
    assert Bench(single).push(index="flatten").target.digest == single.digest


@pytest.mark.parametrize("what", ["push", "copy"])
def test_a_platform_that_the_image_lacks(what: str) -> None:
    bench = Bench(shapes.mixed())
    asked = ("linux/amd64", "linux/riscv64")
    with pytest.raises(NoMatchingPlatform, match="no linux/riscv64") as caught:
        bench.push(*asked) if what == "push" else copied(shapes.mixed(), *asked)
    assert "linux/arm64" in str(caught.value.hint)
    assert bench.target.calls == []


def test_the_digest_of_a_name_must_be_that_of_the_image() -> None:
    graph = shapes.mixed()
    bench = Bench(graph)
    name = f"registry.example/team/new@{graph.digest}"
    assert bench.push(name=name).target.digest == graph.digest
    assert bench.target.tags == {}
    with pytest.raises(InvalidInput, match="is not that of the image"):
        bench.push("linux/amd64", name=name)


def test_a_wide_and_deep_image_is_walked_once() -> None:
    graph = shapes.multi(["linux/amd64"])
    for _ in range(12):
        graph = images.index([graph, graph, graph])
    bench = Bench(graph)
    assert len(bench.push().uploaded) == len(reachable(graph))
    assert len(bench.push("linux/amd64").present) == len(reachable(graph))


# --- attestations ------------------------------------------------------------------------------------------


def absent_parts(graph: Graph, part: str) -> list[str]:
    """What a default pull does not fetch of the last child, an attestation: its statements, or more."""
    listed = graph.document()["manifests"]
    attestation = graph.child(len(listed) - 1)
    statements = [item["digest"] for item in attestation.document()["layers"]]
    return statements if part == "statements" else [*statements, attestation.digest]


@pytest.mark.parametrize("part", ["statements", "manifest"])
@pytest.mark.parametrize("platforms", [(), ("linux/amd64",), ("local",)], ids=["", "amd64", "local"])
def test_an_incomplete_attestation_is_skipped(platforms: Sequence[str], part: str) -> None:
    graph = shapes.attested_as_amd64()
    bench = Bench(graph, without=absent_parts(graph, part))
    planned = bench.plan(*platforms)
    result = bench.push(*platforms)
    attestation = graph.child(1).digest
    assert (
        [item.digest for item in planned.skipped] == [item.digest for item in result.skipped] == [attestation]
    )
    assert [item.digest for item in index_of(bench.target).manifests] == [graph.child(0).digest]
    assert result.target.digest != result.original.digest == graph.digest
    assert attestation not in bench.target.blobs


@pytest.mark.parametrize("platforms", [("linux/amd64",), ("local",)])
def test_a_flattened_image_needs_no_attestation(platforms: Sequence[str]) -> None:
    graph = shapes.attested_as_amd64()
    result = Bench(graph, without=absent_parts(graph, "statements")).push(*platforms, index="flatten")
    assert (result.target.digest, result.skipped) == (graph.child(0).digest, ())


@pytest.mark.parametrize("platforms", [(), ("linux/amd64",), ("local",)])
def test_a_complete_attestation_is_pushed(platforms: Sequence[str]) -> None:
    graph = shapes.attested_as_amd64()
    result = Bench(graph).push(*platforms)
    assert (result.target.digest, result.skipped) == (graph.digest, ())


@pytest.mark.parametrize(
    ("platforms", "more"),
    [
        (("all",), {"attestations": True}),
        (("linux/amd64,unknown/unknown",), {}),
        ((), {"name": "registry.example/team/new@{digest}"}),
    ],
    ids=["all", "unknown", "digest"],
)
def test_a_selected_attestation_must_be_complete(platforms: Sequence[str], more: dict[str, Any]) -> None:
    graph = shapes.attested_as_amd64()
    absent = absent_parts(graph, "statements")
    bench = Bench(graph, without=absent)
    if "name" in more:
        more = {"name": more["name"].format(digest=graph.digest)}
    with pytest.raises(IncompleteContent) as caught:
        bench.push(*platforms, **more)
    assert [item.digest for item in caught.value.missing] == absent
    assert bench.target.calls == []
    remedy = caught.value.remedy
    assert remedy is not None
    chosen = selected(*(["all"] if remedy.all_platforms else remedy.platforms))
    ensure.ensure(bench.store, bench.record, chosen.resolve(), lambda _image: [source_of(graph)])
    assert bench.push(*platforms, **more).target.digest == graph.digest


def source_of(graph: Graph) -> MemoryRepository:
    source = MemoryRepository(repository="team/app")
    source.blobs = dict(graph.blobs)
    return source


@pytest.mark.parametrize("index", ["prune", "flatten"])
def test_local_without_complete_platforms(index: Any) -> None:
    graph = shapes.mixed()
    layers = [item["digest"] for number in range(5) for item in graph.child(number).document()["layers"]]
    bench = Bench(graph, without=layers)
    with pytest.raises(NoMatchingPlatform, match="app:1 has no complete platform") as caught:
        bench.push("local", index=index)
    assert caught.value.remedy == Remedy(method="ensure", images=(NAME,), platforms=("linux/amd64",))
    assert bench.target.calls == []


# --- missing or invalid content ----------------------------------------------------------------------------


@pytest.mark.parametrize("part", ["index", "manifest", "config", "layer"])
def test_an_incomplete_image_is_refused_before_any_request(part: str) -> None:
    graph = shapes.multi(["linux/amd64", "linux/arm64"])
    manifest = graph.child(1)
    digest = {
        "index": graph.digest,
        "manifest": manifest.digest,
        "config": manifest.document()["config"]["digest"],
        "layer": manifest.document()["layers"][0]["digest"],
    }[part]
    bench = Bench(graph, without=[digest])
    with pytest.raises(IncompleteContent, match=f"content digest {digest}: not found") as caught:
        bench.push()
    assert [item.digest for item in caught.value.missing] == [digest]
    assert caught.value.remedy == Remedy(method="ensure", images=(NAME,), all_platforms=True)
    assert "`platforms=local`" in str(caught.value.hint)
    assert bench.target.calls == []
    if part != "index":
        assert bench.push("linux/amd64").platforms == bench.push("local").platforms
        with pytest.raises(IncompleteContent) as caught:
            bench.push("linux/arm64")
        assert caught.value.remedy == Remedy(method="ensure", images=(NAME,), platforms=("linux/arm64",))
        assert caught.value.hint == "fetch what is missing"
    assert bench.store.state.leases == {}


def test_foreign_layers_are_skipped_by_default() -> None:
    graph = shapes.foreign(["https://elsewhere.example/layer"])
    foreign = graph.document()["layers"][0]["digest"]
    bench = Bench(graph, without=[foreign])
    result = bench.push()
    assert [item.digest for item in result.skipped] == [foreign]
    assert set(bench.target.blobs) == set(graph.blobs) - {foreign}
    with pytest.raises(IncompleteContent, match=foreign):
        bench.push(nondistributable=True)
    assert set(copied(graph)[2].blobs) == set(graph.blobs) - {foreign}
    assert set(copied(graph, nondistributable=True)[2].blobs) == set(graph.blobs)


def test_after_a_failure_no_manifest_is_sent() -> None:
    graph = shapes.five_platform(layers=3)
    bench = Bench(graph)
    layer = graph.child(2).document()["layers"][1]["digest"]
    bench.target.broken = {layer}
    with pytest.raises(RegistryError, match=f"{layer} is broken"):
        bench.push()
    assert not bench.target.done("put")
    assert bench.store.state.leases == {}


def test_damaged_content_is_an_error() -> None:
    graph = shapes.single()
    layer = Digest(graph.document()["layers"][0]["digest"])
    bench = Bench(graph)
    bench.store.state.blobs[layer] = bytes(len(graph.blobs[layer]))
    with pytest.raises(ContentError, match="containerd's copy is damaged"):
        bench.push()
    spoiled = Graph(graph.root, {**graph.blobs, layer: bytes(len(graph.blobs[layer]))})
    with pytest.raises(RegistryContentError, match=r"source\.example/team/app: wrong bytes"):
        copied(spoiled)
    spoiled = Graph(graph.root, {**graph.blobs, graph.digest: graph.blobs[graph.digest] + b" "})
    with pytest.raises(RegistryContentError, match=f"wrong content for {graph.digest}"):
        copied(spoiled)


def test_the_total_size_of_documents_is_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(copy, "MAX_DOCUMENTS_BYTES", 2000)
    with pytest.raises(RegistryContentError, match="manifests have more than 2000 bytes in total"):
        copied(shapes.five_platform())


def test_a_target_that_is_not_an_image_is_refused() -> None:
    root = {"mediaType": "text/plain", "digest": images.digest_of(b"x"), "size": 1}
    graph = Graph(root, {images.digest_of(b"x"): b"x"})
    with pytest.raises(InvalidInput, match="only manifests may be pushed"):
        Bench(graph).push()
    with pytest.raises(RegistryContentError, match="neither a manifest nor an index"):
        copied(graph)


# --- mounts, labels, the lease -----------------------------------------------------------------------------


def test_blobs_are_mounted_from_the_repository_with_the_most_similar_name() -> None:
    graph = shapes.single()
    bench = Bench(graph)
    blobs = [graph.document()["config"], *graph.document()["layers"]]
    for blob in blobs:
        names = "other/app,team/new,team/old,zoo"
        bench.store.content.set_labels(Digest(blob["digest"]), {SOURCE: names})
    bench.target.neighbours = {"team/old": {blob["digest"] for blob in blobs}}
    assert {item.digest for item in bench.plan().mounted} == {blob["digest"] for blob in blobs}
    result = bench.push()
    assert {item.digest for item in result.mounted} == {blob["digest"] for blob in blobs}
    assert [item.digest for item in result.uploaded] == [graph.digest]
    labels = bench.store.content.info(Digest(graph.digest)).labels
    assert labels[SOURCE] == "team/new"


def test_a_copy_within_a_registry_mounts_blobs() -> None:
    graph = shapes.single()
    target = MemoryRepository("source.example", "team/other")
    blobs = {item["digest"] for item in (graph.document()["config"], *graph.document()["layers"])}
    target.neighbours = {"team/app": blobs}
    result, source, _ = copied(graph, target=target)
    assert {item.digest for item in result.mounted} == blobs
    assert source.done("fetch") == [graph.digest]


def test_the_lease_protects_content_during_a_push() -> None:
    graph = shapes.five_platform()
    bench = Bench(graph)
    once = threading.Lock()

    def remove(event: Progress) -> None:
        if event.action == "uploading" and once.acquire(blocking=False):
            bench.store.images.delete(NAME, sync=True)

    push.push(
        bench.store,
        bench.record,
        bench.target,
        reference.parse("registry.example/team/new:2"),
        options(),
        progress=remove,
    )
    assert bench.target.blobs == reachable(graph)
    bench.store.state.collect()
    assert bench.store.state.blobs == {}

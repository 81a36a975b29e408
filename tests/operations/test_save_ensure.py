"""Save what is not all in the store: what is fetched before, by us and by nerdctl."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, Literal

import pytest

from pyctrd.errors import (
    ArchiveError,
    NoMatchingPlatform,
)
from pyctrd.oci.errors import IncompleteContent
from pyctrd.oci.model import Descriptor, Digest
from pyctrd.oci.platforms import ALL, ordered, parse, to_string
from pyctrd.operations import nerdctl
from pyctrd.operations.diagnose.inspection import Inspection
from tests.support import images, shapes
from tests.support.images import Graph
from tests.support.memory import MemoryStore
from tests.support.saving import Bench, below, foreign_layers, layers
from tests.support.selections import HOST

# --- fetching before --------------------------------------------------------------------------------------


def test_only_what_is_missing_is_fetched() -> None:
    graph = shapes.five_platform(layers=2)
    gone = [layers(graph.child(0))[1], *foreign_layers(graph)]
    bench = Bench(graph, without=gone)
    planned = bench.plan()
    assert [item.digest for item in planned.fetched] == gone[:1]
    assert planned.bytes_fetched == len(graph.blobs[gone[0]])
    assert bench.opened == 0
    archive = bench.save()
    assert bench.remote.done("fetch") == [item.digest for item in archive.result.fetched] == gone[:1]
    assert archive.result.bytes_fetched == planned.bytes_fetched


@pytest.mark.parametrize("what", ["index", "manifest", "config"])
def test_a_plan_looks_at_absent_documents_without_keeping_them(what: str) -> None:
    graph = shapes.multi(["linux/amd64", "linux/arm64"])
    native = graph.child(0)
    config = native.document()["config"]["digest"]
    gone = {"index": [graph.digest, *below(native)], "manifest": list(below(native)), "config": [config]}[
        what
    ]
    bench = Bench(graph, without=gone)
    before = dict(bench.state.blobs)
    planned = bench.plan()
    assert {item.digest for item in planned.fetched} == set(gone)
    assert bench.state.blobs == before
    archive = bench.save()
    assert {item.digest for item in archive.result.fetched} == set(gone)
    assert archive.blobs == {graph.digest} | below(native)
    if what != "index":  # an index that was absent has no label yet that says where it comes from
        assert planned.bytes_written == archive.result.bytes_written


def test_nothing_is_asked_where_nothing_is_missing() -> None:
    bench = Bench(shapes.five_platform(), without=foreign_layers(shapes.five_platform()))
    bench.save()
    bench.plan()
    assert bench.opened == 0


def fetched_by_nerdctl(
    bench: Bench, release: nerdctl.Release = nerdctl.RELEASE_2_0_3, targets: Any = ALL
) -> tuple[Descriptor, ...]:
    return nerdctl.ensure(Inspection(bench.store), bench.record.target, release, targets).fetch


def test_ensure_all_replays_the_old_nerdctl_and_saves_the_target_only() -> None:
    graph = shapes.five_platform(layers=2)
    gone = foreign_layers(graph)
    bench = Bench(graph, without=gone)
    replayed = fetched_by_nerdctl(bench)
    planned = bench.plan(ensure="all")
    archive = bench.save(ensure="all")
    assert [item.digest for item in replayed] == [item.digest for item in planned.fetched] == gone
    assert set(bench.remote.done("fetch")) == {item.digest for item in archive.result.fetched} == set(gone)
    assert archive.blobs == {graph.digest} | below(graph.child(0))


def test_local_does_not_grow_while_ensure_all_fetches() -> None:
    graph = shapes.five_platform()
    bench = Bench(graph, without=foreign_layers(graph))
    archive = bench.save("local", ensure="all")
    assert len(archive.result.fetched) == 4
    assert [to_string(item) for item in archive.result.platforms] == ["linux/amd64"]


# --- nerdctl ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("targets", "positions"),
    [(ordered(HOST), []), (ordered(parse("linux/arm64")), [1]), (ALL, [1, 2, 3, 4])],
)
def test_the_fixed_nerdctl_fetches_the_targets(targets: Any, positions: list[int]) -> None:
    graph = shapes.five_platform(layers=2)
    bench = Bench(graph, without=foreign_layers(graph))
    found = fetched_by_nerdctl(bench, nerdctl.RELEASE_2_0_4, targets)
    assert [item.digest for item in found] == [
        d for position in positions for d in layers(graph.child(position))
    ]


def test_nerdctl_does_not_see_what_it_cannot_read() -> None:
    graph = shapes.five_platform()
    config = graph.child(1).document()["config"]["digest"]
    gone = {config, graph.child(2).digest, *foreign_layers(graph)}
    bench = Bench(graph, without=list(gone))
    found = {item.digest for item in fetched_by_nerdctl(bench)}
    assert found == {*layers(graph.child(3)), *layers(graph.child(4))}
    assert fetched_by_nerdctl(Bench(graph, without=[graph.digest])) == ()


def test_nerdctl_fetches_a_single_manifests_layers_and_attestations() -> None:
    single = shapes.single()
    bench = Bench(single, without=layers(single))
    assert [item.digest for item in fetched_by_nerdctl(bench)] == layers(single)
    mixed = shapes.mixed()
    bench = Bench(mixed, without=layers(mixed.child(4)))
    assert [item.digest for item in fetched_by_nerdctl(bench)] == layers(mixed.child(4))


@pytest.mark.parametrize("mode", ["target", "none"])
def test_what_goes_between_the_look_and_the_hold_is_fetched(
    monkeypatch: pytest.MonkeyPatch, mode: Literal["target", "none"]
) -> None:
    """The collector runs in the meantime; offline, no registry can be asked."""
    graph = shapes.single()
    bench = Bench(graph)
    layer = Digest(graph.document()["layers"][0]["digest"])
    hold = MemoryStore.pin

    def late(store: MemoryStore, digests: Collection[Digest]) -> None:
        if not bench.remote.done("fetch"):
            bench.state.blobs.pop(layer, None)
        hold(store, digests)

    monkeypatch.setattr(MemoryStore, "pin", late)
    if mode == "none":
        with pytest.raises(IncompleteContent, match=str(layer)):
            bench.save(ensure=mode)
    else:
        archive = bench.save(ensure=mode)
        assert bench.remote.done("fetch") == [layer]
        assert [item.digest for item in archive.result.fetched] == [layer]


def test_the_hint_never_offers_what_was_asked_for() -> None:
    single = shapes.single().described_as
    with_features = single(platform={**images.platform("linux/amd64"), "os.features": ["sse4"]})
    out_of_reach = images.index([single(platform=images.platform("linux/amd64"))]).described_as(
        platform=images.platform("linux/arm64")
    )
    odd = Graph(
        {**with_features.root, "mediaType": "text/plain", "platform": images.platform("linux/amd64")}, {}
    )
    graph = images.index([with_features, out_of_reach, odd])
    with pytest.raises(NoMatchingPlatform, match="has no linux/amd64") as caught:
        Bench(graph).plan()
    assert caught.value.hint == "it has linux(+sse4)/amd64 (complete)"


def test_what_cannot_be_saved_is_not_fetched() -> None:
    odd = images.Blob(b"hello", "text/plain")
    bench = Bench(Graph(odd.descriptor, {odd.digest: odd.data}), without=[odd.digest])
    with pytest.raises(ArchiveError, match="only manifests may be exported: text/plain: invalid argument"):
        bench.save()
    assert bench.remote.done("fetch") == []

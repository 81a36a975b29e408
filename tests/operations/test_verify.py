"""verify on a store in memory: findings, targets, and repairs."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyctrd.oci import platforms
from pyctrd.oci.model import Digest, ImageRecord, Platform
from pyctrd.oci.platforms import Selection
from pyctrd.operations.verify import Repair, VerifyResult, verify
from pyctrd.progress import Progress
from tests.support import images, shapes
from tests.support.images import Graph, reachable
from tests.support.memory import MemoryStore
from tests.support.repository import MemoryRepository

NAME = "registry.example/team/app:1"
AMD64 = Platform(os="linux", architecture="amd64")
MIXED = shapes.mixed()


def remote(blobs: Mapping[str, bytes]) -> MemoryRepository:
    made = MemoryRepository()
    made.blobs = dict(blobs)
    return made


def stored(graph: Graph) -> tuple[MemoryStore, ImageRecord]:
    store = MemoryStore()
    store.put(graph.blobs)
    return store, store.tag(NAME, graph.root)


def run(store: MemoryStore, *records: ImageRecord, repairing: Repair | None = None) -> VerifyResult:
    return verify(store, records, Selection(all=True), repairing=repairing)


WHOLE = reachable(MIXED)
BLOBS = sorted(WHOLE)


@given(
    altered=st.sets(st.sampled_from(BLOBS), max_size=4),
    absent=st.sets(st.sampled_from(BLOBS), max_size=4),
)
def test_damaged_blobs_are_found_and_repaired(altered: set[str], absent: set[str]) -> None:
    store, record = stored(MIXED)
    store.state.blobs = {Digest(digest): data for digest, data in WHOLE.items()}
    for digest in altered:
        store.state.blobs[Digest(digest)] = b"\0" + WHOLE[digest][1:]
    for digest in absent:
        store.state.blobs.pop(Digest(digest))
    repaired = run(store, record, repairing=Repair(fetchers=lambda _image: [remote(WHOLE)]))
    faults = {item.digest: item.fault for item in repaired.findings}
    expected = {digest: "missing" if digest in absent else "corrupt" for digest in altered | absent}
    assert faults == expected
    assert repaired.ok
    assert store.state.blobs == WHOLE
    assert run(store, record).findings == ()
    store.state.collect()
    assert store.state.blobs == WHOLE  # the labels that protect it exist


def test_children_of_a_damaged_document_are_ignored() -> None:
    store, record = stored(MIXED)
    layer = MIXED.child(0).document()["layers"][0]["digest"]
    for digest in (MIXED.digest, layer):
        store.state.blobs[Digest(digest)] = b"{}"
    (found,) = run(store, record).findings
    assert found.digest == MIXED.digest


def test_a_document_of_another_type_is_malformed() -> None:
    inner = shapes.single()
    lying = {**inner.root, "mediaType": "application/vnd.oci.image.index.v1+json"}
    store = MemoryStore()
    store.put(inner.blobs)
    (found,) = run(store, store.tag(NAME, lying)).findings
    assert found.fault == "malformed"
    assert "expected index but found manifest" in found.detail


def test_only_the_targets_must_be_complete() -> None:
    store, record = stored(MIXED)
    for number in (0, 1):
        for layer in MIXED.child(number).document()["layers"]:
            store.state.blobs.pop(Digest(layer["digest"]), None)
    everything = verify(store, [record], Selection(all=True))
    ours = verify(store, [record], Selection((AMD64,)))
    wanted = {layer["digest"] for layer in MIXED.child(0).document()["layers"]}
    assert {item.digest for item in ours.findings} == wanted
    assert {item.digest for item in everything.findings} > wanted


def test_a_blob_of_two_images_is_reported_once_with_both_names() -> None:
    store, record = stored(shapes.single())
    other = store.tag("other.example/app:2", shapes.single().root)
    config = Digest(shapes.single().document()["config"]["digest"])
    store.state.blobs[config] = b"\0" + store.state.blobs[config][1:]
    (found,) = run(store, record, other).findings
    assert found.images == (record.name, other.name)


def test_unreferenced_blobs_are_hashed_on_request() -> None:
    store = MemoryStore()
    store.put({Digest.of(b"sound"): b"sound", Digest.of(b"once"): b"then"})
    result = verify(store, [], Selection(all=True), orphans=True)
    assert (result.blobs, result.bytes_hashed) == (2, 9)
    assert [(item.digest, item.images) for item in result.findings] == [(Digest.of(b"once"), ())]


@pytest.mark.parametrize("fetched", [b"also bad", None], ids=["bad", "absent"])
def test_without_a_good_copy_nothing_changes(fetched: bytes | None) -> None:
    graph = images.index([shapes.single()])
    store, record = stored(graph)
    store.state.blobs[Digest(graph.digest)] = b"bad"
    before = dict(store.state.blobs)
    source = {graph.digest: fetched} if fetched else {}
    result = run(store, record, repairing=Repair(fetchers=lambda _image: [remote(source)]))
    assert not result.ok
    assert "not repaired" in result.findings[0].detail
    assert store.state.blobs == before
    assert not store.state.ingests


def test_progress_counts_bytes() -> None:
    store, record = stored(shapes.single())
    events: list[Progress] = []
    verify(store, [record], Selection(all=True), progress=events.append)
    assert {event.action for event in events} == {"verifying"}
    assert sum(event.offset for event in events) == sum(map(len, shapes.single().blobs.values()))


def test_missing_content_has_its_platform() -> None:
    graph = shapes.multi(["linux/amd64", "linux/arm64"], 2)
    store = MemoryStore()
    layers = {one["digest"]: on for on in (0, 1) for one in graph.child(on).document()["layers"]}
    store.put(graph.blobs, without=layers)
    image = store.tag("registry.example/app:1", graph.root)
    result = run(store, image)
    found = {item.digest: platforms.to_string(item.platform) for item in result.findings if item.platform}
    names = ["linux/amd64", "linux/arm64"]
    assert found == {digest: names[on] for digest, on in layers.items()}

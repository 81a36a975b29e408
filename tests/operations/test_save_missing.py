"""Save without what is missing, and with or without attestations, on a store in memory."""

from __future__ import annotations

import io
import json
import logging

import pytest

from pyctrd.errors import NoMatchingPlatform, RegistryError
from pyctrd.oci.errors import IncompleteContent
from pyctrd.oci.platforms import to_string
from pyctrd.operations.save import SaveOptions, SaveResult, plan, save
from tests.support import images, shapes
from tests.support.images import Graph
from tests.support.saving import NAME, Bench, below, layers
from tests.support.selections import selected

THREE = ("linux/amd64", "linux/arm64", "linux/s390x")


def skipped(result: SaveResult) -> list[tuple[str, str]]:
    return [(item.image, to_string(item.platform) if item.platform else "") for item in result.skipped]


def test_an_incomplete_platform_is_left_out_whole() -> None:
    graph = shapes.multi(THREE)
    gone = layers(graph.child(1))[0]
    bench = Bench(graph, without=[gone])
    archive = bench.save("all", ensure="none", on_missing="skip", index="prune")
    planned = bench.plan("all", ensure="none", on_missing="skip", index="prune")
    assert skipped(archive.result) == skipped(planned) == [(NAME, "linux/arm64")]
    assert [item.digest for item in archive.result.skipped[0].missing] == [gone]
    assert archive.blobs == {archive.index[0]["digest"]} | below(graph.child(0)) | below(graph.child(2))
    assert planned.bytes_written == archive.result.bytes_written


@pytest.mark.parametrize("what", ["manifest", "nested index"])
def test_without_a_document_its_platforms_are_left_out(what: str) -> None:
    inner = shapes.multi(["linux/arm64"])
    native = shapes.multi(["linux/amd64"]).child(0)
    graph = images.index([native, inner])
    bench = Bench(graph, without=[inner.digest if what == "nested index" else inner.child(0).digest])
    archive = bench.save("all", ensure="none", on_missing="skip")
    assert {native.digest, graph.digest} <= archive.blobs
    assert inner.child(0).digest not in archive.blobs


def test_an_attestation_goes_with_its_image() -> None:
    image = shapes.multi(["linux/amd64"]).child(0)
    other = shapes.multi(["linux/arm64"]).child(0)
    attestation = shapes.attestation(image)
    graph = images.index([image, other, attestation])
    bench = Bench(graph, without=layers(image))
    archive = bench.save("all", ensure="none", on_missing="skip")
    assert archive.blobs == {graph.digest} | below(other)
    assert skipped(archive.result) == [(NAME, "linux/amd64")]


@pytest.mark.parametrize("mode", ["warn", "skip"])
def test_only_warn_warns(mode: str, caplog: pytest.LogCaptureFixture) -> None:
    bench = Bench(shapes.multi(THREE))
    with caplog.at_level(logging.WARNING, "pyctrd"):
        bench.save("linux/amd64,linux/riscv64", on_missing=mode)
    found = [record.getMessage() for record in caplog.records]
    words = f"no manifest found for platform: not found: {NAME} has no linux/riscv64"
    assert found == ([words] if mode == "warn" else [])


def test_whole_images_are_left_out_as_long_as_one_is_left() -> None:
    single, other = shapes.single(), shapes.multi(["linux/arm64"])
    bench = Bench(single)
    bench.store.put(other.blobs)
    records = [bench.store.tag("registry.example/team/other:1", other.root), bench.record]
    options = SaveOptions(platforms=selected(), on_missing="skip")
    result = save(bench.store, records, options, io.BytesIO(), fetchers=bench.fetchers)
    planned = plan(bench.store, records, options, fetchers=bench.fetchers)
    assert result.images == planned.images == (NAME,)
    assert skipped(result) == skipped(planned) == [("registry.example/team/other:1", "")]
    with pytest.raises(NoMatchingPlatform, match="team/other:1 has no linux/amd64"):
        save(bench.store, records[:1], options, io.BytesIO(), fetchers=bench.fetchers)


@pytest.mark.parametrize("graph", [shapes.single(), shapes.multi(["linux/amd64"])], ids=["one", "index"])
def test_something_must_be_left(graph: Graph) -> None:
    image = graph if "layers" in graph.document() else graph.child(0)
    with pytest.raises(IncompleteContent, match=layers(image)[0]):
        Bench(graph, without=layers(image)).save(ensure="none", on_missing="skip")


def test_the_rest_is_fetched_when_the_registry_lacks_something() -> None:
    graph = shapes.multi(THREE)
    lost = layers(graph.child(0))[0]
    bench = Bench(graph, without=[*layers(graph.child(0)), *layers(graph.child(2))])
    del bench.remote.blobs[lost]
    archive = bench.save("all", on_missing="skip")
    assert skipped(archive.result) == [(NAME, "linux/amd64")]
    assert below(graph.child(2)) <= archive.blobs


def test_a_registry_that_does_not_answer_is_an_error() -> None:
    graph = shapes.multi(THREE)
    bench = Bench(graph, without=layers(graph.child(2)))
    bench.remote.broken.update(layers(graph.child(2)))
    with pytest.raises(RegistryError, match="is broken"):
        bench.save("all", on_missing="skip")


# --- attestations -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("platforms", "mode", "expected"),
    [
        ("linux/amd64", None, False),
        ("linux/amd64", "keep", True),
        ("linux/arm64", "keep", False),
        ("all", None, True),
        ("all", "drop", False),
    ],
)
def test_attestations_of_what_is_saved(platforms: str, mode: str | None, expected: bool) -> None:
    graph = shapes.mixed()
    attestation = graph.child(4)
    bench = Bench(graph, without=layers(attestation))
    planned = bench.plan(platforms, attestations=mode)
    archive = bench.save(platforms, attestations=mode)
    assert archive.blobs & below(attestation) == (below(attestation) if expected else set())
    assert [item.digest for item in planned.fetched] == (layers(attestation) if expected else [])
    assert json.loads(archive.blob(graph.digest)) == graph.document()

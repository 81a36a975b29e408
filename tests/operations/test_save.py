"""Save, on a store in memory: what is written, what is pinned, and what is refused before a byte is."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable
from typing import Any, Literal

import pytest

from pyctrd.errors import (
    ArchiveError,
    ContentError,
    DigestMismatch,
    NoMatchingPlatform,
    Remedy,
)
from pyctrd.oci.errors import IncompleteContent
from pyctrd.oci.model import Digest
from pyctrd.oci.platforms import to_string
from pyctrd.operations.save import SaveOptions, plan, save
from tests.support import images, shapes
from tests.support.images import Graph
from tests.support.saving import (
    NAME,
    SOURCE,
    Archive,
    Bench,
    below,
    children,
    everything,
    foreign_layers,
    layers,
)
from tests.support.selections import selected

# --- what goes in -----------------------------------------------------------------------------------------


def test_the_hosts_platform_and_the_whole_index() -> None:
    bench = Bench(shapes.mixed())
    archive = bench.save()
    assert archive.blobs == {bench.graph.digest} | below(bench.graph.child(0))
    assert archive.blob(bench.graph.digest) == bench.graph.blobs[bench.graph.digest]
    assert [entry["digest"] for entry in archive.index] == [bench.graph.digest]
    assert [to_string(item) for item in archive.result.platforms] == ["linux/amd64"]
    assert (archive.result.fetched, archive.result.bytes_fetched, bench.opened) == ((), 0, 0)


def test_chosen_platforms_and_the_one_for_docker_is_the_first_chosen() -> None:
    bench = Bench(shapes.mixed())
    archive = bench.save("linux/arm/v7,linux/arm64")
    assert archive.blobs == {bench.graph.digest} | below(bench.graph.child(1)) | below(bench.graph.child(2))
    assert archive.docker[0]["Layers"] == [
        f"blobs/sha256/{digest.partition(':')[2]}" for digest in layers(bench.graph.child(2))
    ]


def test_all_platforms_with_attestations_and_docker_gets_the_hosts() -> None:
    bench = Bench(images.index([shapes.attestation(shapes.single()), *children(shapes.mixed())[::-1]]))
    archive = bench.save("all")
    assert archive.blobs == everything(bench.graph)
    native = shapes.mixed().child(0).document()["config"]["digest"]
    assert archive.docker[0]["Config"].endswith(native.partition(":")[2])


def test_all_platforms_without_the_hosts() -> None:
    graph = shapes.multi(["linux/s390x", "linux/386", "linux/arm64"])
    archive = Bench(graph).save("all")
    assert archive.blobs == set(graph.blobs)
    runnable = graph.child(1).document()["config"]["digest"]  # amd64 runs 386
    assert archive.docker[0]["Config"].endswith(runnable.partition(":")[2])


def test_local_platforms_are_the_complete_ones() -> None:
    graph = shapes.five_platform()
    bench = Bench(graph, without=foreign_layers(graph, 4))
    archive = bench.save("local", ensure="none")
    assert [to_string(item) for item in archive.result.platforms] == ["linux/amd64", "linux/s390x"]
    assert archive.blobs == {graph.digest} | below(graph.child(0)) | below(graph.child(4))


def test_a_nested_index_is_filtered_too() -> None:
    graph = shapes.nested()
    archive = Bench(graph).save()
    inner = graph.child(0)
    assert archive.blobs == {graph.digest, inner.digest} | below(inner.child(0))
    assert archive.docker[0]["RepoTags"] == [NAME]


def test_children_without_a_platform_pass() -> None:
    graph = shapes.without_platforms()
    archive = Bench(graph).save()
    assert archive.blobs == set(graph.blobs)
    assert len(archive.docker) == 1


def test_a_single_manifest_is_saved_whatever_its_platform_is() -> None:
    graph = shapes.single("linux/s390x")
    archive = Bench(graph).save()
    assert archive.blobs == set(graph.blobs)
    assert [to_string(item) for item in archive.result.platforms] == ["linux/s390x"]


def test_an_artifact() -> None:
    graph = shapes.artifact()
    archive = Bench(graph).save()
    assert archive.blobs == set(graph.blobs)
    assert archive.result.platforms == ()


def test_what_is_no_image_at_all() -> None:
    blob = images.Blob(b"text", "text/plain")
    with pytest.raises(ArchiveError, match=r"only manifests may be exported: text/plain: invalid argument"):
        Bench(Graph(blob.descriptor, {blob.digest: blob.data})).save()


def test_source_labels_and_reproducible() -> None:
    raws = []
    for repository in ("a", "b"):
        bench = Bench(shapes.mixed())
        bench.state.labels[Digest(bench.graph.digest)] = {SOURCE: repository, "other": "label"}
        assert bench.save().index[0]["annotations"][SOURCE] == repository
        raws.append(bench.save(reproducible=True).raw)
    assert raws[0] == raws[1]
    assert SOURCE.encode() not in raws[0]


def test_progress_tells_of_each_blob() -> None:
    bench = Bench(shapes.single())
    bench.save()
    done = {item.descriptor.digest for item in bench.events if item.descriptor and item.offset == item.total}
    assert done == set(bench.graph.blobs)
    assert {item.action for item in bench.events} == {"planned", "writing"}
    planned = {item.descriptor.digest for item in bench.events if item.descriptor and item.detail == "write"}
    assert planned == done


# --- refused before the first byte ------------------------------------------------------------------------


@pytest.mark.parametrize("call", ["save", "plan"])
def test_offline_lists_all_that_is_missing_and_asks_no_registry(call: str) -> None:
    graph = shapes.five_platform(layers=3)
    gone = layers(graph.child(1))[:2]
    bench, output = Bench(graph, without=gone), io.BytesIO()
    calls: dict[str, Callable[[], object]] = {
        "save": lambda: bench.save_to(output, "linux/arm64", ensure="none"),
        "plan": lambda: bench.plan("linux/arm64", ensure="none"),
    }
    with pytest.raises(IncompleteContent) as caught:
        calls[call]()
    assert [item.digest for item in caught.value.missing] == gone
    lacks = f"missing: linux/arm64: 2 blobs, {sum(len(graph.blobs[digest]) for digest in gone)} B"
    assert caught.value.message == (
        f"content digest {gone[0]}: not found, and 1 more blob of {NAME} ({lacks})"
    )
    assert caught.value.remedy == Remedy(method="ensure", images=(NAME,), platforms=("linux/arm64",))
    assert (bench.opened, output.getvalue()) == (0, b"")


def test_a_hint_names_the_platform_of_two_manifests_once() -> None:
    graph = images.index(
        [shapes.multi(["linux/arm64"], layers=1, salt=salt).child(0) for salt in ("one", "another")]
    )
    gone = [layers(graph.child(position))[0] for position in range(2)]
    with pytest.raises(IncompleteContent) as caught:
        Bench(graph, without=gone).plan("linux/arm64", ensure="none")
    assert [item.digest for item in caught.value.missing] == gone
    assert caught.value.remedy == Remedy(method="ensure", images=(NAME,), platforms=("linux/arm64",))


@pytest.mark.parametrize("what", ["index", "manifest"])
def test_offline_without_a_document(what: str) -> None:
    graph = shapes.five_platform()
    gone = graph.digest if what == "index" else graph.child(0).digest
    with pytest.raises(IncompleteContent, match=f"content digest {gone}: not found"):
        Bench(graph, without=[gone]).save(ensure="none")


@pytest.mark.parametrize("ensure", ["target", "none"])
def test_no_such_platform_names_those_there_are(ensure: Literal["target", "none"]) -> None:
    graph = shapes.multi(["linux/arm64", "linux/s390x"])
    bench, output = Bench(graph, without=layers(graph.child(0))), io.BytesIO()
    with pytest.raises(NoMatchingPlatform, match="no manifest found for platform: not found") as caught:
        bench.save_to(output, ensure=ensure)
    assert caught.value.name == "linux/amd64"
    assert caught.value.hint == "it has linux/s390x (complete), linux/arm64"
    assert caught.value.remedy == Remedy(method="save", images=(NAME,), platforms=("linux/s390x",))
    assert (bench.opened, output.getvalue()) == (0, b"")


def test_each_of_several_platforms_must_be_there() -> None:
    with pytest.raises(NoMatchingPlatform, match="has no linux/riscv64"):
        Bench(shapes.mixed()).save("linux/amd64,linux/riscv64")


@pytest.mark.parametrize("ensure", ["target", "all"])
@pytest.mark.parametrize("gone", [[], [0], [0, 1]], ids=["layers", "index", "indexes"])
def test_a_platform_that_is_not_there_is_missed_before_anything_is_fetched(
    ensure: Literal["target", "all"], gone: list[int]
) -> None:
    """An index that is not here has to be read for it; it does not come into the store."""
    graph = images.index([shapes.multi(["linux/amd64", "linux/arm64"])])
    indexes = [graph.digest, graph.child(0).digest]
    absent = [indexes[number] for number in gone]
    bench = Bench(graph, without=[*absent, *layers(graph.child(0).child(1))])
    for run in (bench.plan, bench.save):
        bench.remote.calls.clear()
        with pytest.raises(NoMatchingPlatform, match="has no linux/riscv64"):
            run("linux/arm64,linux/riscv64", ensure=ensure)
        assert bench.remote.done("fetch") == absent
    assert not set(absent) & set(bench.state.blobs)


def test_all_images_are_checked_before_anything_is_fetched() -> None:
    graph, other = shapes.multi(["linux/arm64"]), shapes.five_platform()
    bench = Bench(other, without=foreign_layers(other))
    bench.store.put(graph.blobs)
    records = [bench.record, bench.store.tag("registry.example/team/other:1", graph.root)]
    options = SaveOptions(platforms=selected("linux/s390x"))
    runs: list[Callable[[], object]] = [
        lambda: plan(bench.store, records, options, fetchers=bench.fetchers),
        lambda: save(bench.store, records, options, io.BytesIO(), fetchers=bench.fetchers),
    ]
    for run in runs:
        with pytest.raises(NoMatchingPlatform, match="team/other:1 has no linux/s390x"):
            run()
    assert bench.opened == 0


def test_an_absent_index_offline_is_incomplete_content() -> None:
    graph = shapes.five_platform()
    with pytest.raises(IncompleteContent, match=graph.digest):
        Bench(graph, without=[graph.digest]).save("linux/riscv64", ensure="none")


def test_an_image_named_twice_is_written_once() -> None:
    graph = shapes.five_platform()
    bench, output = Bench(graph), io.BytesIO()
    records = [bench.record, bench.store.tag("registry.example/team/app:2", graph.root), bench.record]
    planned = plan(bench.store, records, SaveOptions(platforms=selected()), fetchers=bench.fetchers)
    result = save(bench.store, records, SaveOptions(platforms=selected()), output, fetchers=bench.fetchers)
    archive = Archive(output.getvalue(), result)
    names = [NAME, "registry.example/team/app:2"]
    assert list(planned.images) == list(result.images) == names
    assert [entry["annotations"]["io.containerd.image.name"] for entry in archive.index] == names
    assert archive.docker[0]["RepoTags"] == names


def test_local_where_nothing_is_complete() -> None:
    graph = shapes.multi(["linux/amd64"])
    with pytest.raises(NoMatchingPlatform, match="has no complete platform"):
        Bench(graph, without=layers(graph.child(0))).save("local", ensure="none")


def test_a_blob_of_another_size_is_seen_before_the_first_byte() -> None:
    graph = shapes.single()
    bench, output = Bench(graph), io.BytesIO()
    bench.state.blobs[Digest(layers(graph)[0])] += b"more"
    with pytest.raises(ContentError, match="unexpected copy size for blobs/sha256/"):
        bench.save_to(output)
    assert output.getvalue() == b""


def test_a_corrupt_blob_stops_the_save() -> None:
    graph = shapes.single()
    bench = Bench(graph)
    layer = Digest(layers(graph)[0])
    bench.state.blobs[layer] = bytes(len(bench.state.blobs[layer]))
    with pytest.raises(DigestMismatch):
        bench.save()
    assert bench.state.leases == {}


# --- the lease --------------------------------------------------------------------------------------------


class Snooping(io.BytesIO):
    """An output whose first byte makes something happen."""

    def __init__(self, happening: Callable[[], None]) -> None:
        super().__init__()
        self._happening = happening

    def write(self, data: Any) -> int:
        if not self.tell():
            self._happening()
        return super().write(data)


def test_the_collector_takes_nothing_from_a_save_under_way() -> None:
    graph = shapes.five_platform()
    bench = Bench(graph)

    def remove_image() -> None:
        bench.store.images.delete(NAME, sync=True)

    output = Snooping(remove_image)
    bench.save_to(output)
    with tarfile.open(fileobj=io.BytesIO(output.getvalue())) as tar:
        assert len([item for item in tar if item.name.startswith("blobs/sha256/")]) == 4
    assert set(bench.state.blobs) == {graph.digest} | below(graph.child(0))
    bench.state.collect()
    assert bench.state.blobs == {}
    assert (bench.state.leases, bench.state.ingests) == ({}, {})


def test_a_failing_output_leaves_no_lease() -> None:
    bench = Bench(shapes.single())

    def interrupt() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        bench.save_to(Snooping(interrupt))
    assert (bench.state.leases, bench.state.ingests) == ({}, {})

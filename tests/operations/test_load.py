"""Load, in memory: what is stored and recorded, platforms, and archives that lack something."""

from __future__ import annotations

import io
from typing import Any

import pytest

from pyctrd.archive.reader import open_archive
from pyctrd.errors import (
    ArchiveError,
    Cancelled,
    DaemonError,
    NoMatchingPlatform,
    PyctrdError,
)
from pyctrd.oci.errors import IncompleteContent
from pyctrd.oci.model import Digest, ImageRecord
from pyctrd.oci.platforms import parse
from pyctrd.operations.load import LoadOptions, load
from tests.support import images, shapes
from tests.support.loading import (
    NAME,
    TODAY,
    Bench,
    archive_of,
    docker_archive,
    entry,
    layout,
    manifest_of,
)
from tests.support.memory import target_of
from tests.support.memory_content import MemoryIngest
from tests.support.selections import HOST, selected
from tests.support.tars import COMPRESSORS, tar_of

PIPE = pytest.mark.parametrize("pipe", [False, True], ids=["file", "pipe"])


@pytest.fixture
def bench() -> Bench:
    return Bench()


# --- what is stored ---------------------------------------------------------------------------------------


@PIPE
@pytest.mark.parametrize("compression", COMPRESSORS)
def test_an_image_is_stored_unpacked_and_recorded(bench: Bench, compression: str, pipe: bool) -> None:
    graph = shapes.single()
    result = bench.load(COMPRESSORS[compression](archive_of(graph)), pipe=pipe)
    assert bench.here == set(graph.blobs)
    assert bench.names == {NAME}
    assert bench.store.images.get(NAME).target.digest == graph.digest
    assert len(bench.store.state.snapshots) == 2
    assert bench.store.state.leases == {}
    (image,) = result.images
    assert (image.name, image.platforms, image.complete) == (NAME, (HOST,), True)
    assert result.bytes_written == sum(map(len, graph.blobs.values()))
    assert (result.bytes_present, result.unpacked) == (0, (HOST,))


@PIPE
def test_of_an_index_the_host_platform_is_loaded_and_all_children_are_labelled(
    bench: Bench, pipe: bool
) -> None:
    graph = shapes.mixed()
    result = bench.load(archive_of(graph), pipe=pipe)
    manifests = {str(graph.child(number).digest) for number in range(5)}
    # Manifests of other platforms stay, too, as in ctr 2.x.
    assert bench.here == {graph.digest, *manifest_of(graph, 0), *manifests}
    assert set(bench.labels(graph.digest)) == {f"m.{number}" for number in range(5)}
    assert result.images[0].platforms == (HOST,)
    assert result.images[0].complete


@PIPE
def test_for_ctr_1_only_what_is_loaded_is_labelled(bench: Bench, pipe: bool) -> None:
    graph = shapes.mixed()
    bench.load(archive_of(graph), "linux/arm64", pipe=pipe, label_all=False)
    assert bench.here == {graph.digest, *manifest_of(graph, 1)}
    assert bench.labels(graph.digest) == {"m.0": graph.child(1).digest}


@PIPE
def test_all_platforms_are_loaded_and_that_of_the_host_is_unpacked(bench: Bench, pipe: bool) -> None:
    graph = shapes.five_platform(layers=2)
    result = bench.load(archive_of(graph), "all", pipe=pipe)
    assert bench.here == set(graph.blobs)
    assert len(result.images[0].platforms) == 5
    assert result.unpacked == (HOST,)
    assert len(Bench().load(archive_of(graph), "all", unpack=True).unpacked) == 5
    assert Bench().load(archive_of(graph), "all", unpack=False).unpacked == ()


@PIPE
def test_an_index_may_name_what_the_archive_lacks(bench: Bench, pipe: bool) -> None:
    graph = shapes.mixed()
    others = set(graph.blobs) - {graph.digest} - manifest_of(graph, 0)
    result = bench.load(archive_of(graph, without=others), pipe=pipe)
    assert bench.here == {graph.digest, *manifest_of(graph, 0)}
    assert result.images[0].complete
    assert bench.load(archive_of(graph, without=manifest_of(graph, 4)), "all", pipe=pipe).images[0].complete


def test_a_single_manifest_of_another_platform_is_loaded_as_in_ctr_unless_one_is_named(bench: Bench) -> None:
    data = archive_of(shapes.single("linux/arm64"))
    assert bench.load(data).images[0].platforms == (parse("arm64"),)
    assert bench.load(data, "arm64").images[0].complete
    with pytest.raises(NoMatchingPlatform, match="is not in it for linux/amd64") as caught:
        bench.load(data, "amd64")
    assert caught.value.exit_code == 3
    assert caught.value.remedy is not None
    assert caught.value.remedy.platforms == ("linux/arm64",)


def test_labels_and_layers_that_may_be_discarded(bench: Bench) -> None:
    graph = shapes.single()
    bench.load(archive_of(graph), labels={"a": "b"}, discard_layers=True)
    assert bench.store.images.get(NAME).labels == {"a": "b"}
    assert set(bench.labels(graph.digest)) == {"config"}
    layers = {layer["digest"] for layer in graph.document()["layers"]}
    assert bench.here == set(graph.blobs) - layers
    assert len(bench.store.state.snapshots) == 2


# --- what is there already --------------------------------------------------------------------------------


class Counting:
    """Counts what is written to a store, and what is read from an archive."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.written = 0
        write = MemoryIngest.write

        def counted(ingest: MemoryIngest, data: bytes) -> None:
            self.written += len(data)
            write(ingest, data)

        monkeypatch.setattr(MemoryIngest, "write", counted)


@PIPE
@pytest.mark.parametrize("docker", [False, True])
def test_nothing_is_written_that_is_there(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, docker: bool, pipe: bool
) -> None:
    made = images.random_layer(3 << 20, seed=1, compression="")
    graph = images.manifest(images.config([made]), [made])
    data = docker_archive(graph) if docker else archive_of(graph)
    first = bench.load(data, pipe=pipe)
    counting = Counting(monkeypatch)
    again = bench.load(data, pipe=pipe)
    assert (again.bytes_written, again.bytes_present) == (0, first.bytes_written)
    # The digest of docker's layer is known when all of it was read; a pipe is not read twice.
    assert counting.written == (len(made.data) if docker and pipe else 0)


def test_of_a_file_only_what_is_missing_is_read(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    made = images.random_layer(3 << 20, seed=1)
    data = archive_of(images.manifest(images.config([made]), [made]))
    bench.load(data)

    class Watched(io.BytesIO):
        read_bytes = 0

        def read(self, size: int | None = -1) -> bytes:
            found = super().read(size)
            Watched.read_bytes += len(found)
            return found

    with open_archive(Watched(data)) as archive:
        load(bench.store, archive, LoadOptions(platforms=selected()), today=TODAY)
    assert Watched.read_bytes < 100_000


def test_a_delta_archive_is_completed_by_the_store(bench: Bench) -> None:
    graph = shapes.single()
    layers = {layer["digest"] for layer in graph.document()["layers"]}
    bench.load(archive_of(graph))
    bench.store.images.delete(NAME)
    bench.store.images.create(ImageRecord(name="keeps", target=target_of(graph.root)))
    bench.load(archive_of(graph, without=layers))
    assert bench.names == {NAME, "keeps"}


def test_an_interrupted_load_is_resumed(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    made = images.random_layer(3 << 20, seed=1)
    data = archive_of(images.manifest(images.config([made]), [made]))
    write = MemoryIngest.write

    def interrupt(ingest: MemoryIngest, chunk: bytes) -> None:
        if ingest.offset >= 2 << 20:
            raise Cancelled("stop")
        write(ingest, chunk)

    with monkeypatch.context() as patch:
        patch.setattr(MemoryIngest, "write", interrupt)
        with pytest.raises(Cancelled):
            bench.load(data)
    assert bench.names == set()
    assert len(bench.store.state.leases) == 1
    counting = Counting(monkeypatch)
    bench.load(data)
    assert counting.written < 2 << 20


@PIPE
def test_wrong_bytes_of_an_earlier_download_do_not_end_up_in_the_image(bench: Bench, pipe: bool) -> None:
    made = images.random_layer(3 << 20, seed=1)
    data = archive_of(images.manifest(images.config([made]), [made]))
    with (
        bench.store.lease("x") as leased,
        leased.content.open_ingest(
            f"layer-{made.digest}", digest=Digest(made.digest), size=len(made.data)
        ) as ingest,
    ):
        ingest.write(b"wrong" * 100_000)
    if pipe:  # which cannot be read a second time
        with pytest.raises(ArchiveError, match="was corrupt, and is removed now"):
            bench.load(data, pipe=True)
    bench.load(data, pipe=pipe)
    assert bench.store.content.read_all(Digest(made.digest), limit=4 << 20) == made.data


def test_a_dry_run_changes_nothing(bench: Bench) -> None:
    graph = shapes.mixed()
    for pipe in (False, True):
        plan = bench.load(archive_of(graph), pipe=pipe, dry_run=True)
        bench.check_nothing_is_left()
        assert plan.dry_run
        assert plan.images[0].platforms == plan.unpacked == (HOST,)
    done = bench.load(archive_of(graph))
    assert (plan.bytes_written, plan.bytes_present) == (done.bytes_written, 0)
    again = bench.load(archive_of(graph), dry_run=True)
    assert (again.bytes_written, again.bytes_present) == (0, done.bytes_written)


@PIPE
def test_every_blob_that_is_planned_is_reported_in_the_end(bench: Bench, pipe: bool) -> None:
    graph = shapes.five_platform(layers=2)
    for _ in range(2):
        bench.events.clear()
        bench.load(archive_of(graph), "all", pipe=pipe)
        blobs = {
            action: {
                item.descriptor.digest for item in bench.events if item.descriptor and item.action == action
            }
            for action in ("planned", "writing", "exists")
        }
        assert blobs["planned"] == blobs["writing"] | blobs["exists"] == set(graph.blobs)


# --- archives that lack something -------------------------------------------------------------------------


@PIPE
def test_an_archive_without_the_platform(bench: Bench, pipe: bool) -> None:
    graph = shapes.multi(["linux/arm64", "linux/s390x"])
    with pytest.raises(NoMatchingPlatform, match="is not in it for linux/amd64") as caught:
        bench.load(archive_of(graph), pipe=pipe)
    assert caught.value.hint == "it has linux/arm64, linux/s390x"
    bench.check_nothing_is_left()


@PIPE
def test_an_archive_whose_index_lists_a_platform_that_it_does_not_have(bench: Bench, pipe: bool) -> None:
    """As `ctr images export` and `pyctrd save` write it by default."""
    graph = shapes.multi(["linux/amd64", "linux/arm64"])
    data = archive_of(graph, without=manifest_of(graph, 1))
    assert bench.load(data, pipe=pipe).images[0].complete
    other = Bench()
    with pytest.raises(NoMatchingPlatform, match="is not in it for linux/arm64") as caught:
        other.load(data, "linux/arm64", pipe=pipe)
    assert (caught.value.exit_code, caught.value.hint) == (3, "it has linux/amd64")
    other.check_nothing_is_left()
    with pytest.raises(IncompleteContent, match="is incomplete"):
        other.load(data, "all", pipe=pipe)


@PIPE
def test_an_archive_without_a_layer(bench: Bench, pipe: bool) -> None:
    graph = shapes.single()
    layer = graph.document()["layers"][1]
    with pytest.raises(IncompleteContent, match=f"{layer['digest']}: not found") as caught:
        bench.load(archive_of(graph, without={layer["digest"]}), pipe=pipe)
    assert [item.digest for item in caught.value.missing] == [layer["digest"]]
    assert caught.value.exit_code == 4
    bench.check_nothing_is_left()


@PIPE
def test_what_is_missing_can_be_skipped(bench: Bench, pipe: bool) -> None:
    graph = shapes.multi(["linux/amd64", "linux/arm64"])
    without = {graph.child(1).document()["layers"][0]["digest"]}
    data = archive_of(graph, without=without)
    with pytest.raises(IncompleteContent) as caught:
        bench.load(data, "all", pipe=pipe)
    assert caught.value.remedy is not None
    assert caught.value.remedy.platforms == ("linux/amd64",)
    bench.check_nothing_is_left()
    result = bench.load(data, "all", pipe=pipe, on_missing="skip")
    assert (result.images[0].platforms, result.images[0].complete) == ((HOST,), False)
    assert bench.here == {graph.digest, *manifest_of(graph, 0)}
    with pytest.raises(NoMatchingPlatform):
        bench.load(data, "s390x", pipe=pipe, on_missing="skip")
    both = bench.load(data, "amd64,s390x", pipe=pipe, on_missing="skip")
    assert (both.images[0].platforms, both.images[0].complete) == ((HOST,), False)


def test_an_image_that_is_not_there_can_be_skipped(bench: Bench) -> None:
    one, other = shapes.single(), shapes.multi(["linux/arm64"])
    data = tar_of(layout(entry(one, NAME), entry(other, "o:v1"), blobs={**one.blobs, **other.blobs}))
    with pytest.raises(NoMatchingPlatform, match="o:v1 is not in it"):
        bench.load(data)
    bench.check_nothing_is_left()
    assert [image.name for image in bench.load(data, on_missing="skip").images] == [NAME]


# --- a load that fails ------------------------------------------------------------------------------------


@PIPE
def test_nothing_is_recorded_if_unpacking_fails(bench: Bench, pipe: bool) -> None:
    made = images.layer({"a": b"b"})
    config = images.config([made], rootfs={"type": "layers", "diff_ids": [f"sha256:{'0' * 64}"]})
    with pytest.raises(PyctrdError, match="wrong diff id"):
        bench.load(archive_of(images.manifest(config, [made])), pipe=pipe)
    bench.check_nothing_is_left()


def test_records_are_restored_if_one_cannot_be_written(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.load(archive_of(shapes.single(), "other:v1"), labels={"a": "b"})
    before = dict(bench.store.state.images)
    put = type(bench.store.images).create

    def refuse(service: Any, image: ImageRecord) -> ImageRecord:
        if image.name == "second:v1":
            raise DaemonError("no space left on device")
        return put(service, image)

    monkeypatch.setattr(type(bench.store.images), "create", refuse)
    one, other = shapes.single(salt="one"), shapes.single(salt="two")
    entries = [entry(one, "other:v1"), entry(one, NAME), entry(other, "second:v1")]
    with pytest.raises(DaemonError, match="no space"):
        bench.load(tar_of(layout(*entries, blobs={**one.blobs, **other.blobs})))
    after = bench.store.state.images
    assert set(after) == set(before)
    assert after["other:v1"].target == before["other:v1"].target
    assert after["other:v1"].labels == {"a": "b"}


def test_progress_says_what_is_written_and_what_is_there(bench: Bench) -> None:
    graph = shapes.single()
    bench.load(archive_of(graph))
    actions = {event.action for event in bench.events}
    assert {"planned", "writing", "unpacking", "unpacked", "done"} <= actions
    assert not actions & {"downloading", "downloaded"}
    assert {event.detail for event in bench.events if event.action == "planned"} == {"write"}

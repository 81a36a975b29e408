"""Save, on a store in memory: what is fetched, held, and written, and what is refused before a byte is."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable, Sequence
from typing import Any, Literal

import pytest

from pyctrd.archive.layout import ArchiveImage
from pyctrd.errors import (
    ArchiveError,
    ContentError,
    DigestMismatch,
    InvalidInput,
    NoMatchingPlatform,
    Remedy,
)
from pyctrd.oci.errors import IncompleteContent
from pyctrd.oci.model import Descriptor, Digest, ImageRecord, Index
from pyctrd.oci.platforms import ALL, ordered, parse, to_string
from pyctrd.oci.prune import ORIGINAL_INDEX
from pyctrd.operations import nerdctl
from pyctrd.operations.diagnose.inspection import Inspection
from pyctrd.operations.save import SaveOptions, SaveResult, plan, save
from pyctrd.operations.save.image import SavedImage
from pyctrd.ports import Fetcher
from pyctrd.progress import Progress
from tests.support import images, shapes
from tests.support.images import Graph
from tests.support.memory import MemoryStore, State
from tests.support.repository import MemoryRepository
from tests.support.selections import HOST, selected

NAME = "registry.example/team/app:1"
SOURCE = "containerd.io/distribution.source.registry.example"


class Bench:
    """An image in a store, all of it or not, and the registry that has all of it."""

    def __init__(self, graph: Graph, *, without: Sequence[str] = (), name: str = NAME) -> None:
        self.graph = graph
        self.store = MemoryStore()
        self.store.put(graph.blobs, without=without)
        self.record = self.store.tag(name, graph.root)
        self.remote = MemoryRepository()
        self.remote.publish(graph)
        self.opened = 0
        self.events: list[Progress] = []

    @property
    def state(self) -> State:
        return self.store.state

    def fetchers(self, _image: ImageRecord) -> Sequence[Fetcher]:
        self.opened += 1
        return [self.remote]

    def save(self, *platforms: str, **options: Any) -> Archive:
        output = io.BytesIO()
        result = self.save_to(output, *platforms, **options)
        assert result.bytes_written == len(output.getvalue())
        return Archive(output.getvalue(), result)

    def save_to(self, output: Any, *platforms: str, **options: Any) -> SaveResult:
        chosen = SaveOptions(platforms=selected(*platforms), **options)
        return save(
            self.store,
            [self.record],
            chosen,
            output,
            fetchers=self.fetchers,
            progress=self.events.append,
        )

    def plan(self, *platforms: str, **options: Any) -> SaveResult:
        chosen = SaveOptions(platforms=selected(*platforms), **options)
        return plan(self.store, [self.record], chosen, fetchers=self.fetchers)


class Archive:
    """A written archive, read back."""

    def __init__(self, raw: bytes, result: SaveResult) -> None:
        self.raw = raw
        self.result = result
        with tarfile.open(fileobj=io.BytesIO(raw)) as tar:
            self.files = {
                item.name: (tar.extractfile(item) or io.BytesIO()).read() for item in tar if item.isfile()
            }
        self.blobs = {f"sha256:{name.rpartition('/')[2]}" for name in self.files if name.startswith("blobs/")}

    @property
    def index(self) -> Any:
        return json.loads(self.files["index.json"])["manifests"]

    @property
    def docker(self) -> Any:
        return json.loads(self.files["manifest.json"]) if "manifest.json" in self.files else None

    def blob(self, digest: str) -> bytes:
        return self.files[f"blobs/sha256/{digest.removeprefix('sha256:')}"]


def layers(graph: Graph) -> list[str]:
    return [item["digest"] for item in graph.document()["layers"]]


def below(graph: Graph) -> set[str]:
    """Give a manifest's digest and those of all that it names."""
    document = graph.document()
    return {graph.digest, document["config"]["digest"], *layers(graph)}


def foreign_layers(graph: Graph, count: int = 5) -> list[str]:
    return [digest for position in range(1, count) for digest in layers(graph.child(position))]


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


def everything(graph: Graph) -> set[str]:
    """Give the digests of an index of manifests; the graph may hold more, from which it was put together."""
    return {graph.digest}.union(*map(below, children(graph)))


def children(graph: Graph) -> list[Graph]:
    return [graph.child(position) for position in range(len(graph.document()["manifests"]))]


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


# --- refused before the first byte ------------------------------------------------------------------------


@pytest.mark.parametrize("call", ["save", "plan"])
def test_offline_lists_all_that_is_missing_and_asks_nobody(call: str) -> None:
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


# --- other forms of the index -----------------------------------------------------------------------------


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
    """A collector that runs just then; offline there is nobody to ask."""
    graph = shapes.single()
    bench = Bench(graph)
    layer = Digest(graph.document()["layers"][0]["digest"])
    hold = SavedImage.pin

    def late(item: SavedImage) -> ArchiveImage:
        if not bench.remote.done("fetch"):
            bench.state.blobs.pop(layer, None)
        return hold(item)

    monkeypatch.setattr(SavedImage, "pin", late)
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

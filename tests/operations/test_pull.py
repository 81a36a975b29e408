"""Pull, in memory: what is stored, protected and unpacked, and which images are refused."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest

from pyctrd.errors import (
    InvalidInput,
    NoMatchingPlatform,
    NotFound,
    RegistryContentError,
    RegistryError,
)
from pyctrd.oci.errors import IncompleteContent
from pyctrd.oci.model import (
    MAX_CONFIG_BYTES,
    MAX_MANIFEST_BYTES,
    Digest,
    ImageConfig,
    ImageRecord,
)
from pyctrd.oci.platforms import parse
from pyctrd.operations.pull import PullOptions, PullResult, pull
from pyctrd.progress import Progress, no_progress
from tests.support import shapes
from tests.support.images import (
    DOCKER_CONFIG,
    IN_TOTO,
    OCI_CONFIG,
    Blob,
    Graph,
    config,
    index,
    manifest,
    reachable,
)
from tests.support.memory import MemoryStore
from tests.support.repository import MemoryRepository
from tests.support.selections import selected

NAME = "registry.example/team/app:latest"
SCHEMA_1 = "application/vnd.docker.distribution.manifest.v1+prettyjws"
MIXED = range(5)  # the children of shapes.mixed()


class Bench:
    """A repository that has an image, and an empty store."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.source = MemoryRepository()
        self.source.publish(graph)
        self.store = MemoryStore()
        self.events: list[Progress] = []

    def pull(
        self, *platforms: str, progress: Callable[[Progress], None] = no_progress, **how: Any
    ) -> PullResult:
        def watch(event: Progress) -> None:
            self.events.append(event)
            progress(event)

        options = PullOptions(platforms=selected(*platforms), **how)
        return pull(self.store, self.source, NAME, options, progress=watch)

    @property
    def here(self) -> set[str]:
        return set(self.store.state.blobs)

    def labels(self, digest: str, prefix: str = "") -> dict[str, str]:
        found = self.store.content.info(Digest(digest)).labels
        return {key.removeprefix(prefix): value for key, value in found.items() if key.startswith(prefix)}

    def check_nothing_is_left(self) -> None:
        """A failed pull leaves no record and no lease, and garbage collection removes everything else."""
        assert self.store.images.list() == ()
        assert self.store.state.leases == {}
        self.store.collect_garbage()
        assert (self.here, self.store.state.ingests, self.store.state.snapshots) == (set(), {}, {})


def pulled(graph: Graph, *platforms: str, unpack: bool | None = None) -> tuple[PullResult, MemoryStore]:
    """Pull a graph into an empty store."""
    bench = Bench(graph)
    return bench.pull(*platforms, unpack=unpack), bench.store


# --- what is stored, and what protects it ------------------------------------------------------------------

SHAPES = {
    "single": shapes.single(),
    "docker": shapes.single(docker=True),
    "five": shapes.five_platform(layers=2),
    "attestation": shapes.mixed(),
    "nested": shapes.nested(),
    "shared": shapes.shared_layers(),
    "without platforms": shapes.without_platforms(),
    "artifact": shapes.artifact(),
    "inline": shapes.inline_data(),
}


@pytest.mark.parametrize("platforms", [(), ("all",)])
@pytest.mark.parametrize("graph", SHAPES.values(), ids=SHAPES)
def test_gc_labels_alone_protect_what_a_pull_stored(graph: Graph, platforms: Sequence[str]) -> None:
    bench = Bench(graph)
    result = bench.pull(*platforms)
    stored, snapshots = bench.here, dict(bench.store.state.snapshots)
    assert {item.digest for item in result.fetched} <= stored
    bench.store.collect_garbage()
    assert (bench.here, bench.store.state.snapshots) == (stored, snapshots)
    assert (bench.store.state.leases, bench.store.state.ingests) == ({}, {})
    bench.store.images.delete(NAME, sync=True)
    assert (bench.here, bench.store.state.snapshots) == (set(), {})


@pytest.mark.parametrize("graph", SHAPES.values(), ids=SHAPES)
def test_a_pull_of_all_platforms_fetches_each_blob_once(graph: Graph) -> None:
    bench = Bench(graph)
    result = bench.pull("all")
    assert set(reachable(graph)) <= bench.here
    assert max(Counter(bench.source.done("fetch")).values()) == 1
    assert set(bench.source.done("fetch")) <= {item.digest for item in result.fetched}
    assert result.bytes_fetched == sum(item.size for item in result.fetched)
    assert (result.unpacked, bench.store.state.snapshots) == ((), {})


def test_a_pull_of_one_manifest() -> None:
    graph = shapes.single()
    bench = Bench(graph)
    result = bench.pull(labels={"io.example/mine": "1"})
    document = graph.document()
    config, layers = document["config"]["digest"], [layer["digest"] for layer in document["layers"]]
    rootfs = ImageConfig.parse(graph.blobs[config]).rootfs
    assert bench.here == set(graph.blobs)
    assert bench.labels(graph.digest, "containerd.io/gc.ref.content.") == {
        "config": config,
        "l.0": layers[0],
        "l.1": layers[1],
    }
    assert bench.labels(config, "containerd.io/gc.") == {"ref.snapshot.memory": rootfs.chain_ids[-1]}
    assert [bench.labels(layer)["containerd.io/uncompressed"] for layer in layers] == [*rootfs.diff_ids]
    for digest in graph.blobs:
        assert bench.labels(digest, "containerd.io/distribution.") == {"source.registry.example": "team/app"}
    assert bench.store.images.get(NAME) == result.image
    assert result.image.labels == {"io.example/mine": "1"}
    assert result.unpacked == (parse("linux/amd64"),)


def test_snapshots_are_named_by_their_chain_ids() -> None:
    graph = shapes.single(layers=3)
    _, store = pulled(graph)
    chain = ImageConfig.parse(graph.blobs[graph.document()["config"]["digest"]]).rootfs.chain_ids
    found = {info.name: (info.parent, info.kind) for info in store.snapshots.list("")}
    assert found == {
        name: (parent, "committed") for name, parent in zip(chain, ["", *chain[:-1]], strict=True)
    }


@pytest.mark.parametrize(
    ("how", "documents", "layers"),
    [
        ({}, MIXED, [0]),
        ({"metadata": "selected"}, [0], [0]),
        ({"metadata_only": True}, MIXED, []),
        ({"metadata_only": True, "metadata": "selected"}, [0], []),
        ({"platforms": ("linux/arm/v7", "linux/386")}, MIXED, [2, 3]),
        ({"platforms": ("linux/arm/v7",), "metadata": "selected"}, [2], [2]),
        ({"platforms": ("all",), "metadata": "selected"}, MIXED, MIXED),
    ],
)
def test_which_children_of_an_index_are_stored(
    how: Mapping[str, Any], documents: Sequence[int], layers: Sequence[int]
) -> None:
    graph = shapes.mixed()
    bench = Bench(graph)
    options = dict(how)
    bench.pull(*options.pop("platforms", ()), **options)
    children = [graph.child(number) for number in MIXED]
    wanted = {graph.digest}
    wanted |= {
        item for number in documents for item in (children[number].digest, config_of(children[number]))
    }
    wanted |= {layer["digest"] for number in layers for layer in children[number].document()["layers"]}
    assert bench.here == wanted
    kept = bench.labels(graph.digest, "containerd.io/gc.ref.content.")
    assert kept == {f"m.{number}": child.digest for number, child in enumerate(children)}, "absent ones, too"


def config_of(image: Graph) -> str:
    return str(image.document()["config"]["digest"])


def test_a_second_pull_fetches_and_unpacks_nothing() -> None:
    bench = Bench(shapes.five_platform())
    bench.pull()
    before = dict(bench.store.state.snapshots)
    bench.source.calls.clear()
    bench.events.clear()
    result = bench.pull()
    assert (result.fetched, result.bytes_fetched, bench.source.done("fetch")) == ((), 0, [])
    assert bench.store.state.snapshots == before
    assert not {"downloaded", "unpacking"} & {event.action for event in bench.events}
    assert result.unpacked == (parse("linux/amd64"),)


def test_a_moved_tag_updates_the_record_and_keeps_labels_of_other_clients() -> None:
    bench = Bench(shapes.single())
    bench.pull(labels={"mine": "1"})
    record = bench.store.images.get(NAME)
    theirs = ImageRecord(name=NAME, target=record.target, labels={"io.cri-containerd.image": "managed"})
    bench.store.images.update(theirs, fields=["labels.io.cri-containerd.image"])
    other = shapes.single(salt="other ")
    bench.source.publish(other)
    result = bench.pull(labels={"mine": "2"})
    assert (result.image.target.digest, result.image.created_at) == (other.digest, record.created_at)
    assert result.image.labels == {"io.cri-containerd.image": "managed", "mine": "2"}
    bench.store.collect_garbage()
    assert bench.here == set(other.blobs)


def test_a_record_that_is_deleted_while_it_is_updated_is_created(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench(shapes.single())
    bench.pull()
    update = bench.store.images.update

    def deleted_before(image: ImageRecord, *, fields: Sequence[str]) -> ImageRecord:
        bench.store.images.delete(NAME)
        return update(image, fields=fields)

    monkeypatch.setattr(
        type(bench.store.images), "update", lambda _self, image, **how: deleted_before(image, **how)
    )
    assert bench.pull().image == bench.store.images.get(NAME)


def test_a_config_of_type_octet_stream_gets_the_docker_media_type() -> None:
    graph = shapes.octet_stream_config()
    bench = Bench(graph)
    result = bench.pull()
    assert result.image.target.digest != graph.digest
    target = json.loads(bench.store.state.blobs[result.image.target.digest])
    assert target["config"]["mediaType"] == DOCKER_CONFIG
    assert target["layers"] == graph.document()["layers"]
    bench.store.collect_garbage()
    assert bench.here == {result.image.target.digest, *graph.blobs} - {graph.digest}


# --- failures and interrupts -------------------------------------------------------------------------------


def test_a_failed_pull_leaves_nothing() -> None:
    bench = Bench(shapes.single())
    layer = bench.graph.document()["layers"][1]["digest"]
    bench.source.broken.add(layer)
    with pytest.raises(RegistryError, match=f"{layer} is broken"):
        bench.pull()
    bench.check_nothing_is_left()


def test_wrong_bytes_leave_nothing() -> None:
    bench = Bench(shapes.single())
    layer = bench.graph.document()["layers"][0]
    bench.source.blobs[layer["digest"]] = bytes(layer["size"])
    with pytest.raises(RegistryContentError, match=f"wrong content for {layer['digest']}") as caught:
        bench.pull()
    assert (caught.value.host, caught.value.repository) == ("registry.example", "team/app")
    assert bench.store.state.ingests == {}, "the next pull must not resume them"
    bench.check_nothing_is_left()


def test_an_interrupt_keeps_received_bytes_for_the_next_pull() -> None:
    bench = Bench(shapes.single())

    def interrupt(event: Progress) -> None:
        if event.action == "unpacked":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        bench.pull(progress=interrupt)
    assert bench.store.images.list() == ()
    assert len(bench.store.state.leases) == 1
    bench.store.collect_garbage()
    assert bench.here == set(bench.graph.blobs)
    bench.source.calls.clear()
    assert bench.pull().fetched == ()
    assert bench.source.done("fetch") == []


def test_resumed_bytes_are_counted() -> None:
    bench = Bench(shapes.single())
    layer = bench.graph.document()["layers"][0]
    with bench.store.content.open_ingest(
        f"layer-{layer['digest']}", digest=Digest(layer["digest"]), size=layer["size"]
    ) as ingest:
        ingest.write(bench.graph.blobs[layer["digest"]][:10])
    result = bench.pull()
    assert {item.digest: size for item, size in result.resumed.items()} == {layer["digest"]: 10}
    assert result.bytes_resumed == 10
    assert result.bytes_fetched == sum(map(len, bench.graph.blobs.values())) - 10
    assert bench.events[-1] == Progress(
        action="done", descriptor=result.image.target, resumed=10, detail=NAME
    )


def test_an_image_without_the_platform_is_refused_before_layers_are_fetched() -> None:
    bench = Bench(shapes.five_platform())
    with pytest.raises(NoMatchingPlatform, match="linux/riscv64") as caught:
        bench.pull("linux/riscv64")
    assert "linux/amd64" in (caught.value.hint or "")
    assert bench.source.done("fetch") == [bench.graph.digest]
    bench.check_nothing_is_left()


def test_an_unknown_name_leaves_nothing() -> None:
    bench = Bench(shapes.single())
    bench.source.tags.clear()
    with pytest.raises(NotFound):
        bench.pull()
    bench.check_nothing_is_left()


def test_labels_that_containerd_would_refuse_are_refused_before_any_request() -> None:
    bench = Bench(shapes.single())
    for labels in ({"k": "v" * 4096}, {"k": "\udcff"}):
        with pytest.raises(InvalidInput):
            bench.pull(labels=labels)
    assert bench.source.calls == []


def test_schema_1_is_refused() -> None:
    bench = Bench(Graph({"mediaType": SCHEMA_1, "digest": str(Digest.of(b"{}")), "size": 2}, {}))
    with pytest.raises(RegistryContentError, match="no longer supported"):
        bench.pull()
    assert bench.source.done("fetch") == []


# --- other clients during a pull ---------------------------------------------------------------------------


def test_labels_that_another_client_removes_are_set_again() -> None:
    bench = Bench(shapes.single())
    document = bench.graph.document()

    def prune(event: Progress) -> None:
        if (
            event.action == "unpacked"
            and event.descriptor
            and event.descriptor.digest == document["layers"][1]["digest"]
        ):
            bench.store.content.set_labels(
                Digest(bench.graph.digest), dict.fromkeys(bench.labels(bench.graph.digest), "")
            )

    bench.pull(progress=prune)
    (mended,) = [event for event in bench.events if event.action == "mended"]
    assert mended.descriptor is not None
    assert mended.descriptor.digest == bench.graph.digest
    assert "3 of 3 gc labels" in mended.detail
    bench.store.collect_garbage()
    assert bench.here == set(bench.graph.blobs)


def test_content_that_another_client_deletes_is_an_error() -> None:
    bench = Bench(shapes.single())
    layers = [layer["digest"] for layer in bench.graph.document()["layers"]]

    def delete(event: Progress) -> None:
        if event.action == "unpacked" and event.descriptor and event.descriptor.digest == layers[1]:
            bench.store.content.delete(Digest(layers[0]))

    with pytest.raises(IncompleteContent, match=f"{layers[0]}: not found") as caught:
        bench.pull(progress=delete)
    assert [item.digest for item in caught.value.missing] == [layers[0]]
    bench.check_nothing_is_left()


# --- unpacking ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "kind",
    [
        "application/vnd.dev.cosign.simplesigning.v1+json",
        "application/vnd.dsse.envelope.v1+json",
        "text/spdx+json",
        "application/vnd.cyclonedx+json",
        "application/vnd.wasm.content.layer.v1+wasm",
    ],
)
@pytest.mark.parametrize(
    "diff_ids", [None, [], [""], [":"], ["sha256:" + "1" * 64] * 2], ids=["own", "none", "", ":", "two"]
)
def test_layers_that_are_not_unpacked_need_no_diff_ids(kind: str, diff_ids: Sequence[str] | None) -> None:
    graph = shapes.signature(kind, diff_ids)
    result, store = pulled(graph)
    assert {item.digest for item in result.fetched} == set(graph.blobs)
    assert store.state.snapshots == {}
    assert store.images.get(NAME).target.digest == graph.digest


def without_diff_ids() -> Graph:
    return manifest(Blob(b"{}", OCI_CONFIG), shapes.layers_for("linux/amd64", 1))


def with_odd_diff_ids() -> Graph:
    layers = shapes.layers_for("linux/amd64", 1)
    return manifest(config(layers, rootfs={"type": "layers", "diff_ids": ["sha256:1"]}), layers)


def with_wrong_diff_ids() -> Graph:
    layers = shapes.layers_for("linux/amd64", 1)
    wrong = str(Digest.of(b"something else"))
    return manifest(config(layers, rootfs={"type": "layers", "diff_ids": [wrong]}), layers)


@pytest.mark.parametrize(
    ("make", "words", "hint"),
    [
        (without_diff_ids, "mismatched image rootfs and manifest layers: 0 diff ids", "`unpack=False`"),
        (with_odd_diff_ids, "invalid checksum digest length: 'sha256:1'", "`unpack=False`"),
        (with_wrong_diff_ids, "wrong diff id calculated on extraction", "`unpack=False`"),
    ],
)
def test_layers_that_cannot_be_unpacked_can_be_pulled(
    make: Callable[[], Graph], words: str, hint: str
) -> None:
    with pytest.raises(RegistryContentError, match=words) as caught:
        pulled(make())
    assert hint in str(caught.value.hint)
    result, _store = pulled(make(), unpack=False)
    assert len(result.fetched) == 3


# --- platforms of configs and indexes ----------------------------------------------------------------------


def test_an_attestation_may_have_the_config_of_any_platform() -> None:
    graph = shapes.attested_as_amd64()
    result, store = pulled(graph, "all", unpack=True)
    assert {item.digest for item in result.fetched} == set(graph.blobs)
    assert result.unpacked == (parse("linux/amd64"),)
    assert len(store.state.snapshots) == 2


def test_an_image_must_have_the_platform_that_its_index_states() -> None:
    graph = index([manifest(config([], "linux/s390x"), [Blob(b"{}", IN_TOTO)], on="linux/amd64")])
    with pytest.raises(RegistryContentError, match="says linux/amd64, but the config says linux/s390x"):
        pulled(graph)


# --- limits of sizes ---------------------------------------------------------------------------------------


def test_a_config_may_be_larger_than_a_manifest() -> None:
    graph = shapes.large_config(MAX_MANIFEST_BYTES + 1)
    result, _store = pulled(graph)
    assert result.unpacked == (parse("linux/amd64"),)


def test_the_error_for_a_large_document_names_its_kind() -> None:
    image = shapes.single()
    claimed = manifest(Blob(b"{}", OCI_CONFIG, {"size": MAX_CONFIG_BYTES + 1}), [])
    with pytest.raises(RegistryContentError, match="rejecting 67108865 byte image config sha256:"):
        pulled(claimed)
    child = {**image.root, "size": MAX_MANIFEST_BYTES + 1}
    for kind in ("manifest", "index"):
        media_type = f"application/vnd.oci.image.{kind}.v1+json"
        listed = index([Graph({**child, "mediaType": media_type}, {})])
        with pytest.raises(RegistryContentError, match=f"rejecting 4393217 byte {kind} sha256:"):
            pulled(listed)

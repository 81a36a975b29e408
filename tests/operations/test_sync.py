"""Sync between two stores in memory: what is copied, labelled, resumed and refused."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from pyctrd.errors import (
    REPAIR_HINT,
    Cancelled,
    ContentError,
    DaemonError,
    DigestMismatch,
    ImageNotFound,
    NoMatchingPlatform,
    Remedy,
)
from pyctrd.oci.errors import IncompleteContent
from pyctrd.oci.model import Descriptor, Digest, ImageRecord, Platform
from pyctrd.operations.sync import Side, SyncOptions, SyncResult, of_side, sync
from pyctrd.progress import Progress, no_progress
from pyctrd.steps.fetch import ingest_ref
from tests.support import shapes
from tests.support.images import Graph, reachable
from tests.support.memory import MemoryStore
from tests.support.memory_content import Resource, Unfinished
from tests.support.selections import HOST, selected

NAME = "registry.example/team/app:1"
SOURCE = "containerd.io/distribution.source."
ELSEWHERE = "ssh://edge1"


class Bench:
    """A store with an image, all of it or not, and an empty one."""

    def __init__(self, graph: Graph, *, without: Sequence[str] = (), name: str = NAME) -> None:
        self.graph = graph
        self.source = MemoryStore()
        self.source.put(graph.blobs, without=without)
        self.records = [self.source.tag(name, graph.root)]
        self.target = MemoryStore()
        self.events: list[Progress] = []

    def sync(
        self, *platforms: str, backwards: bool = False, host: Platform = HOST, **options: Any
    ) -> SyncResult:
        """Copy the image; the target is the other containerd, or `backwards` the source is."""
        how = {name: options.pop(name) for name in ("dry_run", "progress") if name in options}
        return sync(
            Side(self.source, ELSEWHERE if backwards else ""),
            Side(self.target, "" if backwards else ELSEWHERE),
            self.records,
            SyncOptions(platforms=selected(*platforms, host=host), **options),
            **{"progress": self.events.append, **how},
        )

    @property
    def there(self) -> set[str]:
        return set(self.target.state.blobs)

    def check_nothing_happened(self) -> None:
        """After a refusal: nothing was written or begun on either side."""
        assert (self.there, self.target.state.ingests, self.target.state.images) == (set(), {}, {})
        assert self.target.state.leases == self.source.state.leases == {}

    def check_no_record(self) -> None:
        """After a failure: no record, and no lease."""
        assert self.target.state.images == {}
        assert self.target.state.leases == {}

    def size(self, digests: set[str]) -> int:
        return sum(len(self.graph.blobs[digest]) for digest in digests)


def children(graph: Graph) -> list[str]:
    """List the digests of a manifest's config and layers."""
    document = graph.document()
    return [document["config"]["digest"], *(layer["digest"] for layer in document["layers"])]


def platform_blobs(graph: Graph, *numbers: int) -> set[str]:
    """List the digests of an index and of some of its children with all that is below."""
    found = {graph.digest}
    for number in numbers:
        found |= set(reachable(graph.child(number)))
    return found


# --- what is copied ---------------------------------------------------------------------------------------

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


@pytest.mark.parametrize("graph", SHAPES.values(), ids=SHAPES)
def test_a_sync_of_all_platforms_copies_everything_once(graph: Graph) -> None:
    bench = Bench(graph)
    result = bench.sync("all")
    assert bench.there == set(reachable(graph))
    assert {item.digest for item in result.sent} == bench.there
    assert result.bytes_sent == bench.size(bench.there)
    assert (result.present, result.resumed, result.unpacked) == ((), {}, ())
    assert bench.target.state.images[NAME].target == bench.records[0].target
    again = bench.sync("all")
    assert (again.sent, again.bytes_sent) == ((), 0)
    assert {item.digest for item in again.present} == bench.there


@pytest.mark.parametrize("platforms", [(), ("all",), ("local",)])
@pytest.mark.parametrize("graph", SHAPES.values(), ids=SHAPES)
def test_labels_keep_all_that_was_copied_and_nothing_is_left_of_the_leases(
    graph: Graph, platforms: Sequence[str]
) -> None:
    bench = Bench(graph)
    before = dict(bench.source.state.blobs)
    bench.sync(*platforms)
    stored, snapshots = bench.there, dict(bench.target.state.snapshots)
    bench.target.collect_garbage()
    assert (bench.there, bench.target.state.snapshots) == (stored, snapshots)
    assert bench.target.state.leases == bench.source.state.leases == {}
    assert bench.source.state.blobs == before
    assert bench.source.state.ingests == {}


def test_the_platform_of_the_receiving_machine_is_the_default() -> None:
    graph = shapes.multi(["linux/amd64", "linux/arm64"])
    bench = Bench(graph)
    result = bench.sync(host=Platform(os="linux", architecture="arm64", variant="v8"))
    assert bench.there == platform_blobs(graph, 1)
    assert [item.architecture for item in result.unpacked] == ["arm64"]


def test_local_is_what_is_complete_in_the_source() -> None:
    graph = shapes.multi(["linux/amd64", "linux/arm64", "linux/arm/v7"])
    bench = Bench(graph, without=[children(graph.child(1))[1]])
    bench.sync("local")
    assert bench.there == platform_blobs(graph, 0, 2)
    assert bench.target.state.snapshots == {}


@pytest.mark.parametrize(
    ("platforms", "unpack", "unpacked"),
    [
        ((), None, True),
        ((), False, False),
        (("all",), None, False),
        (("all",), True, True),
        (("local",), None, False),
    ],
)
def test_what_is_unpacked(platforms: Sequence[str], unpack: bool | None, unpacked: bool) -> None:
    bench = Bench(shapes.single())
    result = bench.sync(*platforms, unpack=unpack)
    assert bool(bench.target.state.snapshots) is bool(result.unpacked) is unpacked
    assert bench.source.state.snapshots == {}


def test_only_what_is_missing_is_sent() -> None:
    graph = shapes.multi(["linux/amd64", "linux/arm64"], 3)
    bench = Bench(graph)
    bench.sync()
    result = bench.sync("all")
    assert {item.digest for item in result.sent} == set(reachable(graph)) - platform_blobs(graph, 0)
    assert {item.digest for item in result.present} == platform_blobs(graph, 0)
    assert result.bytes_sent == sum(item.size for item in result.sent)


def test_several_images_share_what_they_have_in_common() -> None:
    graph = shapes.single()
    bench = Bench(graph)
    bench.records.append(bench.source.tag("registry.example/team/app:2", graph.root))
    bench.records.append(bench.records[0])
    result = bench.sync()
    assert [image.name for image in result.images] == [NAME, "registry.example/team/app:2"]
    assert result.bytes_sent == bench.size(bench.there)
    assert set(bench.target.state.images) == {NAME, "registry.example/team/app:2"}
    assert result.present == ()


def test_a_record_with_any_name_is_copied_and_an_existing_one_keeps_its_labels() -> None:
    bench = Bench(shapes.single(), name="sha256:abc/weird name")
    bench.target.images.create(
        ImageRecord(
            name="sha256:abc/weird name",
            target=Bench(shapes.artifact()).records[0].target,
            labels={"io.cri-containerd.image": "managed"},
        )
    )
    bench.sync()
    record = bench.target.state.images["sha256:abc/weird name"]
    assert record.target == bench.records[0].target
    assert dict(record.labels) == {"io.cri-containerd.image": "managed"}


# --- source labels ----------------------------------------------------------------------------------------


def label(store: MemoryStore, digest: str, labels: Mapping[str, str]) -> None:
    store.content.set_labels(Digest(digest), labels)


def sources(store: MemoryStore, digest: str) -> dict[str, str]:
    found = store.content.info(Digest(digest)).labels
    return {key.removeprefix(SOURCE): value for key, value in found.items() if key.startswith(SOURCE)}


def test_source_labels_are_taken_over_and_none_is_invented() -> None:
    graph = shapes.single()
    bench = Bench(graph)
    config, layer, other = children(graph)
    label(bench.source, graph.digest, {f"{SOURCE}mirror.example": "a/b,c/d", f"{SOURCE}ghcr.io": "team/app"})
    label(bench.source, layer, {f"{SOURCE}mirror.example": "a/b", "io.example/mine": "1"})
    bench.target.put(graph.blobs)
    label(bench.target, graph.digest, {f"{SOURCE}mirror.example": "x/y"})
    bench.sync()
    assert sources(bench.target, graph.digest) == {"mirror.example": "a/b,c/d,x/y", "ghcr.io": "team/app"}
    assert sources(bench.target, layer) == {"mirror.example": "a/b"}
    assert "io.example/mine" not in bench.target.content.info(Digest(layer)).labels
    assert sources(bench.target, config) == sources(bench.target, other) == {}


# --- resume -----------------------------------------------------------------------------------------------


def descriptor_of(graph: Graph, digest: str) -> Descriptor:
    entries = graph.document()
    found = next(item for item in [entries["config"], *entries["layers"]] if item["digest"] == digest)
    return Descriptor(media_type=found["mediaType"], digest=Digest(digest), size=found["size"])


def test_an_unfinished_write_of_any_client_is_resumed() -> None:
    graph = shapes.single()
    bench = Bench(graph)
    layer = descriptor_of(graph, children(graph)[1])
    data = graph.blobs[layer.digest]
    bench.target.state.ingests[ingest_ref(layer)] = Unfinished(bytearray(data[:10]), total=len(data))
    planned = bench.sync(dry_run=True)
    result = bench.sync()
    assert bench.target.state.blobs[layer.digest] == data
    assert result.bytes_sent == planned.bytes_sent == bench.size(bench.there) - 10
    assert result.bytes_resumed == planned.bytes_resumed == 10
    assert [item.digest for item in result.resumed] == [layer.digest]


def test_an_interrupted_sync_keeps_its_lease_in_the_target_only() -> None:
    graph = shapes.single(layers=4)
    bench = Bench(graph)

    def stop(event: Progress) -> None:
        if event.action == "uploaded" and event.descriptor and event.descriptor.digest == children(graph)[2]:
            raise Cancelled("the operation was cancelled")

    with pytest.raises(Cancelled):
        bench.sync(progress=stop, concurrency=1)
    assert bench.source.state.leases == {}
    assert len(bench.target.state.leases) == 1
    assert bench.target.state.images == {}
    bench.target.collect_garbage()
    assert {graph.digest, children(graph)[0], children(graph)[1]} <= bench.there
    before = bench.there
    result = bench.sync()
    assert {item.digest for item in result.present} >= before
    assert bench.there == set(reachable(graph))


# --- dry run ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("graph", SHAPES.values(), ids=SHAPES)
def test_a_dry_run_predicts_the_sync_and_changes_nothing(graph: Graph) -> None:
    bench = Bench(graph)
    planned = bench.sync("local", dry_run=True)
    bench.check_nothing_happened()
    assert bench.events == []
    result = bench.sync("local")
    assert set(planned.sent) == set(result.sent)
    assert planned.bytes_sent == result.bytes_sent
    after = bench.sync("local", dry_run=True)
    assert (after.sent, set(after.present)) == ((), set(result.sent))


# --- refusals ---------------------------------------------------------------------------------------------


def test_an_incomplete_image_is_refused_with_what_is_missing_and_the_remedy() -> None:
    graph = shapes.multi(["linux/amd64", "linux/arm64"])
    lost = children(graph.child(1))[1]
    bench = Bench(graph, without=[lost])
    with pytest.raises(IncompleteContent) as caught:
        bench.sync("linux/arm64")
    bench.check_nothing_happened()
    assert f"content digest {lost}: not found" in caught.value.message
    assert [item.digest for item in caught.value.missing] == [lost]
    assert caught.value.remedy == Remedy(method="ensure", images=(NAME,), platforms=("linux/arm64",))
    with pytest.raises(IncompleteContent):
        bench.sync("all", dry_run=True)


def test_the_remedy_for_the_other_containerd_is_only_described() -> None:
    graph = shapes.single()
    bench = Bench(graph, without=[children(graph)[1]])
    with pytest.raises(IncompleteContent) as caught:
        bench.sync(backwards=True)
    assert (caught.value.remedy, caught.value.hint) == (
        None,
        "on ssh://edge1: fetch what is missing (`ensure`)",
    )


def test_local_without_a_complete_platform_is_incomplete() -> None:
    graph = shapes.single()
    bench = Bench(graph, without=[children(graph)[1]])
    with pytest.raises(IncompleteContent):
        bench.sync("local")
    bench.check_nothing_happened()


def test_a_platform_that_the_image_lacks_is_refused() -> None:
    bench = Bench(shapes.multi(["linux/amd64", "linux/arm64"]))
    with pytest.raises(NoMatchingPlatform) as caught:
        bench.sync(host=Platform(os="linux", architecture="riscv64"))
    bench.check_nothing_happened()
    assert caught.value.hint == "it has linux/amd64, linux/arm64"
    assert caught.value.remedy == Remedy(platforms=("linux/amd64",))


def test_all_images_are_checked_before_anything_is_sent() -> None:
    bench = Bench(shapes.single())
    broken = shapes.single(salt="other")
    bench.source.put(broken.blobs, without=[children(broken)[2]])
    bench.records.append(bench.source.tag("registry.example/other:1", broken.root))
    with pytest.raises(IncompleteContent):
        bench.sync()
    bench.check_nothing_happened()


def test_what_is_copied_is_pinned_in_the_source() -> None:
    graph = shapes.single(layers=3)
    bench = Bench(graph)
    held = set[Resource]()

    def delete(event: Progress) -> None:
        if event.action == "resolved":
            held.update(*bench.source.state.leases.values())
            bench.source.images.delete(NAME, sync=True)

    bench.sync(progress=delete)
    assert {one.name for one in held if one.kind == "content"} == set(reachable(graph))
    assert bench.there == set(reachable(graph))


def test_a_blob_that_is_deleted_in_the_source_meanwhile_is_named() -> None:
    graph = shapes.single(layers=2)
    bench = Bench(graph)

    def delete(event: Progress) -> None:
        if event.action == "resolved":
            bench.source.content.delete(Digest(children(graph)[2]))

    with pytest.raises(IncompleteContent) as caught:
        bench.sync(progress=delete)
    assert caught.value.hint == "another client deleted it while it was being copied; try again"
    bench.check_no_record()


def damage(store: MemoryStore, digest: str) -> None:
    """Change a byte of a blob."""
    data = store.state.blobs[Digest(digest)]
    store.state.blobs[Digest(digest)] = bytes([data[0] ^ 1]) + data[1:]


@pytest.mark.parametrize(
    ("backwards", "hint", "remedy"),
    [
        (
            False,
            "the store that has it is damaged: find damaged content and replace it",
            Remedy(method="verify", images=(NAME,), repair=True),
        ),
        (
            True,
            f"on {ELSEWHERE}: the store that has it is damaged: {REPAIR_HINT} (`verify`)",
            None,
        ),
    ],
)
def test_a_damaged_layer_is_refused_and_not_recorded(
    backwards: bool, hint: str, remedy: Remedy | None
) -> None:
    graph = shapes.single()
    bench = Bench(graph)
    damage(bench.source, children(graph)[1])
    with pytest.raises(ContentError, match="unexpected commit digest") as caught:
        bench.sync(backwards=backwards)
    assert type(caught.value) is ContentError
    assert (caught.value.hint, caught.value.remedy) == (hint, remedy)
    assert bench.target.state.ingests == {}
    bench.check_no_record()


@pytest.mark.parametrize("child", [0, None])
def test_a_damaged_document_is_not_stored_and_nothing_is_recorded(child: int | None) -> None:
    graph = shapes.single()
    bench = Bench(graph)
    damaged = graph.digest if child is None else children(graph)[child]
    damage(bench.source, damaged)
    with pytest.raises(ContentError, match="unexpected digest" if child is None else "wrong content for"):
        bench.sync()
    bench.check_no_record()
    assert damaged not in bench.there  # what was copied at the same time is for the collector
    bench.target.collect_garbage()
    assert bench.there == set()


def test_a_document_that_the_target_has_damaged_is_its_own_fault() -> None:
    graph = shapes.single()
    bench = Bench(graph)
    bench.target.put({graph.digest: graph.blobs[graph.digest]})
    damage(bench.target, graph.digest)
    with pytest.raises(DigestMismatch):
        bench.sync()
    assert bench.target.state.images == {}


def test_an_ambiguous_document_is_not_copied() -> None:
    plain = shapes.single()
    raw = json.dumps(plain.document())[:-1] + ', "layers": []}'
    bench = Bench(plain)
    digest = Digest.of(raw.encode())
    bench.source.put({digest: raw.encode()})
    root = {**plain.root, "digest": digest, "size": len(raw)}
    bench.records = [bench.source.tag(NAME, root)]
    with pytest.raises(ContentError, match="duplicate key 'layers'") as caught:
        bench.sync()
    assert type(caught.value) is ContentError
    assert caught.value.hint == "the image is broken: rebuild it; the document was not copied"
    assert bench.there == set()


# --- hints and progress -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "hint"),
    [
        (
            ImageNotFound(
                "x",
                kind="image",
                name="x",
                hint="it is in the namespace k8s.io",
                remedy=Remedy(namespace="k8s.io"),
            ),
            "on ssh://edge1: it is in the namespace k8s.io: add ?namespace=k8s.io to the address",
        ),
        (DaemonError("x", hint="containerd's disk is full"), "on ssh://edge1: containerd's disk is full"),
        (DaemonError("x"), None),
        (NoMatchingPlatform("x", name="x", hint="it has a", remedy=Remedy(platforms=("a",))), "it has a"),
    ],
)
def test_hints_say_on_which_machine(error: Any, hint: str | None) -> None:
    with pytest.raises(type(error)), of_side(Side(MemoryStore(), ELSEWHERE)):
        raise error
    assert error.hint == hint


@pytest.mark.parametrize(
    ("backwards", "actions"),
    [
        (False, {"planned", "resolved", "uploading", "uploaded", "unpacking", "unpacked", "done"}),
        (True, {"planned", "resolved", "downloading", "downloaded", "unpacking", "unpacked", "done"}),
    ],
)
def test_progress_is_an_upload_or_a_download(backwards: bool, actions: set[str]) -> None:
    bench = Bench(shapes.single())
    bench.sync(backwards=backwards)
    assert {event.action for event in bench.events} == actions
    details = {event.detail for event in bench.events if event.action == "planned"}
    assert details == {"download" if backwards else "upload"}
    bench.events.clear()
    bench.sync(backwards=backwards, progress=no_progress)
    assert bench.events == []

"""Load archives that leave out what the store has: layers, or the snapshots of layers."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence

import pytest

from pyctrd.archive.presumed import PRESUMED, Presumed, document
from pyctrd.archive.presumed import parse as parse_statement
from pyctrd.errors import ArchiveError, NotFound
from pyctrd.oci.errors import IncompleteContent
from pyctrd.oci.model import Digest, ImageConfig
from pyctrd.oci.platforms import parse
from tests.support import images, shapes
from tests.support.images import Graph, Layer, reachable
from tests.support.loading import NAME, Bench, entry, layout
from tests.support.memory import SNAPSHOTTER, MemorySnapshots, target_of
from tests.support.tars import tar_of

PIPE = pytest.mark.parametrize("pipe", [False, True], ids=["file", "pipe"])
BASE = [images.layer({f"base/{number}": b"base\n" * 100}) for number in range(2)]


@pytest.fixture
def bench() -> Bench:
    return Bench()


def release(version: int, *, base: Sequence[Layer] = BASE, on: str = "linux/amd64") -> Graph:
    """An image with its own layer, which is too large to be kept in memory, on top of a base."""
    made = [*base, images.random_layer(100_000, seed=version)]
    return images.manifest(images.config(made, on), made, on=on)


def chain_ids(graph: Graph) -> list[Digest]:
    return list(ImageConfig.parse(graph.blobs[graph.document()["config"]["digest"]]).rootfs.chain_ids)


def stated(graph: Graph, left_out: Sequence[int] = (0, 1), platforms: Sequence[str] = ()) -> list[Presumed]:
    layers = graph.document()["layers"]
    return [
        Presumed(
            layer=target_of(layers[number]),
            chain_ids=(chain_ids(graph)[number],),
            platforms=tuple(map(parse, platforms)),
        )
        for number in left_out
    ]


def delta(graph: Graph, found: Sequence[Presumed], name: str = NAME) -> bytes:
    files = layout(entry(graph, name), blobs=reachable(graph), without={item.layer.digest for item in found})
    return tar_of({PRESUMED: document(found), **files})


def without_blobs(bench: Bench, graph: Graph) -> None:
    """Remove the blobs of all layers, as the CRI does after unpacking."""
    for layer in graph.document()["layers"]:
        bench.store.state.remove_blob(Digest(layer["digest"]))


def base_digests() -> set[str]:
    return {item["digest"] for item in release(1).document()["layers"][:2]}


@PIPE
def test_the_base_is_in_the_store(bench: Bench, pipe: bool) -> None:
    old, new = release(1), release(2)
    bench.load(tar_of(layout(entry(old, "old:v1"), blobs=reachable(old))))
    result = bench.load(delta(new, stated(new)), pipe=pipe)
    assert [image.complete for image in result.images] == [True]
    assert bench.here == {*reachable(old), *reachable(new)}


@PIPE
@pytest.mark.parametrize("dry_run", [False, True])
def test_without_the_base_nothing_is_written(bench: Bench, pipe: bool, dry_run: bool) -> None:
    new = release(2)
    found = stated(new)
    with pytest.raises(IncompleteContent) as raised:
        bench.load(delta(new, found), pipe=pipe, dry_run=dry_run)
    assert raised.value.missing == tuple(item.layer for item in found)
    for item in found:
        assert f"{item.layer.digest} ({item.layer.size} B)" in raised.value.message
    assert "load the images that it builds on first" in str(raised.value.hint)
    assert {event.action for event in bench.events} <= {"done"}
    bench.check_nothing_is_left()


@PIPE
def test_the_store_has_only_the_snapshots_of_the_base(bench: Bench, pipe: bool) -> None:
    old, new = release(1), release(2)
    bench.load(tar_of(layout(entry(old, "old:v1"), blobs=reachable(old))))
    without_blobs(bench, old)
    planned = bench.load(delta(new, stated(new)), pipe=pipe, dry_run=True)
    result = bench.load(delta(new, stated(new)), pipe=pipe)
    assert (planned.images, planned.unpacked) == (result.images, result.unpacked)
    assert planned.bytes_written == result.bytes_written
    assert [image.complete for image in result.images] == [True]
    assert set(reachable(new)) - base_digests() <= bench.here
    assert not base_digests() & bench.here
    assert (SNAPSHOTTER, str(chain_ids(new)[-1])) in bench.store.state.snapshots


def test_a_layer_without_blob_and_statement_is_missing(bench: Bench) -> None:
    """Other archives are loaded only if all of the image is there, so that it can be saved and pushed."""
    old, new = release(1), release(2)
    bench.load(tar_of(layout(entry(old, "old:v1"), blobs=reachable(old))))
    without_blobs(bench, old)
    files = layout(entry(new), blobs=reachable(new), without=base_digests())
    with pytest.raises(IncompleteContent):
        bench.load(tar_of(files))


def test_a_snapshot_replaces_a_layer_only_if_the_image_is_unpacked(bench: Bench) -> None:
    old, new = release(1), release(2)
    bench.load(tar_of(layout(entry(old, "old:v1"), blobs=reachable(old))))
    without_blobs(bench, old)
    with pytest.raises(IncompleteContent, match="leaves out 2 layers") as raised:
        bench.load(delta(new, stated(new)), unpack=False)
    assert "if the layers are unpacked" in str(raised.value.hint)


def test_a_snapshot_of_another_chain_does_not_replace_a_layer(bench: Bench) -> None:
    """The same layers in another order have other snapshots."""
    old = release(1, base=BASE[::-1])
    new = release(2)
    bench.load(tar_of(layout(entry(old, "old:v1"), blobs=reachable(old))))
    without_blobs(bench, old)
    # The statement also names chains that exist, as that of several images does.
    found = [Presumed(layer=item.layer, chain_ids=(*item.chain_ids, *chain_ids(old))) for item in stated(new)]
    with pytest.raises(IncompleteContent) as raised:
        bench.load(delta(new, found))
    assert {item.digest for item in raised.value.missing} == base_digests()
    assert bench.names == {"old:v1"}


def test_the_base_of_another_platform_is_not_needed(bench: Bench) -> None:
    foreign = [images.layer({"foreign": b"arm64"}), images.layer({"more": b"arm64"})]
    both = images.index([release(2), release(2, base=foreign, on="linux/arm64")])
    found = [
        *stated(both.child(0), platforms=["linux/amd64"]),
        *stated(both.child(1), platforms=["linux/arm64"]),
    ]
    old = release(1)
    bench.load(tar_of(layout(entry(old, "old:v1"), blobs=reachable(old))))
    result = bench.load(delta(both, found))
    assert [image.complete for image in result.images] == [True]
    with pytest.raises(IncompleteContent, match="leaves out 2 layers"):
        bench.load(delta(both, found), "all")


def test_with_skip_the_other_images_are_loaded(bench: Bench) -> None:
    other, new = shapes.single(), release(2)
    found = stated(new)
    blobs = {**reachable(other), **reachable(new)}
    left_out = {str(item.layer.digest) for item in found}
    files = layout(entry(new, "new:v1"), entry(other, "other:v1"), blobs=blobs, without=left_out)
    result = bench.load(tar_of({PRESUMED: document(found), **files}), on_missing="skip")
    assert [image.name for image in result.images] == ["other:v1"]


def test_a_snapshot_that_is_removed_in_the_meantime(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    old, new = release(1), release(2)
    bench.load(tar_of(layout(entry(old, "old:v1"), blobs=reachable(old))))
    without_blobs(bench, old)
    prepare: Callable[..., object] = MemorySnapshots.prepare

    def removing(snapshots: MemorySnapshots, *args: object, **named: object) -> object:
        bench.store.state.snapshots.clear()
        return prepare(snapshots, *args, **named)

    monkeypatch.setattr(MemorySnapshots, "prepare", removing)
    with pytest.raises(NotFound, match="not found") as raised:
        bench.load(delta(new, stated(new)))
    assert "was removed in the meantime" in str(raised.value.hint)
    assert bench.names == {"old:v1"}


@pytest.mark.parametrize(
    ("statement", "words"),
    [
        (b"[", "not valid JSON"),
        (b"[]", "Expected `object`"),
        (b'{"schema":2}', "it has schema 2; this version reads schema 1"),
        (b'{"schema":1,"presumed":[{"digest":"sha256:0","size":1}]}', "digest"),
        (b'{"schema":1,"presumed":[{"digest":"' + b"sha256:" + b"0" * 64 + b'"}]}', "size"),
    ],
)
def test_a_broken_statement(bench: Bench, statement: bytes, words: str) -> None:
    graph = shapes.single()
    files = layout(entry(graph), blobs=reachable(graph))
    with pytest.raises(ArchiveError, match=f"{PRESUMED} of the archive: .*{words}"):
        bench.load(tar_of({PRESUMED: statement, **files}))
    bench.check_nothing_is_left()


def test_the_statement_says_for_which_platforms_a_layer_is() -> None:
    found = stated(release(2), [0], ["linux/amd64", "linux/arm/v7"])
    assert parse_statement(document(found)) == tuple(found)
    (item,) = json.loads(document(found))["presumed"]
    assert item["platforms"] == ["linux/amd64", "linux/arm/v7"]

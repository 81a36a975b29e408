"""Save without the layers that the target has, on a store in memory."""

from __future__ import annotations

import io
import json

import pytest

from pyctrd.archive.inventory import Have
from pyctrd.errors import InvalidInput
from pyctrd.oci.model import Digest, ImageConfig
from pyctrd.operations.inventory import inventory
from pyctrd.operations.save import SaveOptions, save
from tests.support import images, shapes
from tests.support.images import Graph
from tests.support.saving import Archive, Bench, below, layers
from tests.support.selections import selected


def chain_ids(graph: Graph) -> list[Digest]:
    config = graph.document()["config"]["digest"]
    return list(ImageConfig.parse(graph.blobs[config]).rootfs.chain_ids)


def stated(archive: Archive) -> dict[str, list[str]]:
    found = json.loads(archive.files["pyctrd.json"])
    assert found["schema"] == 1
    return {item["digest"]: item["chain_ids"] for item in found["presumed"]}


@pytest.mark.parametrize("how", ["blob", "snapshot"])
def test_layers_of_the_target_are_left_out(how: str) -> None:
    graph = shapes.single(layers=3)
    first = layers(graph)[:2]
    chains = chain_ids(graph)
    have = (
        Have(blobs=frozenset(map(Digest, first))) if how == "blob" else Have(chain_ids=frozenset(chains[:2]))
    )
    bench = Bench(graph)
    planned = bench.plan(have=have)
    archive = bench.save(have=have)
    assert archive.blobs == set(graph.blobs) - set(first)
    assert {item.digest for item in archive.result.presumed} == set(first)
    assert planned.presumed == archive.result.presumed
    assert planned.bytes_written == archive.result.bytes_written
    # With blobs alone, configs are not needed for the decision, but the statement has chain ids as well.
    assert stated(archive) == dict(zip(first, ([item] for item in chains), strict=False))


def test_configs_manifests_and_indexes_always_travel() -> None:
    graph = shapes.five_platform()
    archive = Bench(graph).save("all", have=Have(blobs=frozenset(map(Digest, graph.blobs))))
    everything = {digest for number in range(5) for digest in layers(graph.child(number))}
    assert archive.blobs == set(graph.blobs) - everything
    assert {item.digest for item in archive.result.presumed} == everything


def test_without_an_inventory_there_is_no_statement_and_with_an_empty_one_an_empty_one() -> None:
    bench = Bench(shapes.single())
    assert "pyctrd.json" not in bench.save().files
    archive = bench.save(have=Have())
    assert stated(archive) == {}
    del archive.files["pyctrd.json"]
    assert archive.files == bench.save().files


def test_presumed_layers_are_neither_fetched_nor_required() -> None:
    graph = shapes.single(layers=3)
    first = layers(graph)[:2]
    bench = Bench(graph, without=first)
    have = Have(chain_ids=frozenset(chain_ids(graph)[:2]))
    for mode in ("none", "target"):
        bench.save(ensure=mode, have=have)
        assert bench.plan(ensure=mode, have=have).fetched == ()
    assert bench.opened == 0


def test_an_absent_config_is_read_from_the_registry_to_decide() -> None:
    graph = shapes.single(layers=3)
    config = graph.document()["config"]["digest"]
    bench = Bench(graph, without=[config, *layers(graph)])
    have = Have(chain_ids=frozenset(chain_ids(graph)[:2]))
    planned = bench.plan(have=have)
    archive = bench.save(have=have)
    wanted = {config, layers(graph)[2]}
    assert {item.digest for item in planned.fetched} == wanted
    assert {item.digest for item in archive.result.fetched} == wanted


def test_a_layer_that_has_its_snapshot_in_one_image_only_travels() -> None:
    """Its snapshot depends on what is below it."""
    base = images.layer({"base": b"base"})
    other = images.layer({"other": b"other"})
    top = images.layer({"top": b"top"})
    one, two = (images.manifest(images.config([low, top]), [low, top]) for low in (base, other))
    bench = Bench(one)
    bench.store.put(two.blobs)
    records = [bench.record, bench.store.tag("registry.example/team/two:1", two.root)]
    options = SaveOptions(platforms=selected(), have=Have(chain_ids=frozenset(chain_ids(one))))
    output = io.BytesIO()
    result = save(bench.store, records, options, output, fetchers=bench.fetchers)
    archive = Archive(output.getvalue(), result)
    assert archive.blobs == (set(one.blobs) | set(two.blobs)) - {base.digest}
    assert list(stated(archive)) == [base.digest]


def test_a_layer_has_a_chain_id_for_each_place() -> None:
    low, top = images.layer({"low": b"low"}), images.layer({"top": b"top"})
    graph = images.index(
        [
            images.manifest(images.config([low, top]), [low, top], on="linux/amd64"),
            images.manifest(images.config([top], "linux/arm64"), [top], on="linux/arm64"),
        ]
    )
    archive = Bench(graph).save("all", have=Have(blobs=frozenset({Digest(top.digest)})))
    expected = [chain_ids(graph.child(0))[1], chain_ids(graph.child(1))[0]]
    assert stated(archive) == {top.digest: expected}


def test_an_artifact_is_left_out_by_its_blobs_only() -> None:
    graph = shapes.artifact()
    have = Have(blobs=frozenset({Digest(layers(graph)[0])}), chain_ids=frozenset({Digest(graph.digest)}))
    archive = Bench(graph).save(have=have)
    assert archive.blobs == below(graph) - {layers(graph)[0]}
    assert stated(archive) == {layers(graph)[0]: []}


def test_prune_and_have_together() -> None:
    graph = shapes.five_platform()
    native = graph.child(0)
    archive = Bench(graph).save(index="prune", have=Have(blobs=frozenset(map(Digest, layers(native)))))
    assert archive.blobs == {archive.index[0]["digest"]} | below(native) - set(layers(native))


def test_dockers_format_holds_everything() -> None:
    with pytest.raises(InvalidInput, match="`format=docker` cannot leave out layers"):
        SaveOptions(format="docker", have=Have())


# --- the inventory ----------------------------------------------------------------------------------------


def test_an_inventory_has_only_committed_layers() -> None:
    graph = shapes.single()
    bench = Bench(graph)
    snapshots = bench.store.snapshots
    chains = chain_ids(graph)
    for name, parent in ((chains[0], ""), ("mine", "")):
        snapshots.prepare("overlayfs", "work", parent)
        snapshots.commit("overlayfs", name, "work")
    snapshots.prepare("overlayfs", str(chains[1]), chains[0])
    found = inventory(bench.store, ["native", "overlayfs"])
    assert found.snapshots == {"overlayfs": (chains[0],)}
    assert {item.digest: item.size for item in found.blobs} == {
        digest: len(data) for digest, data in graph.blobs.items()
    }
    assert [(item.name, item.digest) for item in found.images] == [(bench.record.name, graph.digest)]
    assert found.namespace == bench.store.namespace

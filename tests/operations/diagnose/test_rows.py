"""The rows: how complete each manifest is."""

from __future__ import annotations

import msgspec
import pytest

from pyctrd.errors import ContentError
from pyctrd.oci import mediatypes
from pyctrd.oci.model import Descriptor
from pyctrd.oci.platforms import parse
from pyctrd.operations.diagnose import Diagnosis, PlatformState, diagnose
from tests.operations.diagnose.world import World, record
from tests.support.selections import selected


def look(world: World, target: Descriptor, *values: str, snapshotter: str = "") -> Diagnosis:
    return diagnose(world.store, record(target), selected(*values), snapshotter=snapshotter)


def row_of(diagnosis: Diagnosis, platform: str) -> PlatformState:
    return next(row for row in diagnosis.platforms if row.platform == platform)


def test_a_complete_image_has_only_complete_rows() -> None:
    world = World()
    target = world.index(world.manifest("linux/amd64", ["a", "b"]), world.manifest("linux/arm64", ["c"]))
    world.unpack("a", "b")
    found = look(world, target)
    assert found.complete
    assert [row.platform for row in found.platforms] == ["linux/amd64", "linux/arm64"]
    assert [row.target for row in found.platforms] == [True, False]
    assert [row.layers_total for row in found.platforms] == [2, 1]
    assert all(row.complete and row.manifest and row.config and not row.missing for row in found.platforms)
    assert [row.unpacked for row in found.platforms] == [True, False]
    assert found.causes == ()


def test_missing_layers_are_counted_with_their_bytes() -> None:
    world = World()
    foreign = world.manifest("linux/arm64", ["c", "d"])
    target = world.index(world.manifest("linux/amd64", ["a"]), foreign)
    _, layers = world.below(foreign)
    world.remove(*layers)
    found = look(world, target)
    row = row_of(found, "linux/arm64")
    assert found.complete
    assert (row.layers_present, row.layers_total, row.missing_known) == (0, 2, True)
    assert [item.digest for item in row.missing] == [item.digest for item in layers]
    assert row.missing_bytes == sum(item.size for item in layers)


def test_layers_of_an_absent_manifest_are_unknown_and_not_zero() -> None:
    world = World()
    foreign = world.manifest("linux/arm64", ["c", "d"])
    target = world.index(world.manifest("linux/amd64", ["a"]), foreign)
    world.remove(foreign)
    row = row_of(look(world, target), "linux/arm64")
    assert (row.manifest, row.config, row.layers_present, row.layers_total) == (False, None, None, None)
    assert not row.missing_known
    assert not row.complete
    assert [item.digest for item in row.missing] == [foreign.digest]
    assert row.missing_bytes == foreign.size


def test_a_repeated_layer_is_counted_twice_but_missing_once() -> None:
    world = World()
    manifest = world.manifest("linux/amd64", ["a", "a"])
    _, layers = world.below(manifest)
    world.remove(layers[0])
    row = row_of(look(world, world.index(manifest)), "linux/amd64")
    assert (row.layers_present, row.layers_total, len(row.missing)) == (0, 2, 1)


def test_a_single_manifest_has_the_platform_of_its_config() -> None:
    world = World()
    target = world.manifest("linux/arm64", ["a"])
    found = look(world, target)
    assert [row.platform for row in found.platforms] == ["linux/arm64"]
    assert (
        found.complete
    )  # no platform was selected, and a manifest without one passes every filter of containerd
    assert look(world, target, "linux/arm64").complete
    chosen = look(world, target, "linux/amd64")
    assert not chosen.complete
    assert chosen.absent_platforms == ("linux/amd64",)
    assert look(world, target, "linux/arm64,linux/amd64").absent_platforms == ("linux/amd64",)


def test_an_attestation_names_its_image() -> None:
    world = World()
    image = world.manifest("linux/amd64", ["a"])
    attestation = world.attestation(image)
    _, statements = world.below(attestation)
    world.remove(*statements)
    found = look(world, world.index(image, attestation))
    row = row_of(found, "unknown/unknown")
    assert (row.kind, row.attestation_for, row.target, row.complete) == (
        "attestation", "linux/amd64", False, False,
    )  # fmt: skip
    assert found.complete
    assert not look(world, world.index(image, attestation), "all").complete


def test_an_attestation_of_an_unknown_image() -> None:
    world = World()
    image = world.manifest("linux/amd64", ["a"])
    attestation = world.attestation(image)
    annotations = {**attestation.annotations, "vnd.docker.reference.digest": "what it is about"}
    found = look(world, world.index(image, msgspec.structs.replace(attestation, annotations=annotations)))
    row = row_of(found, "unknown/unknown")
    assert (row.kind, row.attestation_for) == ("attestation", None)


def test_nested_indexes_are_walked_and_absent_ones_reported() -> None:
    world = World()
    inner = world.index(world.manifest("linux/arm64", ["a"]))
    target = world.index(inner, world.manifest("linux/amd64", ["b"]))
    assert [row.platform for row in look(world, target).platforms] == ["linux/arm64", "linux/amd64"]
    world.remove(inner)
    found = look(world, target)
    assert [item.digest for item in found.unread] == [inner.digest]
    assert [row.platform for row in found.platforms] == ["linux/amd64"]
    assert not found.complete


@pytest.mark.parametrize("config_type", ["application/vnd.oci.empty.v1+json", "application/vnd.wasm.config"])
def test_an_artifact_has_no_platform_and_counts_its_payload(config_type: str) -> None:
    world = World()
    target = world.document(world.add(config_type, b"{}"), [world.add("text/plain", b"hello")])
    row = look(world, target).platforms[0]
    assert (row.kind, row.platform, row.layers_present, row.layers_total) == ("artifact", "", 1, 1)
    assert not row.unpacked


def test_other_content_of_an_index_has_a_row() -> None:
    world = World()
    weird = world.add("application/vnd.weird+json", b"{}")
    target = world.index(world.manifest("linux/amd64", ["a"]), weird)
    row = look(world, target).platforms[1]
    assert (row.kind, row.complete, row.layers_total) == ("other", True, 0)
    world.remove(weird)
    assert not look(world, target).complete  # without a platform it passes every filter


def test_unpacked_follows_the_snapshotter_that_was_asked_for() -> None:
    world = World()
    manifest = world.manifest("linux/amd64", ["a", "b"])
    config, _ = world.below(manifest)
    world.unpack("a", "b", snapshotter="native")
    world.content.labels[config.digest] = {f"{mediatypes.GC_REF_SNAPSHOT}native": "sha256:any"}
    target = world.index(manifest)
    assert look(world, target).platforms[0].unpacked
    assert look(world, target).platforms[0].unpacked_in == ("native",)
    assert look(world, target, snapshotter="native").platforms[0].unpacked
    assert not look(world, target, snapshotter="overlayfs").platforms[0].unpacked


def test_an_incomplete_chain_is_not_unpacked() -> None:
    world = World()
    target = world.index(world.manifest("linux/amd64", ["a", "b"]))
    world.unpack("a")
    assert not look(world, target).platforms[0].unpacked


def test_only_file_system_layers_are_part_of_the_chain() -> None:
    world = World()
    config, layers = world.below(world.manifest("linux/amd64", ["a"]))
    target = world.document(config, [world.add("text/plain", b"hello"), *layers])
    world.unpack("a")
    assert look(world, target).platforms[0].unpacked


def test_local_selects_the_complete_platforms() -> None:
    world = World()
    foreign = world.manifest("linux/arm64", ["c"])
    native = world.manifest("linux/amd64", ["a"])
    target = world.index(native, foreign)
    _, layers = world.below(foreign)
    world.remove(*layers)
    found = diagnose(world.store, record(target), selected("local"))
    assert found.targets == ("linux/amd64",)
    assert found.complete
    world.remove(*world.below(native)[1])
    nothing = diagnose(world.store, record(target), selected("local"))
    assert nothing.targets == ()
    assert not nothing.complete


def test_every_selected_platform_must_exist() -> None:
    world = World()
    target = world.index(world.manifest("linux/amd64", ["a"]), world.manifest("linux/arm/v7", ["b"]))
    assert look(world, target, "linux/amd64,linux/arm/v7").complete
    found = look(world, target, "linux/amd64", "linux/riscv64")
    assert not found.complete
    assert found.absent_platforms == ("linux/riscv64",)
    assert found.targets == ("linux/amd64", "linux/riscv64")


def test_children_without_a_platform_are_targets_unless_one_was_selected() -> None:
    world = World()
    bare = Descriptor(
        media_type=mediatypes.OCI_MANIFEST, digest=world.manifest("linux/arm64", ["a"]).digest, size=1
    )
    target = world.index(world.manifest("linux/amd64", ["b"]), bare)
    assert [row.target for row in look(world, target).platforms] == [True, True]
    assert [row.target for row in look(world, target, "linux/amd64").platforms] == [True, False]
    assert [row.target for row in look(world, target, "linux/arm64").platforms] == [False, True]


def test_a_document_of_another_type_than_described_is_an_error() -> None:
    world = World()
    target = world.index(world.manifest("linux/amd64", ["a"]))
    world.content.blobs[target.digest] = b'{"schemaVersion":2,"config":{"size":1}}'
    with pytest.raises(ContentError, match="expected index but found manifest"):
        look(world, target)


def test_the_host_is_the_target_by_default() -> None:
    world = World()
    target = world.index(world.manifest("linux/amd64", ["a"]), world.manifest("linux/arm64", ["b"]))
    found = diagnose(world.store, record(target), selected(host=parse("linux/arm64")))
    assert found.targets == ("linux/arm64",)
    assert [row.target for row in found.platforms] == [False, True]

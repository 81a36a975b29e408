"""The forecasts: what ctr, nerdctl and pyctrd would do with the stored content."""

from __future__ import annotations

from pyctrd.oci.model import Descriptor, ImageRecord, Platform
from pyctrd.oci.platforms import parse
from pyctrd.operations.diagnose import Tools, diagnose
from tests.operations.diagnose.world import World, record
from tests.support.selections import HOST, selected


def tools(world: World, image: Descriptor | ImageRecord, *values: str, host: Platform = HOST) -> Tools:
    stored = image if isinstance(image, ImageRecord) else record(image)
    return diagnose(world.store, stored, selected(*values, host=host)).tools


def five_platforms(world: World) -> tuple[Descriptor, list[Descriptor]]:
    """Lay out an image as `ctr images pull` of containerd 2.x leaves it on linux/amd64."""
    names = ["linux/amd64", "linux/arm64", "linux/arm/v7", "linux/ppc64le", "linux/s390x"]
    manifests = [world.manifest(name, [name, f"{name} top"]) for name in names]
    for manifest in manifests[1:]:
        world.remove(*world.below(manifest)[1])
    world.unpack("linux/amd64", "linux/amd64 top")
    return world.index(*manifests), manifests


def missing(item: Descriptor) -> str:
    return f"content digest {item.digest}: not found"


def test_after_a_pull_by_ctr_2x_only_old_nerdctl_downloads() -> None:
    world = World()
    target, _ = five_platforms(world)
    found = tools(world, target)
    assert (found.ctr_export.ok, found.ctr_export.error, found.ctr_export.exit_code) == (True, "", 0)
    assert len(found.nerdctl_save_2_0_3.fetch) == 8
    assert found.nerdctl_save_2_0_3.bytes == sum(len(f"packed linux/{name}") for name in (
        "arm64", "arm64 top", "arm/v7", "arm/v7 top", "ppc64le", "ppc64le top", "s390x", "s390x top"
    ))  # fmt: skip
    assert found.nerdctl_save_2_0_3.network
    assert "tag" in found.nerdctl_save_2_0_3.note
    for modern in (found.nerdctl_save_2_0_4, found.pyctrd_save):
        assert (modern.fetch, modern.bytes, modern.network, modern.ok) == ((), 0, False, True)


def test_another_platform_is_downloaded_by_all_but_ctr() -> None:
    world = World()
    target, manifests = five_platforms(world)
    layers = world.below(manifests[1])[1]
    found = tools(world, target, "linux/arm64")
    first = min(layers, key=lambda item: item.digest)
    assert found.ctr_export.error == f"failed to get reader: {missing(first)}"
    assert (found.ctr_export.ok, found.ctr_export.exit_code) == (False, 1)
    expected = tuple(item.digest for item in layers)
    assert found.nerdctl_save_2_0_4.fetch == expected
    assert found.pyctrd_save.fetch == expected
    assert found.nerdctl_save_2_0_4.ok
    assert found.pyctrd_save.ok


def test_only_pyctrd_fetches_an_absent_manifest() -> None:
    world = World()
    target, manifests = five_platforms(world)
    world.remove(manifests[1])
    found = tools(world, target, "linux/arm64")
    assert found.ctr_export.error == missing(manifests[1])
    for nerdctl in (found.nerdctl_save_2_0_4,):
        assert (nerdctl.fetch, nerdctl.network, nerdctl.ok) == ((), False, False)
        assert nerdctl.error == missing(manifests[1])
    assert found.pyctrd_save.fetch == (manifests[1].digest,)
    assert not found.pyctrd_save.fetch_known
    assert found.pyctrd_save.ok
    assert found.pyctrd_save.note


def test_a_platform_that_the_image_lacks() -> None:
    world = World()
    target, _ = five_platforms(world)
    found = tools(world, target, "linux/riscv64")
    assert found.ctr_export.error == "no manifest found for platform: not found"
    assert found.nerdctl_save_2_0_4.error == "no manifest found for platform: not found"
    assert not found.pyctrd_save.ok
    assert found.pyctrd_save.error == (
        f"no manifest found for platform: not found: {record(target).name} has no linux/riscv64"
    )


def test_an_absent_index_may_have_any_platform() -> None:
    world = World()
    inner = world.index(world.manifest("linux/riscv64", ["a"]))
    target = world.index(world.manifest("linux/amd64", ["b"]), inner)
    world.remove(inner)
    found = tools(world, target, "linux/riscv64").pyctrd_save
    assert (found.fetch, found.fetch_known, found.ok) == ((inner.digest,), False, True)


def test_all_platforms_of_an_image_that_lacks_the_platform_of_the_host() -> None:
    world = World()
    target = world.index(world.manifest("linux/arm64", ["a"]))
    found = tools(world, target, "all")
    assert found.ctr_export.error == "no manifest found for platform: not found"
    assert found.nerdctl_save_2_0_4.ok
    assert found.nerdctl_save_2_1_4.ok
    assert found.nerdctl_save_2_3_0.error == "no manifest found for platform: not found"
    assert found.pyctrd_save.ok


def test_all_platforms_need_every_blob() -> None:
    world = World()
    target, manifests = five_platforms(world)
    absent = [layer for manifest in manifests[1:] for layer in world.below(manifest)[1]]
    first = min(absent, key=lambda item: item.digest)
    found = tools(world, target, "all")
    assert found.ctr_export.error == f"failed to get reader: {missing(first)}"
    assert len(found.pyctrd_save.fetch) == len(found.nerdctl_save_2_0_4.fetch) == 8


def test_an_absent_target_gives_an_empty_archive_and_exit_code_0() -> None:
    world = World()
    target, _ = five_platforms(world)
    world.remove(target)
    found = tools(world, target).ctr_export
    assert (found.ok, found.exit_code) == (False, 0)
    assert found.error == missing(target)
    assert "success" in found.note
    assert "1.6" in found.note


def test_a_nested_index_alone_cannot_be_exported() -> None:
    world = World()
    target = world.index(world.index(world.manifest("linux/amd64", ["a"])))
    found = tools(world, target)
    assert found.ctr_export.error == "unable to create manifests file: invalid checksum digest format"
    assert found.pyctrd_save.ok


def test_a_nested_index_next_to_a_manifest_is_exported_unfiltered() -> None:
    world = World()
    foreign = world.manifest("linux/arm64", ["c"])
    target = world.index(world.manifest("linux/amd64", ["a"]), world.index(foreign))
    assert tools(world, target).ctr_export.ok
    layers = world.below(foreign)[1]
    world.remove(*layers)
    found = tools(world, target)
    assert found.ctr_export.error == f"failed to get reader: {missing(layers[0])}"
    assert found.pyctrd_save.fetch == ()


def test_a_single_manifest_is_exported_whatever_its_platform() -> None:
    world = World()
    target = world.manifest("linux/arm64", ["a"])
    assert tools(world, target).ctr_export.ok


def test_a_record_of_something_else_cannot_be_exported() -> None:
    world = World()
    found = tools(world, world.add("text/plain", b"hello"))
    assert found.ctr_export.error == "only manifests may be exported: invalid argument"


def test_an_invalid_reference_cannot_be_in_manifest_json() -> None:
    world = World()
    found = tools(world, record(world.manifest("linux/amd64", ["a"]), name="UPPER"))
    assert found.ctr_export.error == 'unable to create manifests file: failed to parse "UPPER"'


def test_attestations_are_left_out_unless_all_platforms_are_asked_for() -> None:
    world = World()
    image = world.manifest("linux/amd64", ["a"])
    attestation = world.attestation(image)
    statements = world.below(attestation)[1]
    target = world.index(image, attestation)
    world.remove(*statements)
    assert tools(world, target).ctr_export.ok
    assert tools(world, target, "all").ctr_export.error == f"failed to get reader: {missing(statements[0])}"


def test_nerdctl_from_2_1_4_on_does_not_fetch_attestation_statements() -> None:
    world = World()
    image = world.manifest("linux/amd64", ["a"])
    attestation = world.attestation(image)
    statements = world.below(attestation)[1]
    target = world.index(image, attestation)
    world.remove(*statements)
    found = tools(world, target, "all")
    digests = tuple(item.digest for item in statements)
    for older in (found.nerdctl_save_2_0_3, found.nerdctl_save_2_0_4):
        assert (older.fetch, older.network, older.ok) == (digests, True, True)
    for newer in (found.nerdctl_save_2_1_4, found.nerdctl_save_2_3_0):
        assert (newer.fetch, newer.network, newer.ok) == ((), False, False)
        assert newer.error == f"failed to get reader: {missing(statements[0])}"


def test_nerdctl_2_3_needs_a_daemon_with_a_transfer_service() -> None:
    world = World()
    target, manifests = five_platforms(world)
    image = record(target)
    layers = tuple(item.digest for item in world.below(manifests[1])[1])
    found = diagnose(world.store, image, selected("linux/arm64"), transfer=False).tools
    newest = found.nerdctl_save_2_3_0
    assert (newest.fetch, newest.network, newest.ok) == (layers, True, False)
    assert newest.error == "unknown service containerd.services.streaming.v1.Streaming"
    assert "1.7" in newest.note
    assert found.nerdctl_save_2_1_4.ok


def test_nerdctl_asks_the_registry_if_the_platform_of_the_host_is_missing() -> None:
    world = World()
    manifest = world.manifest("linux/arm/v7", ["a"])
    mislabelled = Descriptor(
        media_type=manifest.media_type,
        digest=manifest.digest,
        size=manifest.size,
        platform=Platform(os="linux", architecture="arm", variant="v6"),
    )
    target = world.index(world.manifest("linux/amd64", ["b"]), mislabelled)
    found = tools(world, target, "linux/arm/v7", host=parse("linux/arm/v7"))
    assert (found.nerdctl_save_2_0_4.fetch, found.nerdctl_save_2_0_4.network) == ((), True)

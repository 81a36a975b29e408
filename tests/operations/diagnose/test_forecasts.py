"""Forecasts that were wrong once; integration/test_matrix.py compares them with the real tools."""

from __future__ import annotations

import msgspec
import pytest

from pyctrd.oci import mediatypes
from pyctrd.oci.model import Descriptor, ImageRecord, Platform
from pyctrd.operations.diagnose import Diagnosis, diagnose
from tests.operations.diagnose.world import NAME, World, record
from tests.support.selections import selected

SOURCE = "containerd.io/distribution.source."
NERDCTLS = ("nerdctl_save_2_0_3", "nerdctl_save_2_0_4", "nerdctl_save_2_1_4", "nerdctl_save_2_3_0")
TAR = f"{mediatypes.OCI_LAYER_PREFIX}v1.tar"
BEFORE_2_3 = NERDCTLS[:3]


def look(world: World, image: Descriptor | ImageRecord, *values: str, version: str = "2.3.7") -> Diagnosis:
    stored = image if isinstance(image, ImageRecord) else record(image)
    return diagnose(world.store, stored, selected(*values), version=version)


def bare(descriptor: Descriptor) -> Descriptor:
    return msgspec.structs.replace(descriptor, platform=None)


def without_a_layer(world: World) -> tuple[Descriptor, Descriptor]:
    """Lay out an index of one image, of which a layer is absent."""
    manifest = world.manifest("linux/amd64", ["a", "b"])
    layer = world.below(manifest)[1][0]
    world.remove(layer)
    return world.index(manifest), layer


# --- what cannot be read ---------------------------------------------------------------------------------


@pytest.mark.parametrize("values", [[], ["linux/amd64"], ["linux/arm64"], ["all"]])
def test_an_absent_manifest_without_a_platform_is_reported(values: list[str]) -> None:
    world = World()
    first = bare(world.manifest("linux/amd64", ["a"]))
    second = world.manifest("linux/arm64", ["b"])
    layers = world.below(second)[1]
    target = world.index(first, bare(second))
    world.remove(first, *layers)
    found = look(world, target, *values)
    assert not found.complete
    # nerdctl can read the second, and fetches its layer; the first, also without a platform, is fetched, too.
    old = found.tools.nerdctl_save_2_0_3
    assert old.fetch == (first.digest, layers[0].digest)
    assert (old.ok, old.network, old.fetch_known) == (True, True, False)


def test_an_artifact_to_be_fetched_may_refer_to_more_content() -> None:
    world = World()
    native = world.manifest("linux/amd64", ["a", "b"])
    artifact = world.document(
        world.add("application/vnd.oci.empty.v1+json", b"{}"), [world.add("text/plain", b"hi")]
    )
    target = world.index(native, artifact)
    layer = world.below(native)[1][0]
    world.remove(artifact, layer)
    for name in NERDCTLS:
        forecast = getattr(look(world, target).tools, name)
        assert set(forecast.fetch) == {artifact.digest, layer.digest}
        assert not forecast.fetch_known


# --- absent indexes --------------------------------------------------------------------------------------


def test_a_nested_index_is_fetched_without_its_children_for_other_platforms() -> None:
    world = World()
    inner = world.index(world.manifest("linux/arm64", ["c"]))
    native = world.manifest("linux/amd64", ["a"])
    layers = world.below(native)[1]
    target = world.index(native, inner)
    world.remove(inner, *layers)
    for name in NERDCTLS:
        forecast = getattr(look(world, target).tools, name)
        assert set(forecast.fetch) == {inner.digest, layers[0].digest}
        assert (forecast.ok, forecast.certain, forecast.fetch_known) == (False, False, False)


def test_known_missing_content_fails_even_next_to_a_fetched_index() -> None:
    world = World()
    inner = world.index(world.manifest("linux/arm64", ["c"]))
    foreign = world.manifest("linux/s390x", ["d"])
    known = world.index(foreign)
    native = world.manifest("linux/amd64", ["a"])
    target = world.index(native, inner, known)
    world.remove(inner, *world.below(native)[1], *world.below(foreign)[1])
    forecast = look(world, target).tools.nerdctl_save_2_0_4
    # The error may name a blob that is still unknown, but there will be an error.
    assert (forecast.ok, forecast.certain, forecast.error) == (False, True, "content digest")


def test_the_platforms_of_an_absent_index_are_unknown() -> None:
    world = World()
    target = world.index(world.manifest("linux/amd64", ["a"]))
    world.remove(target)
    found = look(world, target)
    assert found.absent_platforms == ()
    assert (found.tools.pyctrd_save.ok, found.tools.pyctrd_save.certain) == (True, False)


def test_an_absent_nested_index_may_have_the_platform() -> None:
    world = World()
    inner = world.index(world.manifest("linux/riscv64", ["a"]))
    target = world.index(world.manifest("linux/amd64", ["b"]), inner)
    world.remove(inner)
    found = look(world, target, "linux/riscv64")
    assert found.absent_platforms == ()
    assert (found.tools.pyctrd_save.ok, found.tools.pyctrd_save.certain) == (True, False)
    assert "no_such_platform" not in {cause.code for cause in found.causes}
    assert look(world, target, "linux/amd64").tools.pyctrd_save.certain


# --- names -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "fault", "newest"),
    [
        (
            "registry.example/team/app",
            "object required",
            'image "registry.example/team/app:latest": not found',
        ),
        ("pause:3.10", 'invalid port ":3.10" after host', 'image "docker.io/library/pause:3.10": not found'),
        ("pause", "object required", 'image "docker.io/library/pause:latest": not found'),
        (
            f"sha256:{'ab' * 32}",
            f'invalid port ":{"ab" * 32}" after host',
            f'image "sha256:{"ab" * 32}": not found',
        ),
        (
            "registry.example/Team:1",
            "invalid reference format",
            'invalid image name "registry.example/Team:1"',
        ),
    ],
)
def test_a_name_that_nerdctl_cannot_resolve(name: str, fault: str, newest: str) -> None:
    world = World()
    target, _ = without_a_layer(world)
    tools = look(world, record(target, name=name)).tools
    for release in BEFORE_2_3:
        forecast = getattr(tools, release)
        assert (forecast.ok, forecast.error, forecast.network) == (False, fault, False)
        assert forecast.fetch == ()
    assert (tools.nerdctl_save_2_3_0.ok, tools.nerdctl_save_2_3_0.error) == (False, newest)


def test_nerdctl_before_2_3_saves_a_complete_image_with_a_short_name() -> None:
    world = World()
    image = record(world.index(world.manifest("linux/amd64", ["a"])), name="pause:3.10")
    tools = look(world, image).tools
    assert all(getattr(tools, release).ok for release in BEFORE_2_3)
    assert tools.nerdctl_save_2_3_0.error == 'image "docker.io/library/pause:3.10": not found'
    world.images.records = [image, msgspec.structs.replace(image, name="docker.io/library/pause:3.10")]
    assert look(world, image).tools.nerdctl_save_2_3_0.ok


def test_a_name_that_nerdctl_resolves_to_another_image() -> None:
    world = World()
    image = record(world.index(world.manifest("linux/amd64", ["a"])), name="pause:3.10")
    other = record(world.index(world.manifest("linux/amd64", ["b"])), name="docker.io/library/pause:3.10")
    world.images.records = [image, other]
    tools = look(world, image).tools
    assert (tools.nerdctl_save_2_3_0.ok, tools.nerdctl_save_2_3_0.certain) == (False, False)
    assert "ambiguous digest ID" in tools.nerdctl_save_2_0_4.error


@pytest.mark.parametrize("labelled", [True, False])
def test_a_local_tag_may_be_unknown_to_the_registry(labelled: bool) -> None:
    world = World()
    target, layer = without_a_layer(world)
    if labelled:
        world.content.labels[target.digest] |= {f"{SOURCE}registry.example": "team/app"}
    tools = look(world, record(target, name="registry.example/local/copy:1")).tools
    for release in NERDCTLS:
        forecast = getattr(tools, release)
        assert forecast.network
        assert (forecast.ok, forecast.certain) == (not labelled, not labelled)
    # pyctrd asks the registry that the content came from, whose port is unknown.
    assert tools.pyctrd_save.fetch == (layer.digest,)
    assert (tools.pyctrd_save.ok, tools.pyctrd_save.certain) == (True, not labelled)


def test_the_port_is_taken_from_a_record_of_the_same_repository() -> None:
    world = World()
    target, _ = without_a_layer(world)
    world.content.labels[target.digest] |= {f"{SOURCE}registry.example": "team/app"}
    local = record(target, name="local:1")
    world.images.records = [local, record(target, name="registry.example:5000/team/app:1")]
    assert look(world, local).tools.pyctrd_save.certain


def test_no_registry_is_known_to_have_the_content() -> None:
    world = World()
    target, _ = without_a_layer(world)
    forecast = look(world, record(target, name="registry.example/Team:1")).tools.pyctrd_save
    assert (forecast.ok, forecast.network, forecast.error, forecast.exit_code) == (
        False,
        False,
        "not found",
        3,
    )


# --- odd images ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("media_type", "raw", "words"),
    [
        (
            mediatypes.OCI_LAYER_GZIP,
            b"\x1f\x8b",
            r": invalid character '\x1f' looking for beginning of value",
        ),
        (f"{TAR}+zstd", b"(\xb5", ": invalid character '(' looking for beginning of value"),
        (TAR, b"a large file", ""),
        ("application/vnd.buildkit.cacheconfig.v0", b'{"layers":[]}', ": invalid checksum digest format"),
        ("text/plain", b" hello", ": invalid character 'h' looking for beginning of value"),
        ("text/plain", b"  ", ": unexpected end of JSON input"),
        ("application/json", b"[]", ""),
    ],
)
def test_a_buildkit_cache_is_not_an_image(media_type: str, raw: bytes, words: str) -> None:
    world = World()
    target = world.index(world.add(media_type, raw))
    tools = look(world, target).tools
    assert tools.ctr_export.error == f"unable to create manifests file{words}"
    assert (tools.pyctrd_save.ok, tools.pyctrd_save.exit_code) == (False, 3)
    assert tools.pyctrd_save.error == f"no manifest found for platform: not found: {NAME} has no linux/amd64"


def test_a_nested_index_for_another_platform_hides_its_children() -> None:
    world = World()
    inner = world.index(
        world.manifest("linux/amd64", ["a"]), platform=Platform(os="linux", architecture="arm64")
    )
    target = world.index(inner, world.manifest("linux/s390x", ["b"]))
    found = look(world, target)
    assert [row.target for row in found.platforms] == [False, False]
    assert found.absent_platforms == ("linux/amd64",)
    cause = next(cause for cause in found.causes if cause.code == "no_such_platform")
    assert cause.text == "the image has no linux/amd64; it has linux/s390x"
    assert cause.remedy.platforms == ("linux/s390x",)


@pytest.mark.parametrize(
    ("version", "ok", "certain"),
    [("2.4.2", False, True), ("2.3.0", False, True), ("2.1.9", True, False), ("1.7.24~ds1", True, True)],
)
def test_os_features_count_in_newer_tools(version: str, ok: bool, certain: bool) -> None:
    world = World()
    manifest = world.manifest("linux/amd64", ["a"])
    platform = Platform(os="linux", architecture="amd64", os_features=("sse4",))
    target = world.index(msgspec.structs.replace(manifest, platform=platform))
    tools = look(world, target, version=version).tools
    assert all(getattr(tools, release).ok for release in BEFORE_2_3)
    for newer in (tools.ctr_export, tools.nerdctl_save_2_3_0):
        assert (newer.ok, newer.certain) == (ok, certain)
        assert newer.error == ("" if ok else "no manifest found for platform: not found")
    # From 2.3 on nerdctl does not find its own platform complete, and asks the registry for it.
    assert (tools.nerdctl_save_2_3_0.network, tools.nerdctl_save_2_3_0.fetch) == (True, ())


def test_inline_data_of_a_descriptor_is_not_downloaded() -> None:
    world = World()
    config = world.add("application/vnd.oci.empty.v1+json", b"{}", data=b"{}")
    layer = world.add("text/plain", b"hello")
    target = world.document(config, [layer])
    world.remove(config, layer)
    tools = look(world, target).tools
    # nerdctl reads the config out of the manifest, and so sees a platform that it can complete.
    assert tools.nerdctl_save_2_0_3.fetch == tools.pyctrd_save.fetch == (layer.digest,)
    assert tools.pyctrd_save.bytes == layer.size


def test_an_absent_target_is_not_a_success_of_nerdctl() -> None:
    world = World()
    target = world.index(world.manifest("linux/amd64", ["a"]))
    world.remove(target)
    tools = look(world, target).tools
    for release in NERDCTLS:
        assert (getattr(tools, release).ok, getattr(tools, release).exit_code) == (False, 0)
    old = look(world, target, version="1.6.20").tools.ctr_export
    assert (old.ok, old.exit_code, old.error) == (False, 1, f"content digest {target.digest}: not found")


# --- results that vary -----------------------------------------------------------------------------------


def test_what_nerdctl_fetches_can_depend_on_the_order_of_platforms() -> None:
    """One manifest is for two platforms: the first fetch completes it, and the second is skipped."""
    world = World()
    shared = world.manifest("linux/amd64", ["a"])
    layers = world.below(shared)[1]
    again = msgspec.structs.replace(shared, platform=Platform(os="linux", architecture="arm64"))
    other = world.manifest("linux/arm64", ["b"])
    target = world.index(shared, again, other)
    world.remove(*layers, *world.below(other)[1])
    forecast = look(world, target).tools.nerdctl_save_2_0_3
    assert not forecast.certain
    assert "random order" in forecast.note
    assert look(world, target).tools.nerdctl_save_2_0_4.certain

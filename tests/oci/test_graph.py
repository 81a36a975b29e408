"""The walk over documents, case by case: labels, filters, limits, and invalid documents."""

from __future__ import annotations

from typing import Any

import pytest

from pyctrd.errors import ContentError, NoMatchingPlatform, NotFound
from pyctrd.oci import graph, mediatypes, platforms
from pyctrd.oci.graph import MAX_DEPTH
from pyctrd.oci.model import MAX_MANIFEST_BYTES, Descriptor, Digest, Platform
from tests.support.world import AMD64, ARM7, ARM64, UNKNOWN, World, digests, everything, types, wire

# --- labels -----------------------------------------------------------------------------------------------


def test_labels_are_numbered_per_key_in_the_order_of_the_document() -> None:
    world = World()
    first, second = world.image("a", AMD64), world.image("b", ARM64)
    nested = world.index([first])
    prefix = "containerd.io/gc.ref.content."
    assert graph.child_labels([first, nested, second]) == {
        f"{prefix}m.0": str(first.digest),
        f"{prefix}0": str(nested.digest),
        f"{prefix}m.1": str(second.digest),
    }
    config, layer, other = world.children(first)[0], world.children(first)[1], world.children(first)[2]
    statement = world.blob(mediatypes.IN_TOTO, b"in-toto")
    assert graph.child_labels([config, layer, statement, other, config, layer]) == {
        f"{prefix}config": str(config.digest),
        f"{prefix}l.0": str(layer.digest),
        f"{prefix}0": str(statement.digest),
        f"{prefix}l.1": str(other.digest),
        f"{prefix}config1": str(config.digest),
        f"{prefix}l.2": str(layer.digest),
    }


# --- platforms --------------------------------------------------------------------------------------------


@pytest.fixture
def five() -> tuple[World, Descriptor]:
    """A typical image: three platforms, one of them listed twice, and an attestation."""
    world = World()
    attestation = world.manifest(
        world.blob(mediatypes.OCI_CONFIG, b"attestation config"),
        [world.blob(mediatypes.IN_TOTO, b"statement")],
        UNKNOWN,
    )
    return world, world.index(
        [world.image("amd", AMD64), world.image("arm64", ARM64), world.image("arm7", ARM7), attestation]
    )


def test_selected_platforms_are_walked_completely_and_others_not_at_all(
    five: tuple[World, Descriptor],
) -> None:
    world, root = five
    step = graph.only_platforms(world.children, platforms.ordered(ARM64))
    assert types(root, step) == ["index", "manifest", "config", "layer", "layer"]
    assert everything(root, step)[1].platform == ARM64


def test_metadata_of_all_includes_manifests_and_configs_of_other_platforms(
    five: tuple[World, Descriptor],
) -> None:
    world, root = five
    step = graph.metadata_of_all(world.children, platforms.ordered(AMD64))
    assert types(root, step) == ["index", "manifest", "config", "layer", "layer", *["manifest", "config"] * 3]


def test_metadata_only_includes_no_layers(five: tuple[World, Descriptor]) -> None:
    world, root = five
    assert types(root, graph.metadata_only(world.children)) == ["index", *["manifest", "config"] * 4]


def test_metadata_only_includes_the_config_of_a_single_manifest_and_of_an_artifact() -> None:
    world = World()
    artifact = world.manifest(
        world.blob("application/vnd.oci.empty.v1+json", b"{}"), [world.blob("text/plain", b"x")]
    )
    assert types(artifact, graph.metadata_only(world.children)) == ["manifest", "unknown"]


def test_a_child_without_a_platform_passes_every_filter() -> None:
    world = World()
    root = world.index([world.image("one", None), world.image("two", ARM64)])
    nobody = platforms.any_of()
    for step in (graph.only_platforms(world.children, nobody), graph.metadata_of_all(world.children, nobody)):
        assert types(root, step)[:5] == ["index", "manifest", "config", "layer", "layer"]


@pytest.mark.parametrize("order", [[AMD64, ARM64], [ARM64, AMD64]])
@pytest.mark.parametrize("wanted", [AMD64, ARM64])
def test_a_manifest_listed_for_two_platforms_keeps_its_layers(
    order: list[Platform], wanted: Platform
) -> None:
    # an artifact (or a mistake) that is the same for all: the first entry must not hide the second
    world = World()
    both = [world.image("same", platform) for platform in order]
    assert both[0].digest == both[1].digest
    root = world.index(both)
    step = graph.metadata_of_all(world.children, platforms.ordered(wanted))
    assert types(root, step).count("layer") == 2
    fits = graph.fits(platforms.ordered(wanted))
    wide = [item for level in graph.generations(root, step, depends_on=fits) for item in level]
    assert sum(mediatypes.is_layer(item.media_type) for item in wide) == 2
    assert len([item for item in wide if item.digest == both[0].digest]) == 2


def test_repeated_descriptors_are_yielded_once() -> None:
    world = World()
    image = world.image("a", AMD64)
    layer = world.children(image)[1]
    twice = world.manifest(world.children(image)[0], [layer, layer], ARM64)
    root = world.index([image, image, twice])
    assert digests(everything(root, world.children)).count(layer.digest) == 1
    assert digests(everything(root, world.children)).count(image.digest) == 1
    assert graph.child_labels(world.children(root))["containerd.io/gc.ref.content.m.1"] == str(image.digest)


# --- limits and order -------------------------------------------------------------------------------------


def test_limited_keeps_the_best_match(five: tuple[World, Descriptor]) -> None:
    world, root = five
    matcher = platforms.only(ARM64)
    step = graph.limited(graph.only_platforms(world.children, matcher), matcher, 1)
    assert [child.platform for child in step(root)] == [ARM64]
    two = graph.limited(graph.only_platforms(world.children, matcher), matcher, 2)
    assert [child.platform for child in two(root)] == [ARM64, ARM7]
    assert len(step(world.children(root)[0])) == 3  # a manifest's children are not limited


def test_limited_reports_an_index_without_the_platform(five: tuple[World, Descriptor]) -> None:
    world, root = five
    matcher = platforms.ordered(Platform(os="linux", architecture="s390x"))
    step = graph.limited(graph.only_platforms(world.children, matcher), matcher, 1)
    with pytest.raises(
        NoMatchingPlatform, match=f"no match for platform in manifest {root.digest}: not found"
    ):
        step(root)


def test_sorting_by_match_is_stable_and_puts_children_without_a_platform_last() -> None:
    world = World()
    bare, amd, other, arm = (
        world.image("0", None),
        world.image("1", AMD64),
        world.image("2", AMD64),
        world.image("3", ARM64),
    )
    assert graph.closest([bare, amd, other, arm], platforms.ordered(ARM64, AMD64)) == [arm, amd, other, bare]


def nested(world: World, levels: int) -> Descriptor:
    root = world.blob("text/plain", b"bottom")
    for _ in range(levels):
        root = world.index([root])
    return root


def test_both_walks_limit_the_depth() -> None:
    world = World()
    allowed = nested(world, MAX_DEPTH)
    assert len(everything(allowed, world.children)) == MAX_DEPTH + 1
    assert sum(map(len, graph.generations(allowed, world.children))) == MAX_DEPTH + 1
    too_deep = nested(world, MAX_DEPTH + 1)
    for driver in (graph.preorder, graph.generations):
        with pytest.raises(ContentError, match=f"nested more than {MAX_DEPTH} levels deep"):
            list(driver(too_deep, world.children))


@pytest.mark.timeout(20)
def test_repetition_at_every_level_is_walked_once() -> None:
    world = World()
    root = world.blob("text/plain", b"bottom")
    for _ in range(MAX_DEPTH - 1):
        root = world.index([root] * 50)  # 50 to the power of 15 paths, 16 blobs
    assert len(everything(root, world.children)) == MAX_DEPTH
    assert sum(map(len, graph.generations(root, world.children))) == MAX_DEPTH


def test_a_document_is_read_after_its_generation_was_consumed() -> None:
    world = World()
    root = world.index([world.image("a", AMD64)])
    fetched = set[Digest]()

    def read(descriptor: Descriptor) -> bytes:
        assert descriptor.digest in fetched, "read before it was fetched"
        return world.read(descriptor)

    for generation in graph.generations(root, graph.read_children(read)):
        fetched |= {item.digest for item in generation}
    assert fetched == set(world.blobs)


# --- documents --------------------------------------------------------------------------------------------


def test_content_of_other_types_is_never_read() -> None:
    world = World()
    for media_type in (mediatypes.OCI_CONFIG, mediatypes.OCI_LAYER_GZIP, "application/vnd.weird+json", ""):
        leaf = Descriptor(media_type=media_type, digest=Digest.of(b"absent"), size=1)
        assert world.children(leaf) == ()
        assert graph.children_in(leaf, b"not even JSON") == ()
        assert not graph.has_children(leaf)
    assert world.reads == []


def test_a_manifest_that_is_too_large_is_not_read() -> None:
    world = World()
    for media_type, kind in ((mediatypes.OCI_MANIFEST, "manifest"), (mediatypes.OCI_INDEX, "index")):
        huge = Descriptor(media_type=media_type, digest=Digest.of(b""), size=MAX_MANIFEST_BYTES + 1)
        with pytest.raises(ContentError, match=f"rejecting {MAX_MANIFEST_BYTES + 1} byte {kind}"):
            world.children(huge)
    assert world.reads == []


def test_a_subject_is_not_a_child() -> None:
    world = World()
    image = world.image("a", AMD64)
    config = world.blob(mediatypes.OCI_CONFIG, b"c")
    referrer = world.manifest(config, [], subject=wire(image))
    assert world.children(referrer) == (config,)


@pytest.mark.parametrize(
    ("media_type", "content", "message"),
    [
        (mediatypes.OCI_MANIFEST, {"manifests": [{}]}, "media-type: expected manifest but found index"),
        (mediatypes.DOCKER_MANIFEST, {"manifests": [{}]}, "media-type: expected manifest but found index"),
        (mediatypes.OCI_INDEX, {"layers": [{}]}, "media-type: expected index but found manifest"),
        (mediatypes.OCI_INDEX, {"config": {"x": 1}}, "media-type: expected index but found manifest"),
        (mediatypes.DOCKER_LIST, {"config": {"x": 1}, "manifests": []}, "expected index but found manifest"),
        (mediatypes.OCI_MANIFEST, {"fsLayers": [], "config": {}}, "schema 1 not supported"),
        (mediatypes.OCI_INDEX, [], "expected index but found list"),
        (mediatypes.OCI_MANIFEST, "text", "expected manifest but found str"),
        (mediatypes.OCI_MANIFEST, {}, "not a valid manifest"),
        (mediatypes.OCI_INDEX, {"manifests": [{}]}, "not a valid index"),
    ],
)
def test_an_ambiguous_document_is_refused(media_type: str, content: Any, message: str) -> None:
    world = World()
    with pytest.raises(ContentError, match=message):
        world.children(world.document(media_type, content))


def test_an_empty_index_has_no_children() -> None:
    world = World()
    contents: list[dict[str, Any]] = [
        {},
        {"manifests": []},
        {"manifests": None, "config": None, "layers": []},
    ]
    for content in contents:
        assert world.children(world.document(mediatypes.OCI_INDEX, content)) == ()


# --- absent documents -------------------------------------------------------------------------------------


def test_tolerant_reports_absent_documents_and_continues(five: tuple[World, Descriptor]) -> None:
    world, root = five
    gone = world.children(root)[1]
    del world.blobs[gone.digest]
    missing: list[Descriptor] = []
    step = graph.tolerant(world.children, missing.append, NotFound)
    found = everything(root, step)
    assert missing == [gone]
    assert gone in found  # it is yielded, though nothing below it is known
    assert len(found) == 1 + 4 + 3 + 3 + 2


def test_tolerant_ignores_no_other_errors() -> None:
    world = World()
    broken = world.blob(mediatypes.OCI_INDEX, b"{")
    step = graph.tolerant(world.children, lambda descriptor: pytest.fail(str(descriptor)), NotFound)
    with pytest.raises(ContentError):
        step(broken)

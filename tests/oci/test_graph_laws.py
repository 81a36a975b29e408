"""Properties of the walks, on random trees: both walks yield the same, and every filter only removes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from hypothesis import given
from hypothesis import strategies as st

from pyctrd.errors import NotFound
from pyctrd.oci import graph, mediatypes, platforms
from pyctrd.oci.graph import Children
from pyctrd.oci.model import Descriptor, Digest
from tests.support.world import AMD64, ARM7, ARM64, UNKNOWN, World, everything, identity, platform_of

PLATFORMS = [AMD64, ARM64, ARM7, UNKNOWN, None]


@st.composite
def trees(draw: st.DrawFn) -> tuple[World, Descriptor]:
    """Draw an index over manifests and indexes that share configs, layers and whole branches."""
    world = World()
    blobs = [
        world.blob(media_type, bytes([number]))
        for number, media_type in enumerate(
            [
                mediatypes.OCI_LAYER_GZIP,
                "application/vnd.oci.image.layer.v1.tar+zstd",
                mediatypes.DOCKER_FOREIGN,
                mediatypes.IN_TOTO,
                "text/plain",
            ]
        )
    ]
    configs = [
        world.blob(kind, kind.encode()) for kind in (mediatypes.OCI_CONFIG, mediatypes.DOCKER_CONFIG, "a/b")
    ]
    nodes = [blobs[-1]]
    for _ in range(draw(st.integers(1, 6))):
        platform = draw(st.sampled_from(PLATFORMS))
        if draw(st.booleans()):
            layers = draw(st.lists(st.sampled_from(blobs), max_size=4))
            kind = draw(st.sampled_from([mediatypes.OCI_MANIFEST, mediatypes.DOCKER_MANIFEST]))
            node = world.manifest(draw(st.sampled_from(configs)), layers, platform, kind)
        else:
            kind = draw(st.sampled_from([mediatypes.OCI_INDEX, mediatypes.DOCKER_LIST]))
            node = world.index(draw(st.lists(st.sampled_from(nodes), max_size=4)), platform, kind)
        nodes.append(node)
        other = draw(st.sampled_from(PLATFORMS))  # the same bytes, listed for another platform
        nodes.append(
            Descriptor(media_type=node.media_type, digest=node.digest, size=node.size, platform=other)
        )
    return world, world.index(draw(st.lists(st.sampled_from(nodes), min_size=1, max_size=5)))


def edges(descriptors: Sequence[Descriptor], children: Children) -> set[tuple[object, object]]:
    return {(identity(parent), identity(child)) for parent in descriptors for child in children(parent)}


_matchers = st.sampled_from(
    [
        platforms.ordered(AMD64),
        platforms.ordered(ARM64, AMD64),
        platforms.only(ARM64),
        platforms.any_of(),
        platforms.ALL,
    ]
)


@given(trees())
def test_both_walks_yield_the_same_descriptors_once(tree: tuple[World, Descriptor]) -> None:
    world, root = tree
    deep = everything(root, world.children)
    wide = [item for generation in graph.generations(root, world.children) for item in generation]
    assert len(set(map(identity, deep))) == len(deep)
    assert len(set(map(identity, wide))) == len(wide)
    assert set(map(identity, deep)) == set(map(identity, wide))
    # and nothing is missing: the set is closed under children
    reached = set(map(identity, deep))
    assert {child for _, child in edges(deep, world.children)} | {identity(root)} == reached


@given(trees())
def test_every_child_comes_after_a_parent(tree: tuple[World, Descriptor]) -> None:
    world, root = tree
    for order in (
        everything(root, world.children),
        [item for generation in graph.generations(root, world.children) for item in generation],
    ):
        place = {identity(item): number for number, item in enumerate(order)}
        assert place[identity(root)] == 0
        parents: dict[object, list[int]] = {}
        for parent, child in edges(order, world.children):
            parents.setdefault(child, []).append(place[parent])  # type: ignore[index]
        for child, where in parents.items():
            assert min(where) < place[child]  # type: ignore[index]


@given(trees())
def test_preorder_is_depth_first(tree: tuple[World, Descriptor]) -> None:
    world, root = tree

    def recursive(descriptor: Descriptor, seen: set[object]) -> list[Descriptor]:
        if identity(descriptor) in seen:
            return []
        seen.add(identity(descriptor))
        return [
            descriptor,
            *(item for child in world.children(descriptor) for item in recursive(child, seen)),
        ]

    assert everything(root, world.children) == recursive(root, set())


@given(trees(), _matchers)
def test_a_step_that_is_called_once_per_document_yields_the_same(
    tree: tuple[World, Descriptor], matcher: platforms.Matcher
) -> None:
    world, root = tree
    steps: list[tuple[Children, graph.DependsOn | None]] = [
        (world.children, None),
        (graph.only_platforms(world.children, matcher), None),
        (graph.metadata_only(world.children), None),
        (graph.metadata_of_all(world.children, matcher), graph.fits(matcher)),
    ]
    for step, depends_on in steps:
        how: dict[str, graph.DependsOn] = {"depends_on": depends_on} if depends_on else {}
        wide = list(graph.generations(root, step, depends_on=platform_of))
        assert list(graph.preorder(root, step, **how)) == everything(root, step)
        assert list(graph.generations(root, step, **how)) == wide


@given(trees(), _matchers)
def test_filters_only_remove_and_in_any_order(
    tree: tuple[World, Descriptor], matcher: platforms.Matcher
) -> None:
    world, root = tree
    plain = set(map(identity, everything(root, world.children)))
    filtered = graph.only_platforms(world.children, matcher)
    metadata = graph.metadata_of_all(world.children, matcher)
    for step in (filtered, metadata, graph.metadata_only(world.children)):
        assert set(map(identity, everything(root, step))) <= plain
    one = graph.metadata_only(filtered)
    other = graph.only_platforms(graph.metadata_only(world.children), matcher)
    assert everything(root, one) == everything(root, other)
    assert everything(root, graph.only_platforms(filtered, matcher)) == everything(root, filtered)
    assert set(map(identity, everything(root, filtered))) <= set(map(identity, everything(root, metadata)))


@given(trees())
def test_all_platforms_filter_nothing(tree: tuple[World, Descriptor]) -> None:
    world, root = tree
    plain = everything(root, world.children)
    assert everything(root, graph.only_platforms(world.children, platforms.ALL)) == plain
    assert everything(root, graph.metadata_of_all(world.children, platforms.ALL)) == plain


@given(trees(), _matchers)
def test_filtered_platforms_are_not_yielded(
    tree: tuple[World, Descriptor], matcher: platforms.Matcher
) -> None:
    world, root = tree
    for item in everything(root, graph.only_platforms(world.children, matcher)):
        assert item.platform is None or matcher.match(item.platform)


@given(trees())
def test_labels_have_every_child_once_per_occurrence(tree: tuple[World, Descriptor]) -> None:
    world, root = tree
    for parent in everything(root, world.children):
        found = world.children(parent)
        labels = graph.child_labels(found)
        assert sorted(labels.values()) == sorted(str(child.digest) for child in found)
        assert all(key.startswith("containerd.io/gc.ref.content.") for key in labels)


@given(trees(), _matchers)
def test_labels_include_children_that_a_filter_removes(
    tree: tuple[World, Descriptor], matcher: platforms.Matcher
) -> None:
    world, root = tree
    labels: dict[Digest, Mapping[str, str]] = {}
    step = graph.only_platforms(graph.labelled(world.children, labels.__setitem__), matcher)
    handled = everything(root, step)
    parents = {item.digest for item in handled if world.children(item)}
    assert set(labels) == parents
    for item in handled:
        if item.digest in labels:
            assert labels[item.digest] == graph.child_labels(world.children(item))


@given(trees(), st.data())
def test_absent_documents_do_not_hide_the_rest(tree: tuple[World, Descriptor], data: st.DataObject) -> None:
    world, root = tree
    whole = set(map(identity, everything(root, world.children)))
    gone = data.draw(st.sampled_from(sorted(world.blobs)))
    del world.blobs[gone]
    missing: list[Descriptor] = []
    found = everything(root, graph.tolerant(world.children, missing.append, NotFound))
    assert set(map(identity, found)) <= whole
    assert {item.digest for item in missing} <= {gone}
    assert {item.digest for item in found if item.digest == gone and graph.has_children(item)} == {
        item.digest for item in missing
    }

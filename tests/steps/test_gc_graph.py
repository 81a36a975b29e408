"""What keeps what: the rules of each release one by one, and properties on random references."""

from __future__ import annotations

import datetime as dt
import random
from collections.abc import Mapping

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pyctrd.oci.model import ContentInfo, Descriptor, Digest, ImageRecord, IngestStatus, SnapshotInfo
from pyctrd.oci.resources import Container, Lease, LeaseResource
from pyctrd.steps.gc_graph import GcGraph, Rules
from pyctrd.steps.gc_nodes import Node
from pyctrd.steps.gc_state import GcState
from tests.support.references import References

NOW = dt.datetime(2026, 11, 27, 12, tzinfo=dt.UTC)
PAST, FUTURE = "2026-11-27T11:00:00Z", "2026-11-27T13:00:00Z"
A, B, C = (Digest.of(name.encode()) for name in "abc")
RULES = {
    version: Rules.of(version) for version in ("1.6.20~ds1", "v1.7.24", "2.1.9", "2.2.1", "2.3.7", "v2.4.2")
}


def state(
    *,
    images: Mapping[str, tuple[Digest, Mapping[str, str]]] | None = None,
    content: Mapping[Digest, Mapping[str, str]] | None = None,
    snapshots: Mapping[str, tuple[str, Mapping[str, str]]] | None = None,
    leases: Mapping[str, tuple[Mapping[str, str], list[LeaseResource]]] | None = None,
    containers: Mapping[str, Container] | None = None,
    ingests: Mapping[str, IngestStatus] | None = None,
) -> GcState:
    """Make a state; the snapshots are of `overlayfs`, each with its parent."""
    return GcState(
        namespace="test",
        images={
            name: ImageRecord(
                name=name, target=Descriptor(media_type="x", digest=target, size=1), labels=labels
            )
            for name, (target, labels) in (images or {}).items()
        },
        content={
            digest: ContentInfo(digest=digest, size=1, labels=labels)
            for digest, labels in (content or {}).items()
        },
        snapshots={
            ("overlayfs", key): SnapshotInfo(name=key, parent=parent, labels=labels)
            for key, (parent, labels) in (snapshots or {}).items()
        },
        leases={
            name: (Lease(id=name, labels=labels), held) for name, (labels, held) in (leases or {}).items()
        },
        containers=containers or {},
        ingests=ingests or {},
    )


def names(graph: GcGraph) -> set[str]:
    """Return what the next collection removes."""
    return {node.name for node in graph.collected()}


def collected(made: GcState) -> dict[str, set[str]]:
    """Return what goes, by the version of containerd."""
    return {version: names(GcGraph(made, rules, NOW)) for version, rules in RULES.items()}


def test_rules_by_version() -> None:
    assert [(rules.images, rules.back_references, rules.conditions) for rules in RULES.values()] == [
        *2 * [(False, False, False)],
        (True, False, False),
        (True, True, False),
        *2 * [(True, True, True)],
    ]
    assert Rules.of("unknown") == Rules()


def test_an_image_keeps_its_target_and_what_labels_refer_to() -> None:
    made = state(
        images={"i": (A, {"containerd.io/gc.ref.snapshot.overlayfs/x": "top"})},
        content={
            A: {"containerd.io/gc.ref.content.l.0": str(B), "containerd.io/gc.ref.contents": str(C)},
            B: {},
            C: {},
        },
        snapshots={"top": ("base", {}), "base": ("", {}), "other": ("base", {})},
    )
    assert all(gone == {str(C), "other"} for gone in collected(made).values())
    assert names(GcGraph(made, Rules(), NOW).without([Node("image", "i")])) == {
        *map(str, (A, B, C)),
        *("top", "base", "other"),
    }


def test_expired_images_go_since_2() -> None:
    made = state(images={"i": (A, {"containerd.io/gc.expire": PAST})}, content={A: {}})
    assert [bool(gone) for gone in collected(made).values()] == [False, False, True, True, True, True]
    for kept in (FUTURE, "tomorrow", ""):
        made = state(images={"i": (A, {"containerd.io/gc.expire": kept})}, content={A: {}})
        assert not any(collected(made).values())


def test_when_images_and_leases_expire() -> None:
    labels = {"containerd.io/gc.expire": FUTURE}
    made = state(images={"i": (A, labels)}, leases={"l": (labels, []), "m": ({}, [])})
    when = dt.datetime(2026, 11, 27, 13, tzinfo=dt.UTC)
    nodes = [Node("image", "i"), Node("lease", "l"), Node("lease", "m"), Node("image", "gone")]
    for version, image in (("v2.4.2", when), ("v1.7.24", None)):
        graph = GcGraph(made, RULES[version], NOW)
        assert [graph.expiry_of(node) for node in nodes] == [image, when, None, None]


def test_a_flat_lease_keeps_nothing_by_labels() -> None:
    held = [LeaseResource(type="content", id=str(A)), LeaseResource(type="snapshots/overlayfs", id="top")]
    for labels, gone in (({}, set()), ({"containerd.io/gc.flat": ""}, {str(B)})):
        made = state(
            content={A: {"containerd.io/gc.ref.content": str(B)}, B: {}},
            snapshots={"top": ("base", {"containerd.io/gc.ref.content.x": str(B)}), "base": ("", {})},
            leases={"l": (labels, held)},
        )
        assert all(found == gone for found in collected(made).values())


def test_an_expired_lease_goes_with_what_it_holds() -> None:
    held = [LeaseResource(type="content", id=str(A)), LeaseResource(type="ingests", id="write")]
    write = IngestStatus(ref="write", offset=0, total=1, started_at=NOW)
    for expiry, gone in ((PAST, {"l", str(A), "write"}), (FUTURE, set())):
        made = state(
            content={A: {}},
            leases={"l": ({"containerd.io/gc.expire": expiry}, held)},
            ingests={"write": write},
        )
        assert all(found == gone for found in collected(made).values())


def test_a_write_without_a_lease_is_kept_for_a_day() -> None:
    made = state(
        ingests={
            ref: IngestStatus(ref=ref, offset=0, total=1, started_at=NOW - dt.timedelta(hours=hours))
            for ref, hours in (("new", 23), ("old", 25))
        }
    )
    assert all(gone == {"old"} for gone in collected(made).values())


def test_root_labels() -> None:
    made = state(content={A: {"containerd.io/gc.root": "x"}, B: {"containerd.io/gc.root.y": "x"}, C: {}})
    gone = collected(made)
    assert gone["2.1.9"] == {str(B), str(C)}
    assert gone["2.2.1"] == {str(C)}


def test_a_back_reference_attaches_an_object_to_another_one() -> None:
    container = Container(id="c", snapshotter="overlayfs", snapshot_key="top")
    made = state(
        content={
            A: {"containerd.io/gc.bref.container": "c"},
            B: {"containerd.io/gc.bref.snapshot.overlayfs": "top"},
        },
        snapshots={"top": ("", {})},
        containers={"c": container},
    )
    assert [len(gone) for gone in collected(made).values()] == [2, 2, 2, 0, 0, 0]


@pytest.mark.parametrize(
    ("condition", "kept"),
    [
        *(("usedat<2h|top", True), ("usedat>2h|top", False), ("usedat>2h,usedat<2h|top", True)),
        *(("usedat<=2h|top", False), ("usedat<2h", False), ("usedat<2|top", False), ("other<2h|top", False)),
    ],
)
def test_a_condition_keeps_a_snapshot_that_was_used_lately(condition: str, kept: bool) -> None:
    made = state(
        images={"i": (A, {"containerd.io/gc.cond.snapshot.overlayfs": condition})},
        content={A: {}},
        snapshots={"top": ("", {"containerd.io/gc.cond.value-usedat": PAST})},
    )
    gone = collected(made)
    assert gone["2.2.1"] == {"top"}
    assert gone["2.3.7"] == (set() if kept else {"top"})


def test_chains_name_what_refers_to_what() -> None:
    made = state(
        images={"i": (A, {})},
        content={A: {"containerd.io/gc.ref.content.config": str(B)}, B: {}},
        leases={"l": ({}, [LeaseResource(type="content", id=str(B))])},
    )
    found = GcGraph(made, Rules(), NOW).chains(Node("content", str(B)))
    assert [[(link.node.kind, link.node.name, link.via) for link in chain] for chain in found] == [
        [("lease", "l", ""), ("content", str(B), "lease")],
        [
            *(("image", "i", ""), ("content", str(A), "target")),
            ("content", str(B), "containerd.io/gc.ref.content.config"),
        ],
    ]


def test_an_object_that_is_not_here_can_have_others_attached_to_it() -> None:
    """As in containerd: the lease refers to the missing blob, and the other one attaches itself to that."""
    made = state(
        content={B: {"containerd.io/gc.bref.content.x": str(A)}},
        leases={"l": ({}, [LeaseResource(type="content", id=str(A))])},
    )
    graph = GcGraph(made, Rules(), NOW)
    assert names(graph) == set()
    (chain,) = graph.chains(Node("content", str(B)))
    assert [link.node in graph for link in chain] == [True, False, True]


# --- properties -------------------------------------------------------------------------------------------

_CASES = st.tuples(st.integers(0, 1 << 32), st.sampled_from(sorted(RULES)))
Case = tuple[int, str]


def random_graph(case: Case) -> tuple[GcGraph, frozenset[Node]]:
    seed, version = case
    made = References(random.Random(seed), "test", NOW)
    return GcGraph(made.state, RULES[version], NOW), made.to_remove()


@given(_CASES)
def test_what_stays_has_a_chain_and_what_goes_has_none(case: Case) -> None:
    graph, removed = random_graph(case)
    left = graph.without(removed)
    gone = left.collected()
    assert not removed & gone
    for node in left:
        assert bool(left.chains(node)) == (node not in gone)
        if node.kind in ("content", "snapshot"):  # others are kept by being what they are
            assert bool(left.referrers(node)) == (node not in gone)


@given(_CASES)
def test_a_chain_leads_from_a_root_to_the_object(case: Case) -> None:
    graph, _ = random_graph(case)
    for node in graph:
        chains = graph.chains(node)
        assert [len(chain) for chain in chains] == sorted(map(len, chains))
        assert len({chain[0].node for chain in chains}) == len(chains)
        for chain in chains:
            assert chain[-1].node == node
            assert graph.chains(chain[0].node)[0] == chain[:1]
            assert all(link.via for link in chain[1:])


@given(_CASES)
def test_without_the_roots_of_its_chains_an_object_goes(case: Case) -> None:
    graph, _ = random_graph(case)
    for node in graph:
        roots = {chain[0].node for chain in graph.chains(node)}
        if node not in roots:
            assert node in graph.without(roots).collected()


@given(_CASES)
@example((14561, "2.1.9"))  # what is removed would otherwise be collected later: an expired image
def test_a_larger_removal_frees_at_least_as_much(case: Case) -> None:
    graph, removed = random_graph(case)
    before = graph.collected()
    after = graph.without(removed).collected()
    assert before - removed <= after
    half = set(sorted(removed)[::2])
    assert graph.without(half).collected() - removed <= after
    assert graph.without(half).without(removed - half).collected() == after
    assert not graph.without(after | removed).collected()

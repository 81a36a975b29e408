"""Ingests, leases, namespaces and snapshots, in a store in memory."""

from __future__ import annotations

import datetime as dt

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyctrd.errors import FailedPrecondition, IngestLocked, InUse, InvalidInput, NotFound, Remedy
from pyctrd.oci.expiry import EXPIRE_LABEL
from pyctrd.oci.gotime import parse_time
from pyctrd.oci.model import Digest, ImageRecord, IngestStatus, SnapshotInfo
from pyctrd.oci.resources import Lease, LeaseResource, Namespace, Plugin
from pyctrd.operations import ingests, leases, namespaces, snapshots
from tests.support.memory import SNAPSHOTTER, MemoryStore, target_of
from tests.support.memory_content import Resource, Unfinished

NOW = dt.datetime(2026, 11, 27, 12, tzinfo=dt.UTC)
HOUR = dt.timedelta(hours=1)
DATA = b"data"
DIGEST = Digest.of(DATA)


class Dated(MemoryStore):
    """A store whose ingests were last written an hour ago for each character of their ref."""

    def __init__(self) -> None:
        super().__init__()
        plain = self.content.ingests

        def dated() -> tuple[IngestStatus, ...]:
            return tuple(
                IngestStatus(
                    ref=one.ref, offset=one.offset, total=one.total, updated_at=NOW - len(one.ref) * HOUR
                )
                for one in plain()
            )

        self.content.ingests = dated  # type: ignore[method-assign]


def unfinished(store: MemoryStore, *refs: str) -> None:
    for ref in refs:
        store.state.ingests[ref] = Unfinished(bytearray(b"123"), total=10)


# --- ingests ----------------------------------------------------------------------------------------------


def test_ingests_name_their_writer() -> None:
    store = MemoryStore()
    unfinished(store, "b", "a")
    store.leases.create("id", {"pyctrd.io/command": "pull"})
    store.leases.add("id", LeaseResource(type="ingests", id="b"))
    found = ingests.ingests(store)
    assert [(one.ref, one.offset, one.total, one.writer) for one in found] == [
        ("a", 3, 10, ""),
        ("b", 3, 10, "pull"),
    ]


def test_old_ingests_are_aborted_and_open_ones_left_alone() -> None:
    store = Dated()
    unfinished(store, "a", "aa", "aaa", "aaaa")
    store.state.open_refs.add("aaaa")
    result = ingests.abort(store, [], older_than=2 * HOUR, now=NOW)
    assert [one.ref for one in result.aborted] == ["aaa"]
    assert [one.ref for one in result.active] == ["aaaa"]
    assert ingests.abort(store, [], everything=True, force=True, now=NOW).active == ()
    assert store.state.ingests == {}


def test_an_open_ingest_needs_force() -> None:
    store = MemoryStore()
    unfinished(store, "idle", "busy")
    store.state.open_refs.add("busy")
    with pytest.raises(IngestLocked, match="ref busy locked: it is being written right now"):
        ingests.abort(store, ["busy", "idle"], now=NOW)
    assert list(store.state.ingests) == ["busy"]
    ingests.abort(store, ["busy"], force=True, now=NOW)
    assert store.state.ingests == {}


def test_nothing_is_aborted_if_a_ref_is_unknown() -> None:
    store = MemoryStore()
    unfinished(store, "a")
    with pytest.raises(NotFound, match="ingest b: not found"):
        ingests.abort(store, ["a", "b"], now=NOW)
    assert list(store.state.ingests) == ["a"]


def test_one_choice_is_required() -> None:
    for refs, older, everything in (((), None, False), (("a",), HOUR, False), (("a",), None, True)):
        with pytest.raises(InvalidInput):
            ingests.abort(MemoryStore(), refs, older_than=older, everything=everything, now=NOW)


# --- leases -----------------------------------------------------------------------------------------------


def test_a_lease_is_created_with_its_expiry() -> None:
    store = MemoryStore()
    made = leases.create(store, "mine", ttl=2 * HOUR, labels={"a": "1"}, now=NOW)
    assert made.labels == {"a": "1", EXPIRE_LABEL: "2026-11-27T14:00:00Z"}
    assert made.expires_at == NOW + 2 * HOUR
    assert not made.is_expired(NOW)
    assert made.is_expired(NOW + 3 * HOUR)
    assert leases.create(store, "forever", ttl=None, labels={}, now=NOW).expires_at is None


@pytest.mark.parametrize("ttl", [dt.timedelta(), -HOUR, dt.timedelta(days=999_999_999)])
def test_an_impossible_lifetime_is_refused(ttl: dt.timedelta) -> None:
    with pytest.raises(InvalidInput, match="ttl="):
        leases.create(MemoryStore(), "", ttl=ttl, labels={}, now=NOW)


def held() -> MemoryStore:
    store = MemoryStore()
    store.put({DIGEST: DATA})
    unfinished(store, "ref")
    target = target_of({"mediaType": "text/plain", "digest": DIGEST, "size": 4})
    store.state.images["image"] = ImageRecord(name="image", target=target)
    store.state.snapshots[SNAPSHOTTER, "key"] = SnapshotInfo(name="key")
    store.leases.create("mine", {"pyctrd.io/command": "pull"})
    store.state.leases["mine"] = {
        Resource("content", DIGEST),
        Resource("content", f"sha256:{64 * '0'}"),
        Resource("ingests", "ref"),
        Resource("images", "image"),
        Resource(f"snapshots/{SNAPSHOTTER}", "key"),
        Resource(f"snapshots/{SNAPSHOTTER}", "gone"),
    }
    return store


def test_a_lease_is_shown_with_what_it_holds() -> None:
    store = held()
    (counted,) = leases.overview(store)
    assert (counted.content, counted.snapshots, counted.ingests, counted.images) == (2, 2, 1, 1)
    found = leases.inspect(store, "mine")
    assert [info.digest for info in found.content] == [DIGEST]
    assert [(one.snapshotter, one.key) for one in found.snapshots] == [(SNAPSHOTTER, "key")]
    assert [one.ref for one in found.ingests] == ["ref"]
    assert [image.name for image in found.images] == ["image"]
    assert {item.id for item in found.missing} == {f"sha256:{64 * '0'}", "gone"}
    assert found.bytes == len(DATA) + 4096 + 3


def test_a_lease_in_use_is_not_removed() -> None:
    store = held()
    store.leases.create("other", {})
    store.state.open_refs.add("ref")
    with pytest.raises(InUse, match="lease mine is in use by pull: ref is being written right now"):
        leases.remove(store, ["other", "mine"], sync=False, force=False)
    assert set(store.state.leases) == {"mine", "other"}
    with pytest.raises(NotFound, match='lease "none": not found'):
        leases.remove(store, ["other", "none"], sync=False, force=False)
    assert [one.id for one in leases.remove(store, ["other", "mine"], sync=False, force=True)] == [
        "other",
        "mine",
    ]
    assert store.state.leases == {}


def test_sync_collects_what_the_lease_kept() -> None:
    store = MemoryStore()
    store.put({DIGEST: DATA})
    store.leases.create("mine", {})
    store.state.leases["mine"] = {Resource("content", DIGEST)}
    leases.remove(store, ["mine"], sync=True, force=False)
    assert store.state.blobs == {}


# --- namespaces -------------------------------------------------------------------------------------------


def test_namespaces_are_created_labelled_counted_and_removed() -> None:
    store = MemoryStore()
    assert namespaces.create(store, "new", {"a": "1"}) == Namespace(name="new", labels={"a": "1"})
    assert namespaces.label(store, "new", {"a": "", "b": "2"}).labels == {"b": "2"}
    counts = {one.namespace.name: (one.images, one.containers) for one in namespaces.overview(store)}
    assert counts == {"default": (0, 0), "new": (0, 0)}
    assert namespaces.remove(store, ["new"]) == ("new",)
    with pytest.raises(NotFound, match='namespace "new": not found'):
        namespaces.label(store, "new", {"a": "1"})


def test_what_is_in_a_namespace_is_said_when_it_is_not_removed() -> None:
    store = MemoryStore()
    full = store.in_namespace("full")
    full.put({DIGEST: DATA})
    full.tag("image", {"mediaType": "text/plain", "digest": DIGEST, "size": 4})
    with pytest.raises(FailedPrecondition, match='namespace "full" must be empty') as refused:
        namespaces.remove(store, ["full"])
    assert refused.value.hint == "it has 1 image, 1 blob; remove them first"
    assert refused.value.remedy == Remedy(method="images", namespace="full")
    with pytest.raises(NotFound):
        namespaces.remove(store, ["none", "full"])


# --- snapshots --------------------------------------------------------------------------------------------


def stacked(parents: dict[str, str]) -> MemoryStore:
    store = MemoryStore()
    for name, parent in parents.items():
        store.state.snapshots[SNAPSHOTTER, name] = SnapshotInfo(name=name, parent=parent, kind="committed")
    return store


@given(st.lists(st.integers(0, 20), max_size=20))
def test_the_tree_has_each_snapshot_once_directly_below_its_parent(numbers: list[int]) -> None:
    parents = {str(n): str(number % n) if number % (n + 1) else "" for n, number in enumerate(numbers, 1)}
    parents |= {"0": ""}
    seen: list[str] = []
    for level in snapshots.tree(stacked(parents), SNAPSHOTTER):
        parent = level.snapshot.parent
        assert level.depth == (seen.index(parent) >= 0 and _depth(parents, parent) + 1 if parent else 0)
        seen.append(level.snapshot.name)
    assert sorted(seen) == sorted(parents)


def _depth(parents: dict[str, str], name: str) -> int:
    return _depth(parents, parents[name]) + 1 if parents[name] else 0


def test_snapshots_are_removed_children_first() -> None:
    store = stacked({"a": "", "b": "a", "c": "b"})
    assert snapshots.remove(store, SNAPSHOTTER, ["b", "c"]) == ("c", "b")
    assert [info.name for info in store.snapshots.list(SNAPSHOTTER)] == ["a"]


def test_a_snapshot_with_children_is_not_removed() -> None:
    store = stacked({"a": "", "b": "a", "c": "a"})
    with pytest.raises(FailedPrecondition) as refused:
        snapshots.remove(store, SNAPSHOTTER, ["a", "b"])
    assert refused.value.hint == "a is the parent of c: remove these first"
    with pytest.raises(NotFound):
        snapshots.remove(store, SNAPSHOTTER, ["c", "none"])
    assert sorted(info.name for info in store.snapshots.list(SNAPSHOTTER)) == ["a", "c"]


def test_usage_is_that_of_the_chosen_snapshots_or_of_all() -> None:
    store = stacked({"a": "", "b": "a"})
    assert [one.snapshot.name for one in snapshots.sizes(store, SNAPSHOTTER)] == ["a", "b"]
    assert [one.snapshot.name for one in snapshots.sizes(store, SNAPSHOTTER, ["b"])] == ["b"]
    with pytest.raises(NotFound):
        snapshots.sizes(store, SNAPSHOTTER, ["none"])


# --- values -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["", "never", "2026-13-01T00:00:00Z", "2026-11-27", "2026-11-27T12:00:00"])
def test_an_expiry_that_containerd_ignores_is_none(text: str) -> None:
    assert parse_time(text) is None
    lease = Lease(id="a", labels={EXPIRE_LABEL: text})
    assert not lease.is_expired(NOW)


@pytest.mark.parametrize(
    ("error", "status"),
    [("", "ok"), ("no such device", "error"), ("path must be on btrfs: skip plugin", "skip")],
)
def test_a_plugin_has_the_status_that_ctr_shows(error: str, status: str) -> None:
    assert Plugin(type="a", id="b", error=error).status == status

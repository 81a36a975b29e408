"""What each policy of prune removes, and what it never removes."""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from pyctrd.errors import InvalidInput, Unsupported
from pyctrd.oci.expiry import EXPIRE_LABEL
from pyctrd.oci.model import PINNED, PINNED_LABEL, Digest
from pyctrd.oci.resources import DiskSpace
from pyctrd.operations.prune_images import FreeSpace, PrunePolicy, prune
from pyctrd.steps.removal import RemoveResult
from tests.support.ageing import AgeingStore
from tests.support.memory_content import Unfinished

NOW = dt.datetime(2026, 11, 27, tzinfo=dt.UTC)
DAY = dt.timedelta(days=1)
HOUR = dt.timedelta(hours=1)
APP = "registry.example/app"
GIB = 1 << 30


@pytest.fixture
def store() -> AgeingStore:
    return AgeingStore(NOW)


def no_disk() -> DiskSpace:
    raise AssertionError("only until_free asks for the free space")


def pruned(store: AgeingStore, *, free: int | None = None, **policy: Any) -> RemoveResult:
    """Prune, after a dry run that changes nothing and says the same."""
    chosen = PrunePolicy(**policy)
    disk = no_disk if free is None else lambda: DiskSpace(root="/", bytes=100_000, bytes_free=free)
    before = dict(store.state.images), dict(store.state.blobs), dict(store.state.snapshots)
    planned = prune(store, chosen, store.state.now, disk=disk, dry_run=True)
    assert (store.state.images, store.state.blobs, store.state.snapshots) == before
    done = prune(store, chosen, store.state.now, disk=disk)
    assert done == planned
    assert {blob.digest for blob in done.blobs} == before[1].keys() - store.state.blobs.keys()
    assert set(done.images) == before[0].keys() - store.state.images.keys()
    return done


def add(store: AgeingStore, name: str, *layers: bytes, **labels: str) -> Digest:
    target = store.add_image(f"document of {name}".encode(), layers)
    store.name(name, target, **labels)
    return target


def as_cri_does(store: AgeingStore, name: str, *layers: bytes) -> Digest:
    """Add an image with the three records that CRI makes of it."""
    target = add(store, name, *layers)
    store.name(f"{name.rpartition(':')[0]}@{target}", target)
    store.name(f"sha256:{target.encoded[::-1]}", target)
    return target


# --- which images -----------------------------------------------------------------------------------------


def test_unused_removes_what_no_container_uses(store: AgeingStore) -> None:
    for name in ("used", "free"):
        add(store, f"{APP}:{name}", b"layer of " + name.encode(), b"shared")
    store.run("c", f"{APP}:used")
    result = pruned(store, unused=True)
    assert result.images == (f"{APP}:free",)
    assert result.bytes == len(b"layer of free") + len(f"document of {APP}:free")


def test_a_container_whose_tag_has_moved_still_uses_its_image(store: AgeingStore) -> None:
    store.add_snapshot("base")
    store.add_snapshot("top", "base")
    old = store.add_image(b"old", [b"layer"], "top")
    for name in (f"{APP}:latest", f"{APP}@{old}"):
        store.name(name, old)
    store.name(f"{APP}:base", store.add_image(b"base image", [], "base"))
    store.run("c", f"{APP}:latest")
    store.name(f"{APP}:latest", store.add_image(b"new", []))
    assert pruned(store, unused=True).images == (f"{APP}:base",)


def test_with_user_namespaces_there_is_a_snapshot_in_between(store: AgeingStore) -> None:
    for parent, name in (("", "base"), ("base", "top"), ("top", "top-1000-1000")):
        store.add_snapshot(name, parent)
    old = store.add_image(b"old", [b"layer"], "top")
    for name in (f"{APP}:1", f"{APP}@{old}"):
        store.name(name, old)
    store.run("c", f"{APP}:1")
    store.state.snapshots["memory", "rw-c"] = msgspec.structs.replace(
        store.state.snapshots["memory", "rw-c"], parent="top-1000-1000"
    )
    store.name(f"{APP}:1", store.add_image(b"new", []))
    assert pruned(store, unused=True).images == ()


def test_pinned_images_stay(store: AgeingStore) -> None:
    add(store, f"{APP}:1", **{PINNED_LABEL: PINNED})
    assert pruned(store, unused=True).images == ()


def test_all_records_of_an_image_go_together_or_not_at_all(store: AgeingStore) -> None:
    used, free = as_cri_does(store, f"{APP}:1", b"1"), as_cri_does(store, f"{APP}:2", b"2")
    store.run("c", f"sha256:{used.encoded[::-1]}")
    result = pruned(store, unused=True)
    assert set(result.images) == {f"{APP}:2", f"{APP}@{free}", f"sha256:{free.encoded[::-1]}"}


def test_dangling_removes_what_has_no_tag(store: AgeingStore) -> None:
    old = as_cri_does(store, f"{APP}:latest", b"old")
    none = add(store, "<none>:<none>", b"none")
    store.name(f"<none>@{none}", none)
    store.name(
        f"{APP}:latest", store.add_image(b"new", [b"new layer"])
    )  # two records of the old one are left
    result = pruned(store, dangling=True)
    assert set(result.images) == {
        *(f"{APP}@{old}", f"sha256:{old.encoded[::-1]}", "<none>:<none>", f"<none>@{none}")
    }


def test_older_than_leaves_what_was_pulled_or_changed_since(store: AgeingStore) -> None:
    add(store, f"{APP}:old", b"1")
    add(store, f"{APP}:again", b"2")
    store.advance(10 * DAY)
    add(store, f"{APP}:again", b"2")
    add(store, f"{APP}:new", b"3")
    store.advance(5 * DAY)
    assert pruned(store, older_than=7 * DAY).images == (f"{APP}:old",)
    assert pruned(store, older_than=5 * DAY).images == (f"{APP}:again", f"{APP}:new")


def test_an_image_without_times_is_new(store: AgeingStore) -> None:
    target = store.add_image(b"document", [])
    store.tag(f"{APP}:1", {"mediaType": "application/json", "digest": target, "size": 8})
    assert pruned(store, older_than=dt.timedelta()).images == ()


def test_keep_last_leaves_the_newest_of_each_repository(store: AgeingStore) -> None:
    for number in range(4):
        add(store, f"{APP}:{number}", b"%d" % number)
        add(store, f"registry.example/other:{number % 2}", b"o%d" % number)
        store.advance(HOUR)
    store.run("c", f"{APP}:3")  # counts, too
    assert pruned(store, keep_last=2).images == (f"{APP}:0", f"{APP}:1")


def test_an_image_is_as_new_as_its_newest_name_and_in_the_repository_of_each(store: AgeingStore) -> None:
    target = add(store, f"{APP}:1", b"1")
    store.advance(DAY)
    add(store, f"{APP}:2", b"2")
    store.advance(DAY)
    store.name("registry.example/mirror:1", target)
    assert pruned(store, keep_last=1).images == (f"{APP}:2",)


def test_keep_wins(store: AgeingStore) -> None:
    target = add(store, f"{APP}:1", b"1")
    store.name("registry.example/mirror:1", target)
    add(store, "registry.example/other:1", b"2")
    result = pruned(store, unused=True, expired=True, keep=(re.compile("mirror"), re.compile("^x")))
    assert result.images == ("registry.example/other:1",)


def test_policies_narrow_each_other(store: AgeingStore) -> None:
    names = []
    for number in range(6):
        target = store.add_image(b"%d" % number, [])
        names.append(f"{APP}@{target}")
        store.name(names[-1], target)
        if number == 1:
            store.name(f"{APP}:1", target)
        store.advance(DAY)
    # 1 has a tag, 4 and 5 are the newest two, 3 is not old enough.
    result = pruned(store, dangling=True, older_than=4 * DAY, keep_last=2)
    assert set(result.images) == {names[0], names[2]}


# --- until enough is free ---------------------------------------------------------------------------------


def five(store: AgeingStore) -> None:
    """Add images of 1000 bytes and a bit, oldest first; 0 and 1 share another 10,000."""
    for number in range(5):
        shared = [b"s" * 10_000] if number < 2 else []
        add(store, f"{APP}:{number}", b"%d" % number * 1000, *shared)
        store.advance(DAY)


@pytest.mark.parametrize(
    ("missing", "gone"),
    [
        (0, ""),
        (-5, ""),
        (1, "0"),
        (1000, "0"),
        (1100, "01"),
        (11_000, "01"),
        (12_500, "012"),
        (14_000, "0123"),
        (90_000, "01234"),
    ],
)
def test_until_free_removes_the_oldest_that_suffice(store: AgeingStore, missing: int, gone: str) -> None:
    five(store)
    result = pruned(store, free=50_000, until_free=FreeSpace(bytes=50_000 + missing))
    assert result.images == tuple(f"{APP}:{number}" for number in gone)


def test_until_free_spares_an_image_that_would_free_nothing_that_is_needed(store: AgeingStore) -> None:
    add(store, f"{APP}:kept", b"s" * 10_000)
    store.run("c", f"{APP}:kept")
    add(store, f"{APP}:old", b"s" * 10_000)  # only its document would become free
    store.advance(DAY)
    add(store, f"{APP}:new", b"n" * 5000)
    assert pruned(store, free=0, until_free=FreeSpace(bytes=5000)).images == (f"{APP}:new",)


def test_until_free_counts_what_goes_anyway(store: AgeingStore) -> None:
    five(store)
    store.add_blob(b"orphan" * 1000)
    assert pruned(store, free=0, until_free=FreeSpace(bytes=6000)).images == ()


def test_until_free_in_percent_of_the_disk(store: AgeingStore) -> None:
    five(store)
    assert pruned(store, free=14_000, until_free=FreeSpace.parse("15%")).images == (f"{APP}:0",)


def test_until_free_keeps_what_other_policies_keep(store: AgeingStore) -> None:
    five(store)
    result = pruned(store, free=0, until_free=FreeSpace(bytes=GIB), older_than=3 * DAY, keep_last=1)
    assert result.images == tuple(f"{APP}:{number}" for number in range(3))


def test_without_the_free_space_nothing_is_removed(store: AgeingStore) -> None:
    five(store)

    def unknown() -> DiskSpace:
        raise Unsupported("not known")

    with pytest.raises(Unsupported):
        prune(store, PrunePolicy(until_free=FreeSpace(bytes=1)), NOW, disk=unknown)
    assert len(store.state.images) == 5


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("20G", FreeSpace(bytes=20 * GIB)),
        ("20GiB", FreeSpace(bytes=20 * GIB)),
        ("1.5 GB", FreeSpace(bytes=3 * GIB // 2)),
        ("512", FreeSpace(bytes=512)),
        ("512B", FreeSpace(bytes=512)),
        ("10K", FreeSpace(bytes=10_240)),
        ("2T", FreeSpace(bytes=2048 * GIB)),
        ("15%", FreeSpace(percent=15)),
        ("0.5%", FreeSpace(percent=0.5)),
        (1000, FreeSpace(bytes=1000)),
    ],
)
def test_amounts_of_free_space(text: object, expected: FreeSpace) -> None:
    assert FreeSpace.parse(text) == expected


@pytest.mark.parametrize(
    "text", ["", "G", "0", "0%", "101%", "-1G", "20X", "1e9", "20 G G", 0, -1, True, 1.5, None]
)
def test_other_amounts_are_refused(text: object) -> None:
    with pytest.raises(InvalidInput, match=r"`until_free`: .* is not a size like 20G"):
        FreeSpace.parse(text)


# --- expired, leftovers, garbage --------------------------------------------------------------------------


def over(store: AgeingStore) -> dict[str, str]:
    return {EXPIRE_LABEL: (store.state.now + HOUR).isoformat()}


@pytest.mark.parametrize("images_expire", [True, False])
def test_expired_removes_records_whose_expiry_is_over(images_expire: bool) -> None:
    store = AgeingStore(NOW, images_expire=images_expire)
    target = add(store, f"{APP}:1", b"1", **over(store))
    store.name(f"{APP}:2", target)
    add(store, f"{APP}:3", b"3", **over(store))
    assert pruned(store, expired=True).images == ()
    store.advance(2 * HOUR)
    assert pruned(store, expired=True).images == (f"{APP}:1", f"{APP}:3")


def test_expired_leaves_images_in_use_where_containerd_does(store: AgeingStore) -> None:
    store = AgeingStore(NOW, images_expire=False)
    add(store, f"{APP}:1", b"1", **over(store))
    add(store, f"{APP}:2", b"2", **over(store), **{PINNED_LABEL: PINNED})
    store.run("c", f"{APP}:1")
    store.advance(2 * HOUR)
    assert pruned(store, expired=True, unused=True).images == ()


def test_an_expired_tag_of_cri_takes_the_image_with_it_if_it_is_the_last_one() -> None:
    store = AgeingStore(NOW, images_expire=False, namespace="k8s.io")
    for name in ("one", "two"):
        as_cri_does(store, f"{APP}/{name}:1", name.encode())
        store.label(f"{APP}/{name}:1", over(store))
    store.name(f"{APP}/two:latest", store.state.images[f"{APP}/two:1"].target.digest)
    store.advance(2 * HOUR)
    result = pruned(store, expired=True)
    assert len(result.images) == 3
    assert {store.state.images[name].target.digest for name in store.state.images} == {
        Digest.of(f"document of {APP}/two:1".encode())
    }


def test_expired_leases_go(store: AgeingStore) -> None:
    store.start_pull("l", "layer", b"half", lifetime=HOUR)
    store.advance(2 * HOUR)
    result = pruned(store, expired=True)
    assert (result.leases, result.ingests) == (("l",), ("layer",))


def test_leftovers_are_what_interrupted_pulls_leave(store: AgeingStore) -> None:
    store.start_pull("writing", "layer", b"half", lifetime=DAY)
    store.start_pull("unpacking", "done", b"", lifetime=DAY)
    del store.state.ingests["done"]
    store.add_snapshot("extract-123 sha256:x", kind="active")
    store.state.hold("unpacking", "snapshots/memory", "extract-123 sha256:x")
    store.state.ingests["alone"] = Unfinished(bytearray(b"x"))
    store.stamp("ingest", "alone")
    assert pruned(store, leftovers=True) == RemoveResult()  # they may still be running
    store.advance(HOUR)
    result = pruned(store, leftovers=True)
    assert result.leases == ("unpacking", "writing")
    assert set(result.ingests) == {"alone", "layer"}
    assert [snapshot.key for snapshot in result.snapshots] == ["extract-123 sha256:x"]


def test_leases_that_make_progress_or_protect_something_stay(store: AgeingStore) -> None:
    store.start_pull("running", "layer", b"half", lifetime=DAY)
    store.start_pull("next layer", "other", b"half", lifetime=DAY)
    store.leases.create("mine", over(store))
    store.leases.create("for ever", {})
    for name in ("mine", "for ever"):
        store.stamp("lease", name)
        store.state.hold(name, "content", store.add_blob(name.encode()))
    store.state.hold("for ever", "ingests", "unknown")
    store.advance(HOUR - dt.timedelta(minutes=1))
    store.stamp("ingest", "layer")
    store.state.hold("next layer", "content", store.add_blob(b"just written"))
    store.advance(dt.timedelta(minutes=1))
    assert pruned(store, leftovers=True) == RemoveResult()


def test_what_nothing_refers_to_goes_in_any_case(store: AgeingStore) -> None:
    orphan = store.add_blob(b"orphan")
    store.add_snapshot("orphan")
    result = pruned(store, dangling=True)
    assert [blob.digest for blob in result.blobs] == [orphan]
    assert [snapshot.key for snapshot in result.snapshots] == ["orphan"]


# --- arguments, and what changes meanwhile ----------------------------------------------------------------


@pytest.mark.parametrize("policy", [{}, {"keep": (re.compile("x"),)}])
def test_without_a_policy_nothing_is_removed(store: AgeingStore, policy: dict[str, Any]) -> None:
    add(store, f"{APP}:1")
    with pytest.raises(InvalidInput, match="nothing is removed without a policy: `dangling`, `unused`"):
        prune(store, PrunePolicy(**policy), NOW, disk=no_disk)
    assert store.state.images


@pytest.mark.parametrize("narrow", [{"older_than": DAY}, {"keep_last": 3}])
@pytest.mark.parametrize("other", ["expired", "leftovers"])
def test_what_narrows_images_needs_images(store: AgeingStore, narrow: dict[str, Any], other: str) -> None:
    policy: dict[str, Any] = {**narrow, other: True}
    with pytest.raises(InvalidInput, match="add `dangling`, `unused` or `until_free`"):
        prune(store, PrunePolicy(**policy), NOW, disk=no_disk)
    prune(store, PrunePolicy(dangling=True, **policy), NOW, disk=no_disk)


def test_a_pull_that_goes_on_meanwhile_is_no_leftover(store: AgeingStore) -> None:
    """While the user reads the question, the write of one lease goes on, and one without a lease."""
    for number in (1, 2):
        store.start_pull(f"lease {number}", f"layer {number}", b"half", lifetime=DAY)
        store.state.ingests[f"alone {number}"] = Unfinished(bytearray(b"x"))
        store.stamp("ingest", f"alone {number}")
    store.advance(HOUR)

    def confirm(planned: RemoveResult) -> bool:
        assert planned.leases == ("lease 1", "lease 2")
        store.advance(dt.timedelta(minutes=1))
        store.stamp("ingest", "layer 1")
        store.stamp("ingest", "alone 1")
        return True

    result = prune(store, PrunePolicy(leftovers=True), store.state.now, disk=no_disk, confirm=confirm)
    assert (result.leases, result.ingests) == (("lease 2",), ("alone 2", "layer 2"))


def test_nothing_is_removed_unless_confirmed(store: AgeingStore) -> None:
    add(store, f"{APP}:1")
    asked: list[RemoveResult] = []
    policy = PrunePolicy(unused=True)
    assert prune(store, policy, NOW, disk=no_disk, confirm=asked.append) == RemoveResult()  # type: ignore[arg-type]
    assert [one.images for one in asked] == [(f"{APP}:1",)]
    assert store.state.images


@pytest.mark.parametrize("change", ["run", "pin", "move", "name"])
def test_what_another_client_uses_meanwhile_stays(
    store: AgeingStore, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    """Another client acts when the sizes of snapshots are read, just before the deletions."""
    target = add(store, f"{APP}:1", b"1")
    add(store, f"{APP}:2", b"2")
    store.add_snapshot("top")
    store.content.set_labels(target, {"containerd.io/gc.ref.snapshot.memory": "top"})
    acts: dict[str, Callable[[], object]] = {
        "run": lambda: store.run("c", f"{APP}:1"),
        "pin": lambda: store.label(f"{APP}:1", {PINNED_LABEL: PINNED}),
        "move": lambda: store.name(f"{APP}:1", store.add_image(b"new", [])),
        "name": lambda: store.name(f"{APP}:other", target),
    }
    usage = store.snapshots.usage

    def acting(snapshotter: str, name: str) -> Any:
        if f"{APP}:2" in store.state.images:
            acts[change]()
        return usage(snapshotter, name)

    monkeypatch.setattr(store.snapshots, "usage", acting)
    result = prune(store, PrunePolicy(unused=True), NOW, disk=no_disk)
    assert result.images == (f"{APP}:2",)
    assert f"{APP}:1" in store.state.images

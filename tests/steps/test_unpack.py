"""Unpack layers in memory: each chain once, even if other clients unpack or remove the same ones."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from queue import SimpleQueue
from threading import Event, Lock
from typing import Any

import pytest

from pyctrd.errors import ContentError, DaemonError, DigestMismatch, NotFound
from pyctrd.oci.model import Descriptor, Digest, ImageConfig, Manifest, Mount
from pyctrd.progress import Progress
from pyctrd.steps.fetch import Stopped
from pyctrd.steps.unpack import unpack
from tests.support import images, shapes
from tests.support.images import Graph
from tests.support.memory import MemoryDiffs, MemorySnapshots, MemoryStore


class Bench:
    """A store with the content of an image, and without snapshots."""

    def __init__(self, graph: Graph) -> None:
        self.store = MemoryStore()
        self.store.put(graph.blobs)
        self.manifest = Manifest.parse(graph.blobs[graph.digest])
        self.config = ImageConfig.parse(graph.blobs[self.manifest.config.digest])
        self.chain = list(self.config.rootfs.chain_ids)
        self.log: list[tuple[str, str]] = []

    def unpack(self, store: MemoryStore | None = None, **how: Any) -> Digest | None:
        def watch(event: Progress) -> None:
            assert event.descriptor is not None
            self.log.append((event.action, event.descriptor.digest))

        return unpack(
            store or self.store,
            self.manifest,
            self.config,
            snapshotter="memory",
            progress=watch,
            **how,
        )

    @property
    def snapshots(self) -> dict[str, tuple[str, str]]:
        return {info.name: (info.parent, info.kind) for info in self.store.snapshots.list("memory")}

    @property
    def whole(self) -> dict[str, tuple[str, str]]:
        """The snapshots of a successful unpack."""
        return {
            name: (parent, "committed")
            for name, parent in zip(self.chain, ["", *self.chain[:-1]], strict=True)
        }


@pytest.fixture(params=[True, False], ids=["rebase", "serial"])
def bench(request: pytest.FixtureRequest) -> Bench:
    bench = Bench(shapes.single(layers=3))
    bench.store.state.can_rebase = request.param
    return bench


def before(
    monkeypatch: pytest.MonkeyPatch, kind: type, method: str, act: Callable[[int], object]
) -> Callable[[], int]:
    """Call a function before each call of a method; it gets the number of the call, from 1."""
    inner, calls = getattr(kind, method), 0

    def call(*arguments: Any, **named: Any) -> Any:
        nonlocal calls
        calls += 1
        act(calls)
        return inner(*arguments, **named)

    monkeypatch.setattr(kind, method, call)
    return lambda: calls


def test_layers_are_committed_from_bottom_to_top(bench: Bench) -> None:
    assert bench.unpack() == bench.chain[-1]
    assert bench.snapshots == bench.whole
    layers = [layer.digest for layer in bench.manifest.layers]
    assert [digest for action, digest in bench.log if action == "unpacked"] == layers
    assert sorted(digest for action, digest in bench.log if action == "unpacking") == sorted(layers)
    if not bench.store.state.can_rebase:
        assert bench.log == [(action, digest) for digest in layers for action in ("unpacking", "unpacked")]
    labels = [bench.store.content.info(layer.digest).labels for layer in bench.manifest.layers]
    assert labels == [{"containerd.io/uncompressed": diff_id} for diff_id in bench.config.rootfs.diff_ids]
    kept = {"containerd.io/gc.ref.snapshot.memory": bench.chain[-1]}
    assert bench.store.content.info(bench.manifest.config.digest).labels == kept


def test_snapshot_annotations_of_a_layer_become_labels(monkeypatch: pytest.MonkeyPatch) -> None:
    """Except those that would change the owners of its files."""
    owners = {f"containerd.io/snapshot/{kind}mapping": "0:1000:65536" for kind in ("uid", "gid")}
    annotations = {"containerd.io/snapshot/remote/urls": "x", "other": "y", **owners}
    layer = images.layer({"file": b"1"}, extra={"annotations": annotations})
    bench = Bench(images.manifest(images.config([layer]), [layer]))
    seen: list[dict[str, str]] = []
    commit = MemorySnapshots.commit

    def committing(self: MemorySnapshots, snapshotter: str, name: str, key: str, *, parent: str = "") -> None:
        seen.append(dict(self.stat(snapshotter, key).labels))
        assert key.startswith("extract-")
        assert key.endswith(f" {name}")
        commit(self, snapshotter, name, key, parent=parent)

    monkeypatch.setattr(MemorySnapshots, "commit", committing)
    bench.unpack()
    assert seen == [{"containerd.io/snapshot.ref": bench.chain[0], "containerd.io/snapshot/remote/urls": "x"}]


def test_an_image_without_layers_has_no_snapshot() -> None:
    bench = Bench(shapes.signature())
    assert bench.unpack() is None
    assert bench.snapshots == {}


def test_existing_chains_are_not_unpacked_again(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.unpack()
    bench.log.clear()
    applied = before(monkeypatch, MemoryDiffs, "apply", lambda _number: None)
    assert bench.unpack() == bench.chain[-1]
    assert (applied(), bench.log) == (0, [])


def test_existing_chains_are_put_under_our_lease(bench: Bench) -> None:
    bench.unpack()
    bench.store.content.set_labels(bench.manifest.config.digest, {"containerd.io/gc.ref.snapshot.memory": ""})
    with bench.store.lease("test") as leased:
        bench.unpack(leased)
        bench.store.collect_garbage()
        assert bench.snapshots == bench.whole
    bench.store.collect_garbage()
    assert bench.snapshots == {}


def test_a_snapshot_that_another_client_commits_first_is_used(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It commits while we apply: our snapshot is removed, and theirs is put under our lease."""

    def commit_theirs(number: int) -> None:
        name = bench.chain[number - 1]
        bench.store.snapshots.prepare("memory", "theirs", bench.chain[number - 2] if number > 1 else "")
        commit(bench.store.snapshots, "memory", name, "theirs")

    commit = MemorySnapshots.commit
    before(monkeypatch, MemorySnapshots, "commit", commit_theirs)
    with bench.store.lease("test") as leased:
        assert bench.unpack(leased) == bench.chain[-1]
        assert bench.snapshots == bench.whole
        bench.store.collect_garbage()
        assert bench.snapshots == bench.whole
    assert "unpacked" not in {action for action, _ in bench.log}


@pytest.mark.parametrize("failure", [DaemonError("disk full"), KeyboardInterrupt()], ids=repr)
def test_a_failure_leaves_no_snapshot_of_its_layer(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, failure: BaseException
) -> None:
    inner = MemoryDiffs.apply

    def apply(self: MemoryDiffs, layer: Descriptor, mounts: Sequence[Mount]) -> Descriptor:
        if layer.digest == bench.manifest.layers[1].digest:
            raise failure
        return inner(self, layer, mounts)

    monkeypatch.setattr(MemoryDiffs, "apply", apply)
    with pytest.raises(type(failure)) as caught:
        bench.unpack()
    assert caught.value is failure
    base = {bench.chain[0]: ("", "committed")}
    assert bench.snapshots == base or (bench.store.state.can_rebase and bench.snapshots == {})


def test_a_failing_cleanup_does_not_hide_the_failure(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(text: str) -> Callable[[int], None]:
        def act(_number: int) -> None:
            raise DaemonError(text)

        return act

    before(monkeypatch, MemoryDiffs, "apply", fail("the first"))
    before(monkeypatch, MemorySnapshots, "remove", fail("the second"))
    with pytest.raises(DaemonError, match="the first"):
        bench.unpack()


def test_a_layer_that_unpacks_to_something_else_is_not_committed() -> None:
    layer, other = images.layer({"file": b"1"}), images.layer({"file": b"2"})
    bench = Bench(images.manifest(images.config([other]), [layer]))
    with pytest.raises(DigestMismatch, match="wrong diff id calculated on extraction") as caught:
        bench.unpack()
    assert (caught.value.expected, caught.value.actual) == (other.diff_id, layer.diff_id)
    assert bench.snapshots == {}


def test_the_number_of_layers_and_diff_ids_must_match() -> None:
    layer = images.layer({"file": b"1"})
    bench = Bench(images.manifest(images.config([layer, layer]), [layer]))
    with pytest.raises(ContentError, match="mismatched image rootfs and manifest layers: 2 diff ids"):
        bench.unpack()


@pytest.mark.parametrize("times", [1, 2, 3])
def test_a_removed_chain_is_unpacked_again(bench: Bench, monkeypatch: pytest.MonkeyPatch, times: int) -> None:
    """Existing snapshots may be removed with another client's image; unpacking is tried three times."""
    applied = before(monkeypatch, MemoryDiffs, "apply", lambda _number: None)
    taken = 0
    set_labels = bench.store.content.set_labels

    def take_away(digest: Digest, labels: dict[str, str]) -> None:
        nonlocal taken
        if digest == bench.manifest.config.digest and taken < times:
            taken += 1
            bench.store.state.snapshots.clear()
        set_labels(digest, labels)

    monkeypatch.setattr(bench.store.content, "set_labels", take_away)
    if times < 3:
        assert bench.unpack() == bench.chain[-1]
        assert bench.snapshots == bench.whole
        assert applied() == 3 * (times + 1)
        return
    with pytest.raises(NotFound) as caught:
        bench.unpack()
    assert (caught.value.kind, caught.value.name) == ("snapshot", bench.chain[-1])


def test_a_chain_that_keeps_disappearing_is_an_error(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each time it exists when we prepare, and is gone when we look it up."""
    inner = MemorySnapshots.prepare

    def prepare(self: MemorySnapshots, snapshotter: str, key: str, parent: str, labels: Any) -> None:
        bench.store.state.snapshots.clear()
        if parent:
            inner(self, snapshotter, key, parent, labels)
        raise exists

    base = bench.chain[0]
    bench.store.snapshots.prepare("memory", "one", "", {"containerd.io/snapshot.ref": base})
    bench.store.snapshots.commit("memory", base, "one")
    with pytest.raises(DaemonError) as caught:
        bench.store.snapshots.prepare("memory", "two", "", {"containerd.io/snapshot.ref": base})
    exists = caught.value
    monkeypatch.setattr(MemorySnapshots, "prepare", prepare)
    with pytest.raises(ContentError, match=r"snapshot sha256:\w+ in memory keeps disappearing"):
        bench.unpack()


def test_the_error_for_a_missing_layer_has_its_digest(bench: Bench) -> None:
    layer: Descriptor = bench.manifest.layers[1]
    bench.store.content.delete(layer.digest)
    with pytest.raises(NotFound) as caught:
        bench.unpack()
    assert (caught.value.kind, caught.value.name) == ("layer", layer.digest)


# --- layers that are extracted before their parents -------------------------------------------------------


class Arrivals:
    """The downloads of an image's layers, which end when a test says so."""

    def __init__(self) -> None:
        self.futures: dict[Digest, Future[None]] = defaultdict(Future)

    def stored(self, digest: Digest) -> Future[None]:
        return self.futures[digest]

    def arrive(self, layer: Descriptor) -> None:
        self.futures[layer.digest].set_result(None)


class Watched:
    """A store that tells which layers are applied, and can refuse one that has no parent."""

    def __init__(self, bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
        self.applied = SimpleQueue[Descriptor]()
        self.at_once = self.most = 0
        self.incomplete: set[Digest] = set()
        self.mounts: dict[Digest, Mount] = {}
        lock, inner = Lock(), MemoryDiffs.apply

        def apply(diffs: MemoryDiffs, layer: Descriptor, mounts: Sequence[Mount]) -> Descriptor:
            with lock:
                self.at_once += 1
                self.most = max(self.most, self.at_once)
            try:
                (self.mounts[layer.digest],) = mounts
                if mounts[0].type == "overlay" and layer.digest in self.incomplete:
                    raise DaemonError("lstat /dev/null/tmp: not a directory")
                return inner(diffs, layer, mounts)
            finally:
                with lock:
                    self.at_once -= 1
                self.applied.put(layer)

        monkeypatch.setattr(MemoryDiffs, "apply", apply)

    def take(self) -> Descriptor:
        return self.applied.get(timeout=60)


@pytest.fixture
def quick() -> Bench:
    return Bench(shapes.single(layers=5))


@pytest.fixture
def watched(quick: Bench, monkeypatch: pytest.MonkeyPatch) -> Watched:
    return Watched(quick, monkeypatch)


def test_layers_are_extracted_as_they_arrive_and_committed_in_order(quick: Bench, watched: Watched) -> None:
    arrivals = Arrivals()
    layers = quick.manifest.layers
    with ThreadPoolExecutor(1) as pool:
        done = pool.submit(quick.unpack, stored=arrivals.stored)
        for layer in (layers[3], layers[1], layers[4], layers[2]):
            arrivals.arrive(layer)
            assert watched.take() == layer
        assert not [name for name, (_, kind) in quick.snapshots.items() if kind == "committed"]
        arrivals.arrive(layers[0])
        assert done.result(60) == quick.chain[-1]
    assert quick.snapshots == quick.whole
    assert [digest for action, digest in quick.log if action == "unpacked"] == [it.digest for it in layers]
    assert watched.most <= 2


def test_mounts_of_layers_that_get_their_parent_later(quick: Bench, watched: Watched) -> None:
    """As the upper folder of an overlay, which makes containerd write whiteouts as overlayfs stores them."""
    quick.unpack()
    base, *above = quick.manifest.layers
    assert watched.mounts[base.digest].type == "memory"
    for layer in above:
        mount = watched.mounts[layer.digest]
        assert (mount.type, mount.source) == ("overlay", "overlay")
        assert [one for one in mount.options if one.startswith("upperdir=extract-")]
        assert "lowerdir=/dev/null" in mount.options


@pytest.mark.parametrize("positions", [(1,), (4,), (2, 3), (1, 2, 3, 4)])
def test_layers_that_need_their_parent_are_extracted_again(
    quick: Bench, watched: Watched, positions: Sequence[int]
) -> None:
    watched.incomplete = {quick.manifest.layers[position].digest for position in positions}
    assert quick.unpack() == quick.chain[-1]
    assert quick.snapshots == quick.whole
    assert {digest for digest, mount in watched.mounts.items() if mount.type == "memory"} == {
        quick.manifest.layers[0].digest,
        *watched.incomplete,
    }


@pytest.mark.parametrize("position", range(5))
def test_a_failed_download_leaves_no_active_snapshot(quick: Bench, watched: Watched, position: int) -> None:
    arrivals = Arrivals()
    layers = list(quick.manifest.layers)
    failed = layers.pop(position)
    for layer in layers:
        arrivals.arrive(layer)
    with ThreadPoolExecutor(1) as pool:
        done = pool.submit(quick.unpack, stored=arrivals.stored)
        for _ in layers[1:] if position else []:
            watched.take()
        arrivals.futures[failed.digest].set_exception(DaemonError("cut"))
        with pytest.raises(DaemonError, match="cut"):
            done.result(60)
    assert {kind for _, kind in quick.snapshots.values()} <= {"committed"}


def test_a_cancelled_download_ends_the_unpacking(quick: Bench) -> None:
    arrivals = Arrivals()
    for layer in quick.manifest.layers[1:]:
        arrivals.arrive(layer)
    with ThreadPoolExecutor(1) as pool:
        done = pool.submit(quick.unpack, stored=arrivals.stored)
        arrivals.futures[quick.manifest.layers[0].digest].cancel()
        with pytest.raises(CancelledError):
            done.result(60)
    assert quick.snapshots == {}


def test_nothing_more_is_committed_after_a_stop(quick: Bench) -> None:
    stop = Event()
    stop.set()
    with pytest.raises(Stopped):
        quick.unpack(stop=stop)
    assert quick.snapshots == {}


def test_one_layer_at_a_time_if_the_caller_wants_it(quick: Bench, watched: Watched) -> None:
    assert quick.unpack(max_concurrent=1) == quick.chain[-1]
    assert watched.most == 1


def test_a_snapshotter_is_asked_for_more_than_one_missing_layer_only(
    quick: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = before(monkeypatch, MemorySnapshots, "can_rebase", lambda _number: None)
    quick.unpack()
    assert asked() == 1
    quick.unpack()
    quick.store.snapshots.remove("memory", quick.chain[-1])
    quick.unpack()
    assert asked() == 1
    assert quick.snapshots == quick.whole


def test_parents_that_another_client_removes_are_unpacked_again(
    quick: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The two lowest ones exist when we start, and are gone when the third one is to be committed."""
    quick.unpack()
    for name in reversed(quick.chain[2:]):
        quick.store.snapshots.remove("memory", name)

    def remove(number: int) -> None:
        if number == 1:
            for name in reversed(quick.chain[:2]):
                quick.store.snapshots.remove("memory", name)

    before(monkeypatch, MemorySnapshots, "commit", remove)
    assert quick.unpack() == quick.chain[-1]
    assert quick.snapshots == quick.whole

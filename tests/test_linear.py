"""Images with many paths: every command reads each document a few times, not once per path.

Only counts are compared: documents read, parsed and labelled, requests to the store and the registry.
"""

from __future__ import annotations

import datetime as dt
import io
import json
import tracemalloc
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any

import msgspec
import pytest

from pyctrd.archive.contents import IndexMode
from pyctrd.archives import verify_archive
from pyctrd.errors import InvalidInput
from pyctrd.oci import platforms, reference
from pyctrd.oci.mediatypes import OCI_MANIFEST
from pyctrd.oci.model import Digest, ImageRecord, Platform, SnapshotInfo
from pyctrd.oci.platforms import Selection
from pyctrd.oci.resources import DiskSpace
from pyctrd.operations import copy, ensure, lookup, push
from pyctrd.operations.diagnose import diagnose
from pyctrd.operations.prune_images import PrunePolicy, prune
from pyctrd.operations.pull import PullOptions, pull
from pyctrd.operations.remove import RemoveOptions, remove
from pyctrd.operations.save import SaveOptions, plan, save
from pyctrd.operations.usage import usage
from pyctrd.operations.verify import Repair, verify
from pyctrd.operations.why import why
from pyctrd.steps.local import LocalImage
from pyctrd.steps.upload import SendOptions
from pyctrd.steps.upload_plan import PushIndex
from tests.support import shapes
from tests.support.images import Graph
from tests.support.loading import archive_of
from tests.support.memory import SNAPSHOTTER, MemoryStore
from tests.support.repository import MemoryRepository
from tests.support.selections import selected

NAME = "registry.example/team/app:1"
TARGET = reference.parse("target.example/team/app:2")
ENTRIES = 100
# How often a command may process one object: in a few walks, and more than once in each.
OFTEN = 40

IMAGES: dict[str, Callable[[], Graph]] = {
    "shared indexes": lambda: shapes.shared_indexes(6, 8),
    "one child for many platforms": lambda: shapes.listed_for_many(ENTRIES),
    "one child for many versions": lambda: shapes.listed_for_many(ENTRIES, key="os.version"),
    "many manifests": lambda: shapes.many_manifests(ENTRIES),
}


class Counts:
    """Counts of calls, by kind."""

    def __init__(self) -> None:
        self.asked: Counter[tuple[str, str]] = Counter()
        self.parsed = 0
        self.matched = 0

    def wrap(self, thing: Any, method: str) -> None:
        inner = getattr(thing, method)

        def counting(digest: Digest, *args: Any, **kwargs: Any) -> Any:
            self.asked[method, digest] += 1
            return inner(digest, *args, **kwargs)

        setattr(thing, method, counting)

    def check(self, graph: Graph, often: int = OFTEN) -> None:
        """Compare the counts with the number of objects."""
        documents = [data for data in graph.blobs.values() if data.startswith(b"{")]
        entries = sum(len(json.loads(data).get("manifests", ())) for data in documents)
        repeated = {what: count for what, count in self.asked.items() if count > often}
        assert not repeated
        assert 0 < self.parsed <= often * sum(map(len, documents))
        assert self.matched <= often * (entries + len(documents))


class CountedStore(MemoryStore):
    """A store whose views, including those with a lease, count the calls of the content service."""

    def __init__(self, counts: Counts, inner: MemoryStore) -> None:
        self.__dict__.update(inner.__dict__)
        self._counts = counts
        for method in ("info", "read_all", "read", "set_labels"):
            counts.wrap(self.content, method)

    @contextmanager
    def lease(self, purpose: str, *, resumable: bool = False) -> Iterator[MemoryStore]:
        with super().lease(purpose, resumable=resumable) as leased:
            yield leased if leased is self else CountedStore(self._counts, leased)


class Bench:
    """An image in a store and in a repository."""

    def __init__(self, graph: Graph, counts: Counts) -> None:
        memory = MemoryStore()
        memory.put(graph.blobs)
        self.graph = graph
        self.record = memory.tag(NAME, graph.root)
        self.store = CountedStore(counts, memory)
        self.remote = MemoryRepository()
        self.remote.publish(graph)
        self.target = MemoryRepository("target.example")

    def fetchers(self, _image: ImageRecord) -> Sequence[MemoryRepository]:
        return [self.remote]


@pytest.fixture
def counts(monkeypatch: pytest.MonkeyPatch) -> Counts:
    counts = Counts()
    decode, normalize = msgspec.json.decode, platforms.normalize

    def parsing(raw: bytes) -> Any:
        counts.parsed += len(raw)
        return decode(raw)

    def matching(platform: Platform) -> Platform:
        counts.matched += 1
        return normalize(platform)

    monkeypatch.setattr(msgspec.json, "decode", parsing)
    monkeypatch.setattr(platforms, "normalize", matching)
    return counts


@pytest.fixture(params=IMAGES)
def bench(request: pytest.FixtureRequest, counts: Counts) -> Bench:
    return Bench(IMAGES[request.param](), counts)


@pytest.mark.parametrize("metadata", ["all", "selected"])
@pytest.mark.parametrize("selection", [selected(), selected("all")])
def test_pull(bench: Bench, counts: Counts, metadata: Any, selection: Selection) -> None:
    bench.store.state.blobs.clear()
    options = PullOptions(platforms=selection, metadata=metadata)
    pull(bench.store, bench.remote, NAME, options)
    counts.check(bench.graph)
    assert max(Counter(bench.remote.done("fetch")).values()) == 1
    labelled = {what: count for what, count in counts.asked.items() if what[0] == "set_labels"}
    assert max(labelled.values()) <= 4


@pytest.mark.parametrize("selection", [selected(), selected("all"), selected("local")])
@pytest.mark.parametrize("index", ["keep", "prune", "flatten"])
def test_save(bench: Bench, counts: Counts, selection: Selection, index: IndexMode) -> None:
    options = SaveOptions(platforms=selection, index=index)
    planned = None
    with suppress(InvalidInput):
        planned = plan(bench.store, [bench.record], options, fetchers=bench.fetchers)
    counts.check(bench.graph)
    if planned is None:
        assert index == "flatten"  # several images
        return
    counts.asked.clear()
    counts.parsed = counts.matched = 0
    output = io.BytesIO()
    saved = save(bench.store, [bench.record], options, output, fetchers=bench.fetchers)
    counts.check(bench.graph)
    assert saved.bytes_written == planned.bytes_written


@pytest.mark.parametrize("selection", ["all", "local", "linux/amd64"])
def test_ensure(bench: Bench, counts: Counts, selection: str) -> None:
    lost = next(digest for digest, data in bench.graph.blobs.items() if not data.startswith(b"{"))
    targets = selected(selection).resolve(LocalImage(bench.store, bench.record.target).platforms)
    del bench.store.state.blobs[Digest(lost)]
    found = ensure.ensure(bench.store, bench.record, targets, bench.fetchers)
    assert [item.digest for item in found.fetched] == [lost]
    counts.check(bench.graph)


@pytest.mark.parametrize("index", ["prune", "flatten"])
@pytest.mark.parametrize("selection", ["all", "local", "linux/amd64"])
def test_push_and_copy(bench: Bench, counts: Counts, selection: str, index: PushIndex) -> None:
    if index == "flatten" and selection != "linux/amd64":
        return
    options = SendOptions(platforms=selected(selection), index=index)
    push.push(bench.store, bench.record, bench.target, TARGET, options, dry_run=True)
    push.push(bench.store, bench.record, bench.target, TARGET, options)
    counts.check(bench.graph)
    if selection == "local":
        return
    target = MemoryRepository("target.example")
    copy.copy(bench.remote, NAME, target, TARGET, options, dry_run=True)
    copy.copy(bench.remote, NAME, target, TARGET, options)
    assert max(Counter(bench.remote.done("fetch")).values()) == 2
    counts.check(bench.graph)


@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize("selection", ["all", "local", "linux/amd64"])
def test_diagnose(bench: Bench, counts: Counts, selection: str, whole: bool) -> None:
    if not whole:
        for digest, data in bench.graph.blobs.items():
            if b'"schemaVersion"' not in data:
                del bench.store.state.blobs[Digest(digest)]
    found = diagnose(bench.store, bench.record, selected(selection))
    assert found.complete == whole
    counts.check(bench.graph, 2 * OFTEN)  # a forecast for each of six tools


@pytest.mark.parametrize("repair", [False, True])
def test_verify(bench: Bench, counts: Counts, repair: bool) -> None:
    repairing = Repair(fetchers=bench.fetchers) if repair else None
    result = verify(bench.store, [bench.record], selected("all"), orphans=True, repairing=repairing)
    assert result.ok
    assert result.blobs == len(bench.graph.blobs)
    counts.check(bench.graph)


@pytest.mark.parametrize("shape", IMAGES)
@pytest.mark.parametrize("platforms", [None, "all", "linux/amd64"])
def test_verify_archive(counts: Counts, shape: str, platforms: str | None) -> None:
    graph = IMAGES[shape]()
    counts.parsed = counts.matched = 0
    result = verify_archive(io.BytesIO(archive_of(graph)), platforms=platforms)
    assert result.ok
    assert result.images[0].complete
    counts.check(graph)


@pytest.mark.parametrize("shape", [shapes.single, shapes.five_platform, shapes.mixed])
@pytest.mark.parametrize("what", ["save", "diagnose", "ensure"])
def test_a_complete_image_is_read_once(counts: Counts, shape: Callable[[], Graph], what: str) -> None:
    """Each document is read once, each blob looked up at most once, and a save reads each layer once."""
    bench = Bench(shape(), counts)
    if what == "save":
        save(
            bench.store,
            [bench.record],
            SaveOptions(platforms=selected()),
            io.BytesIO(),
            fetchers=bench.fetchers,
        )
    elif what == "diagnose":
        diagnose(bench.store, bench.record, selected())
    else:
        ensure.ensure(bench.store, bench.record, selected().resolve(), bench.fetchers)
    reads = Counter[str]()
    for (method, digest), count in counts.asked.items():
        if method.startswith("read"):
            reads[digest] += count
    assert {what: count for what, count in counts.asked.items() if what[0] == "info" and count > 1} == {}
    assert {digest: count for digest, count in reads.items() if count > 1} == {}
    assert bench.record.target.digest in reads
    assert not any(method == "set_labels" for method, _digest in counts.asked)


# --- namespaces with many images --------------------------------------------------------------------------

SIZES = (100, 10_000)


def crowded(count: int) -> MemoryStore:
    """A namespace of images with a manifest, a config and a layer each, and a base layer that all share."""
    store = MemoryStore()
    state = store.state
    base = Digest.of(b"base")
    state.blobs[base] = b"base"
    state.snapshots[SNAPSHOTTER, "base"] = SnapshotInfo(name="base", kind="committed")
    for number in range(count):
        manifest, config, layer = (Digest.of(f"{kind} {number}".encode()) for kind in ("m", "c", "l"))
        state.blobs |= dict.fromkeys((manifest, config, layer), b"x")
        state.labels[manifest] = {
            f"containerd.io/gc.ref.content.{key}": digest
            for key, digest in (("config", config), ("l.0", base), ("l.1", layer))
        }
        state.labels[config] = {f"containerd.io/gc.ref.snapshot.{SNAPSHOTTER}": f"top {number}"}
        top = SnapshotInfo(name=f"top {number}", parent="base", kind="committed")
        state.snapshots[SNAPSHOTTER, top.name] = top
        store.tag(
            f"docker.io/library/app:{number}", {"mediaType": OCI_MANIFEST, "digest": manifest, "size": 1}
        )
    return store


class CountedService:
    """A service that counts the calls that come from outside, by `service.method`."""

    def __init__(self, counts: Counter[str], title: str, service: object) -> None:
        self._counts, self._title, self._service = counts, title, service

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._service, name)

        def counting(*args: Any, **kwargs: Any) -> Any:
            self._counts[f"{self._title}.{name}"] += 1
            return method(*args, **kwargs)

        return counting


def calls_of(store: MemoryStore) -> Counter[str]:
    """Count the calls of all services from now on."""
    counts = Counter[str]()
    for title in ("content", "images", "snapshots", "leases", "containers", "namespaces"):
        setattr(store, title, CountedService(counts, title, getattr(store, title)))
    return counts


@pytest.fixture(scope="module", params=SIZES)
def many(request: pytest.FixtureRequest) -> tuple[MemoryStore, int]:
    return crowded(request.param), request.param


@pytest.mark.parametrize("what", ["rm --dry-run", "why", "rm"])
def test_calls_do_not_grow_with_the_images_of_a_namespace(what: str, many: tuple[MemoryStore, int]) -> None:
    """Of one image: each kind of record is listed, at most twice, and only what goes is asked for."""
    store, count = many
    store = MemoryStore(store.state)
    calls = calls_of(store)
    find, now = partial(lookup.find, store.images), dt.datetime.now(dt.UTC)
    if what == "why":
        found = why(store, Digest.of(b"base"), find=find, now=now)
        assert len(found.chains) == count
    else:
        options = RemoveOptions(dry_run=what != "rm")
        name = f"docker.io/library/app:{8 if what == 'rm' else 7}"
        result = remove(store, [name], options, find=find, now=now)
        assert (len(result.blobs), len(result.snapshots)) == (3, 1)
    assert calls["snapshots.usage"] == (0 if what == "why" else 1)
    assert max(calls.values()) <= 2
    assert calls.total() <= 20


def test_calls_for_the_removal_of_many_images(many: tuple[MemoryStore, int]) -> None:
    """A dry run looks each name up and asks for the size of each snapshot, once; nothing for each blob."""
    store = MemoryStore(many[0].state)
    names = sorted(store.state.images)
    calls = calls_of(store)
    find, now = partial(lookup.find, store.images), dt.datetime.now(dt.UTC)
    result = remove(store, names, RemoveOptions(dry_run=True), find=find, now=now)
    assert len(result.images) == len(names)
    assert len(result.snapshots) == len(store.state.snapshots)
    assert calls.pop("images.get") == len(names)
    assert calls.pop("snapshots.usage") == len(result.snapshots)
    assert calls.total() <= 20


@pytest.mark.parametrize("what", ["rm --dry-run", "why", "usage", "prune --dry-run"])
def test_memory_grows_with_the_records_only(what: str) -> None:
    """The references of a namespace take less memory than the list of its records."""
    store = crowded(2000)
    objects = len(store.state.images) + len(store.state.blobs) + len(store.state.snapshots)
    name, find, now = "docker.io/library/app:7", partial(lookup.find, store.images), dt.datetime.now(dt.UTC)
    tracemalloc.start()
    try:
        match what:
            case "rm --dry-run":
                remove(store, [name], RemoveOptions(dry_run=True), find=find, now=now)
            case "why":
                why(store, name, find=find, now=now)
            case "usage":
                usage(store, now)
            case _:
                disk = partial(DiskSpace, root="", bytes=0, bytes_free=0)
                prune(store, PrunePolicy(unused=True), now, disk=disk, dry_run=True)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak / objects < 600


def test_usage_counts_references_once_for_each_image(many: tuple[MemoryStore, int]) -> None:
    """Each kind of record is listed once or twice, and each snapshot is asked for."""
    store = MemoryStore(many[0].state)
    calls = calls_of(store)
    found = usage(store, dt.datetime.now(dt.UTC))
    assert len(found.images) == len(store.state.images)
    assert calls.pop("snapshots.usage") == len(store.state.snapshots)
    assert max(calls.values()) <= 2
    assert calls.total() <= 12

"""Ensure all: every incomplete image is completed, and an error of one does not end the others."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec
import pytest

from pyctrd.errors import Cancelled, ContentError, NoMatchingPlatform, RegistryError, RegistryUnreachable
from pyctrd.oci import platforms
from pyctrd.oci.model import Digest, ImageRecord
from pyctrd.oci.platforms import Selection
from pyctrd.operations.diagnose import diagnose_all
from pyctrd.operations.ensure_all import ensure_all
from pyctrd.ports import Fetchers, Store
from tests.support import shapes
from tests.support.images import Graph
from tests.support.memory import MemoryStore
from tests.support.repository import MemoryRepository
from tests.support.selections import selected

HOST = platforms.parse("linux/amd64")


class Bench:
    """A store with images, some of which lack their layers, and a repository for each."""

    def __init__(self) -> None:
        self.store = MemoryStore()
        self.remotes: dict[str, MemoryRepository] = {}

    def add(self, name: str, graph: Graph, *, whole: bool = False, published: bool = True) -> None:
        layers = [digest for digest, data in graph.blobs.items() if not data.startswith(b"{")]
        self.store.put(graph.blobs, without=() if whole else layers)
        self.store.tag(name, graph.root)
        self.remotes[name] = MemoryRepository(name.partition("/")[0])
        if published:
            self.remotes[name].publish(graph)

    def fetchers(self, _store: Store) -> Fetchers:
        return lambda image: [self.remotes[image.name]]

    def complete(self, *values: str) -> dict[str, bool]:
        return {item.image: item.complete for item in diagnose_all([self.store], selection(*values))}


def selection(*values: str) -> Selection:
    return msgspec.structs.replace(selected(*values), host=HOST)


@pytest.fixture
def bench() -> Bench:
    bench = Bench()
    bench.add("a.example/a:1", shapes.single(salt="a"))
    bench.add("b.example/b:1", shapes.mixed(salt="b"))
    bench.add("c.example/c:1", shapes.single(salt="c"), whole=True)
    return bench


@pytest.mark.parametrize("values", [(), ("all",), ("linux/amd64",)])
def test_all_incomplete_images_are_completed(bench: Bench, values: tuple[str, ...]) -> None:
    result = ensure_all([bench.store], selection(*values), bench.fetchers)
    assert [item.image.name for item in result.images] == ["a.example/a:1", "b.example/b:1"]
    assert result.complete == 1
    assert result.error is None
    assert set(bench.complete(*values).values()) == {True}
    assert result.bytes_fetched == sum(
        item.size for one in result.images if one.result for item in one.result.fetched
    )
    assert ensure_all([bench.store], selection(*values), bench.fetchers).images == ()
    assert bench.remotes["c.example/c:1"].calls == []


def test_a_dry_run_fetches_nothing(bench: Bench) -> None:
    before = dict(bench.store.state.blobs)
    planned = ensure_all([bench.store], selection(), bench.fetchers, dry_run=True)
    assert planned.dry_run
    assert bench.store.state.blobs == before
    done = ensure_all([bench.store], selection(), bench.fetchers)
    assert planned.bytes_fetched == done.bytes_fetched > 0


def test_an_error_of_one_image_does_not_end_the_others(bench: Bench) -> None:
    bench.add("a.example/0:1", shapes.single(salt="gone"), published=False)
    damaged = shapes.single(salt="damaged")
    bench.add("a.example/1:1", damaged)
    bench.store.state.blobs[Digest(damaged.digest)] = b"{"
    result = ensure_all([bench.store], selection(), bench.fetchers)
    kinds = [type(item.error) for item in result.images if item.error]
    assert len(kinds) == 2
    assert issubclass(kinds[0], RegistryError)
    assert issubclass(kinds[1], ContentError)
    assert result.error is result.images[0].error
    assert bench.complete()["a.example/a:1"]


def test_an_image_without_the_platform_is_an_error_of_less_weight(bench: Bench) -> None:
    bench.add("0.example/0:1", shapes.multi(["linux/s390x"]), whole=True)
    result = ensure_all([bench.store], selection(), bench.fetchers)
    assert isinstance(result.error, NoMatchingPlatform)
    bench.add("z.example/z:1", shapes.single(salt="z"), published=False)
    result = ensure_all([bench.store], selection(), bench.fetchers)
    assert isinstance(result.error, RegistryError)
    assert not isinstance(result.error, NoMatchingPlatform)


def test_a_registry_that_cannot_be_reached_is_tried_once(bench: Bench) -> None:
    bench.add("a.example/z:1", shapes.single(salt="z"))
    asked: list[str] = []

    class Down(MemoryRepository):
        def fetch(self, descriptor: object, offset: int = 0) -> object:  # type: ignore[override]
            asked.append(self.host)
            raise RegistryUnreachable("connection refused", host=self.host)

    for name in ("a.example/a:1", "a.example/z:1"):
        bench.remotes[name] = Down("a.example")
    result = ensure_all([bench.store], selection(), bench.fetchers)
    first, other, last = result.images
    assert isinstance(first.error, RegistryUnreachable)
    assert last.image.name == "b.example/b:1" or other.image.name == "a.example/z:1"
    by_name = {item.image.name: item for item in result.images}
    assert by_name["a.example/z:1"].error is first.error
    assert by_name["b.example/b:1"].error is None
    layers = len(shapes.single(salt="a").document()["layers"])
    assert 1 <= len(asked) <= layers


def test_records_of_one_target_are_fetched_once_from_any_of_their_names() -> None:
    graph = shapes.single()
    bench = Bench()
    by_digest = f"registry.example/app@{graph.digest}"
    bench.add("alias.example/app:1", graph, published=False)
    bench.add("registry.example/app:1", graph)
    bench.add(by_digest, graph)
    result = ensure_all([bench.store], selection(), bench.fetchers)
    (only,) = result.images
    assert only.image.name == "alias.example/app:1"
    assert only.names == ("registry.example/app:1", by_digest)
    assert only.error is None
    assert set(bench.complete().values()) == {True}


def test_several_namespaces() -> None:
    graph = shapes.single()
    stores = [MemoryStore(namespace=name) for name in ("default", "k8s.io")]
    remote = MemoryRepository()
    remote.publish(graph)
    for store in stores:
        store.put(graph.blobs, without=[item["digest"] for item in graph.document()["layers"]])
        store.tag("registry.example/app:1", graph.root)
    result = ensure_all(stores, selection(), lambda _store: lambda _image: [remote])
    assert [item.namespace for item in result.images] == ["default", "k8s.io"]
    assert all(item.complete for item in diagnose_all(stores, selection()))


def test_a_cancelled_run_ends(bench: Bench) -> None:
    def cancelled(_store: Store) -> Callable[[ImageRecord], Sequence[MemoryRepository]]:
        raise_ = Cancelled("cancelled")

        def fetchers(_image: ImageRecord) -> Sequence[MemoryRepository]:
            raise raise_

        return fetchers

    with pytest.raises(Cancelled):
        ensure_all([bench.store], selection(), cancelled)

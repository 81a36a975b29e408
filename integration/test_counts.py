"""Requests to a real containerd about an image: documents are read once, blobs looked up once."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

import pytest

from integration.rig import publish
from integration.rig.daemons import Containerd, Registry
from pyctrd import Client
from pyctrd.containerd.content import ContentService
from tests.support import shapes
from tests.support.images import Graph, reachable
from tests.support.loading import entry, layout
from tests.support.tars import tar_of

pytestmark = pytest.mark.two_generations


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Counter[tuple[str, str]]:
    """Calls of the content service by method and digest."""
    counts: Counter[tuple[str, str]] = Counter()

    def counting(method: str) -> Callable[..., Any]:
        inner = getattr(ContentService, method)

        def call(self: ContentService, digest: str, *args: Any, **named: Any) -> Any:
            counts[method, digest] += 1
            return inner(self, digest, *args, **named)

        return call

    def counting_each(method: str, name: str) -> Callable[..., Any]:
        inner = getattr(ContentService, method)

        def call(self: ContentService, items: Iterable[Any]) -> Any:
            found = list(items)
            counts.update((name, str(getattr(item, "digest", item))) for item in found)
            return inner(self, found)

        return call

    for method in ("info", "read"):  # read_all uses read
        monkeypatch.setattr(ContentService, method, counting(method))
    monkeypatch.setattr(ContentService, "infos", counting_each("infos", "info"))
    monkeypatch.setattr(ContentService, "read_several", counting_each("read_several", "read"))
    return counts


@pytest.mark.parametrize("shape", [shapes.single, shapes.five_platform])
@pytest.mark.parametrize("what", ["save", "diagnose", "ensure"])
def test_a_complete_image_is_read_once(
    fresh_containerd: Containerd,
    registry: Registry,
    repository: str,
    namespace: str,
    asked: Counter[tuple[str, str]],
    shape: Callable[[], Graph],
    what: str,
) -> None:
    name = publish.push(shape(), registry, repository)
    with Client(fresh_containerd.address, namespace) as client:
        client.images.pull(name)
        asked.clear()
        if what == "save":
            client.images.save(name, io.BytesIO())
        elif what == "diagnose":
            client.images.diagnose(name)
        else:
            client.images.ensure(name)
    assert {key: count for key, count in asked.items() if count > 1} == {}
    assert asked["read", str(shape().digest)] == 1


def test_a_pull_needs_few_calls_and_requests(
    fresh_containerd: Containerd,
    registry: Registry,
    repository: str,
    namespace: str,
    called: Counter[str],
) -> None:
    """A blob: one request, one write, one look-up at the end. What is there is looked up twice."""
    graph = shapes.single(layers=30)
    name = publish.push(graph, registry, repository)
    blobs = len(graph.blobs)
    with Client(fresh_containerd.address, namespace) as client:
        registry.clear_requests()
        client.images.pull(name, unpack=False)
        assert Counter(one.method for one in registry.requests()) == {"HEAD": 1, "GET": blobs}
        assert called["Content/Write"] == called["Content/Info"] == blobs
        assert called["Content/Update"] == 1  # the gc labels of the manifest
        assert called.total() <= 2 * blobs + 10

        registry.clear_requests()
        called.clear()
        client.images.pull(name, unpack=False)
    assert [one.method for one in registry.requests()] == ["HEAD"]
    assert called["Content/Info"] == 2 * blobs
    assert called == {
        "Content/Info": 2 * blobs,
        "Content/Read": 2,
        "Content/Write": 1,
        "Images/Get": 1,
        "Leases/Create": 1,
        "Leases/Delete": 1,
    }


def test_a_pull_of_many_layers_that_are_there_lists_them(
    fresh_containerd: Containerd,
    registry: Registry,
    repository: str,
    namespace: str,
    called: Counter[str],
) -> None:
    name = publish.push(shapes.single(layers=120), registry, repository)
    with Client(fresh_containerd.address, namespace) as client:
        client.images.pull(name, unpack=False)
        called.clear()
        client.images.pull(name, unpack=False)
    assert called["Content/List"] == 2
    assert called.total() <= 12


def archive_of_many(count: int) -> bytes:
    """An archive of images with three small layers each."""
    graphs = [shapes.single(layers=3, salt=f"image {number}") for number in range(count)]
    blobs = {digest: data for graph in graphs for digest, data in reachable(graph).items()}
    return tar_of(
        layout(*(entry(graph, f"a.example/{at}:1") for at, graph in enumerate(graphs)), blobs=blobs)
    )


@pytest.mark.parametrize("images", [1, 40])
def test_a_load_of_what_is_there_asks_once(
    fresh_containerd: Containerd, namespace: str, called: Counter[str], images: int
) -> None:
    archive = archive_of_many(images)
    with Client(fresh_containerd.address, namespace) as client:
        first = client.images.load(io.BytesIO(archive))
        written = called.copy()
        called.clear()
        again = client.images.load(io.BytesIO(archive))
    assert (first.bytes_present, again.bytes_written) == (0, 0)
    blobs = 5 * images
    # One message for each blob, with the gc labels of manifests; another one names what is protected.
    assert written["Content/Write"] == blobs + (images > 1)
    assert written["Content/Update"] == 4 * images  # layers and config, when they are unpacked
    rare = {"Version/Version", "Leases/Create", "Leases/Delete", "Namespaces/Get", "Introspection/Plugins"}
    asked = {name: count for name, count in called.items() if name not in rare}
    if images == 1:
        assert asked == {
            "Leases/AddResource": 1,
            "Content/Info": 2 * blobs,
            "Snapshots/Stat": 1,
            "Images/Get": 1,
        }
    else:
        assert asked == {
            "Content/Write": 1,
            "Content/List": 2,
            "Content/Delete": 1,
            "Snapshots/Stat": images,
            "Images/List": 1,
        }
    assert max(called[name] for name in rare) <= 1

"""How often containerd is asked, and what is read of the archive; only counts are compared."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import pytest

from tests.support import shapes
from tests.support.images import Graph, random_layer, reachable
from tests.support.images import config as config_of
from tests.support.images import manifest as manifest_of
from tests.support.loading import Bench, archive_of, docker_archive, entry, layout
from tests.support.memory import MemoryImages, MemorySnapshots, MemoryStore
from tests.support.memory_content import MemoryContent
from tests.support.tars import tar_of

IMAGES = 40
LARGE = 3 << 20


class CountedFile(io.BytesIO):
    """An archive that counts the bytes which are read of it."""

    bytes_read = 0

    def read(self, size: int | None = -1, /) -> bytes:
        data = super().read(size)
        self.bytes_read += len(data)
        return data


@pytest.fixture
def bench() -> Bench:
    return Bench()


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """The calls of the store's services, as far as each one is a call of containerd."""
    counts = Counter[str]()

    def counting(kind: type, method: str) -> Callable[..., Any]:
        inner = getattr(kind, method)

        def call(self: Any, *args: Any, **named: Any) -> Any:
            counts[method] += 1
            return inner(self, *args, **named)

        return call

    for kind, methods in (
        (MemoryContent, "infos read read_all open_ingest write_small set_labels ingests"),
        (MemoryImages, "get get_several list create update"),
        (MemorySnapshots, "stat prepare commit remove"),
        (MemoryStore, "pin"),
    ):
        for method in methods.split():
            monkeypatch.setattr(kind, method, counting(kind, method))
    return counts


def large() -> Graph:
    """An image whose layers are not written in one message."""
    layers = [random_layer(LARGE, number) for number in range(3)]
    return manifest_of(config_of(layers), layers)


def many(blobs: dict[str, bytes], layers: int = 3) -> bytes:
    """An archive of many small images; adds their blobs to `blobs`."""
    graphs = [shapes.single(layers=layers, salt=f"image {number}") for number in range(IMAGES)]
    for graph in graphs:
        blobs |= reachable(graph)
    entries = [entry(graph, f"registry.example/many/{number}:1") for number, graph in enumerate(graphs)]
    return tar_of(layout(*entries, blobs=blobs))


def check_nothing_is_written(calls: Mapping[str, int], images: int) -> None:
    """One list or look-up of all blobs, twice; for each image, one look-up of its snapshot."""
    assert calls == {
        "pin": 1,
        "infos": 2,
        "stat": images,
        **({"list": 1} if images > 1 else {"get_several": 1}),
    }


def test_an_image_that_is_there_is_not_written(bench: Bench, calls: Counter[str]) -> None:
    archive = archive_of(large())
    bench.load(archive)
    calls.clear()
    bench.load(archive)
    check_nothing_is_written(calls, 1)


def test_of_an_image_that_is_there_only_documents_are_read(bench: Bench) -> None:
    graph = large()
    for archive in (archive_of(graph), docker_archive(shapes.single(layers=6), "registry.example/a:1")):
        bench.load(archive)
        file = CountedFile(archive)
        bench.load_file(file)
        # The headers of the tar, each document once, and the first bytes of docker's layers.
        assert file.bytes_read < 32 << 10


def test_many_images_that_are_there_are_looked_up_together(bench: Bench, calls: Counter[str]) -> None:
    archive = many({})
    bench.load(archive)
    calls.clear()
    bench.load(archive)
    check_nothing_is_written(calls, IMAGES)


def test_small_blobs_are_written_together_with_their_labels(bench: Bench, calls: Counter[str]) -> None:
    blobs: dict[str, bytes] = {}
    archive = many(blobs)
    bench.load(archive, unpack=False)
    written = IMAGES * (1 + 1 + 3)
    assert len(blobs) == written
    # As an in-memory store writes small blobs, too.
    assert calls == {
        "pin": 1,
        "infos": 2,
        "write_small": 1,
        "open_ingest": written,
        "list": 1,
        "create": IMAGES,
    }
    assert bench.here == set(blobs)


def test_what_lacks_is_written_and_the_rest_is_not_touched(bench: Bench, calls: Counter[str]) -> None:
    blobs: dict[str, bytes] = {}
    archive = many(blobs)
    bench.load(archive, unpack=False)
    lost = next(digest for digest, data in blobs.items() if not data.startswith(b"{"))
    del bench.store.state.blobs[lost]  # type: ignore[arg-type]
    calls.clear()
    result = bench.load(archive, unpack=False)
    assert result.bytes_written == len(blobs[lost])
    assert calls == {"pin": 1, "infos": 2, "write_small": 1, "open_ingest": 1, "list": 1}


def test_content_without_gc_labels_is_protected_by_one_call(bench: Bench, calls: Counter[str]) -> None:
    graph = large()
    bench.store.put(graph.blobs)
    bench.load(archive_of(graph), unpack=False)
    assert (calls["pin"], calls["infos"], calls["open_ingest"]) == (2, 3, 0)
    assert bench.here == set(graph.blobs)

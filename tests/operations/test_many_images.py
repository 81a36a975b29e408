"""10,000 image records: how often containerd is asked, and how much memory that takes."""

from __future__ import annotations

import tracemalloc
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import pytest

from pyctrd.oci.mediatypes import OCI_CONFIG, OCI_LAYER_GZIP, OCI_MANIFEST
from pyctrd.oci.model import Descriptor, Digest, ImageRecord
from pyctrd.oci.platforms import Selection, parse
from pyctrd.operations.diagnose import diagnose_all
from pyctrd.operations.images import overview
from pyctrd.operations.images.filters import ImageFilters
from tests.support.images import Blob, to_json
from tests.support.memory import MemoryStore, target_of

RECORDS = 10_000
SHARED = Blob(b"base", OCI_LAYER_GZIP)
HOST = Selection(host=parse("linux/amd64"))


def image(number: int) -> list[Blob]:
    """Return the blobs of an image, the manifest first: one layer is its own, one is in every image."""
    config = Blob(to_json({"os": "linux", "architecture": "amd64", "n": number}), OCI_CONFIG)
    layer = Blob(str(number).encode(), OCI_LAYER_GZIP)
    document = {
        "schemaVersion": 2,
        "config": config.descriptor,
        "layers": [layer.descriptor, SHARED.descriptor],
    }
    return [Blob(to_json(document), OCI_MANIFEST), config, layer, SHARED]


class Counted:
    """A service whose calls from outside are counted."""

    def __init__(self, name: str, service: Any, calls: Counter[str], reads: Counter[Digest]) -> None:
        self._name, self._service, self._calls, self._reads = name, service, calls, reads

    def __getattr__(self, method: str) -> Any:
        self._calls[f"{self._name}.{method}"] += 1
        if method != "read_several":
            return getattr(self._service, method)

        def read_several(documents: Iterable[Descriptor]) -> Iterator[tuple[Digest, bytes]]:
            for digest, raw in self._service.read_several(documents):
                self._reads[digest] += 1
                yield digest, raw

        return read_several


def counted(store: MemoryStore) -> tuple[Counter[str], Counter[Digest]]:
    """Count the calls of a store from now on; return all of them, and reads by digest."""
    calls, reads = Counter[str](), Counter[Digest]()
    for name in ("content", "images", "containers", "snapshots", "leases", "namespaces"):
        setattr(store, name, Counted(name, getattr(store, name), calls, reads))
    return calls, reads


def filled(records_of_each: int, records: int = RECORDS) -> MemoryStore:
    store = MemoryStore()
    for number in range(records // records_of_each):
        blobs = image(number)
        store.put({blob.digest: blob.data for blob in blobs})
        target = target_of(blobs[0].descriptor)
        for place in range(records_of_each):
            name = f"registry.example/team/app-{number}:{place}"
            store.state.images[name] = ImageRecord(name=name, target=target)
    return store


@pytest.mark.parametrize(
    ("records_of_each", "filters", "lists"),
    [
        (1, (), 1),
        (5, (), 1),
        (5, ("reference=*/team/app-1*", "dangling=false"), 1),
        (5, ("name~=app-1", "complete=true"), 2),
    ],
)
def test_there_is_no_call_for_each_image_and_blob(
    records_of_each: int, filters: Sequence[str], lists: int
) -> None:
    store = filled(records_of_each)
    calls, reads = counted(store)
    items = overview([store], ImageFilters(filters), HOST)
    documents = 2 * RECORDS // records_of_each
    assert calls.pop("content.read_several") < documents / 50
    assert calls == {"images.list": lists, "content.list": 1, "containers.list": 1}
    assert set(reads.values()) == {1}
    assert len(reads) == documents
    assert len(items) == (RECORDS if not filters else sum("app-1" in name for name in store.state.images))
    assert {(item.status, item.bytes_shared) for item in items} == {("complete", len(SHARED.data))}
    assert items[0].bytes_own == sum(len(blob.data) for blob in image(0)[:3]) or filters


@pytest.mark.parametrize("what", [overview, diagnose_all])
def test_memory_is_a_kilobyte_for_each_image(what: Callable[..., Sequence[object]]) -> None:
    """In addition to the store's own values, and to the documents that are kept for a while."""
    records = 4000
    store = filled(1, records)
    tracemalloc.start()
    try:
        items = what([store], selection=HOST)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(items) == records
    assert peak < (3 << 20) + records * 1500

"""Stored content is put under the current lease; absent content is reported."""

from __future__ import annotations

from collections.abc import Collection

import msgspec
import pytest

from pyctrd.errors import ContentError
from pyctrd.oci.mediatypes import OCI_LAYER_GZIP
from pyctrd.oci.model import Descriptor, Digest
from pyctrd.steps.local import RememberedStore
from pyctrd.steps.pin import pin
from tests.support.memory import MemoryStore

DATA = b"a layer"
LAYER = Descriptor(media_type=OCI_LAYER_GZIP, digest=Digest.of(DATA), size=len(DATA))


@pytest.fixture
def store() -> MemoryStore:
    store = MemoryStore()
    store.put({LAYER.digest: DATA})
    return store


def test_stored_content_stays_as_long_as_the_lease(store: MemoryStore) -> None:
    with store.lease("test") as leased:
        assert pin(leased, [LAYER, LAYER]) == []
        store.collect_garbage()
        assert store.state.blobs == {LAYER.digest: DATA}
    store.collect_garbage()
    assert (store.state.blobs, store.state.ingests) == ({}, {})


def test_absent_content_leaves_nothing_behind(store: MemoryStore) -> None:
    store.content.delete(LAYER.digest)
    with store.lease("test") as leased:
        assert pin(leased, [LAYER, LAYER]) == [LAYER]
        assert store.state.ingests == {}


def test_content_that_is_collected_meanwhile_is_absent(
    store: MemoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is looked up after it is pinned, even if it was known before."""
    with store.lease("test") as leased:
        remembered = RememberedStore(leased)
        assert remembered.content.info(LAYER.digest).size == len(DATA)
        inner = leased.pin

        def collected_before(digests: Collection[Digest]) -> None:
            store.collect_garbage()
            inner(digests)

        monkeypatch.setattr(leased, "pin", collected_before)
        assert pin(remembered, [LAYER]) == [LAYER]


def test_content_is_pinned_and_looked_up_once(store: MemoryStore, monkeypatch: pytest.MonkeyPatch) -> None:
    with store.lease("test") as leased:
        remembered = RememberedStore(leased)
        assert pin(remembered, [LAYER]) == []
        monkeypatch.setattr(leased, "pin", None)
        monkeypatch.setattr(leased.content, "infos", None)
        assert pin(remembered, [LAYER]) == []


def test_content_of_another_size_is_an_error(store: MemoryStore) -> None:
    other = msgspec.structs.replace(LAYER, size=LAYER.size + 1)
    message = f"unexpected copy size for blobs/sha256/{LAYER.digest.encoded}: the store has 7 bytes, .* 8$"
    with store.lease("test") as leased, pytest.raises(ContentError, match=message):
        pin(leased, [other])

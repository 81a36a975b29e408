"""Hostile and damaged archives, in memory: one clear error each, and the store is as before."""

from __future__ import annotations

import datetime as dt
import io
from typing import IO, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyctrd.archive import decompress
from pyctrd.archive.reader import open_archive
from pyctrd.errors import ArchiveError, PyctrdError
from pyctrd.operations.load import LoadOptions, load
from tests.support import shapes
from tests.support.hostile import HOSTILE, files
from tests.support.memory import MemoryStore
from tests.support.selections import selected
from tests.support.tars import COMPRESSORS, Pipe, tar_of


def attempt(store: MemoryStore, data: bytes, *, pipe: bool) -> None:
    source = cast("IO[bytes]", Pipe(data, 100_000)) if pipe else io.BytesIO(data)
    with open_archive(source) as archive:
        load(store, archive, LoadOptions(platforms=selected()), today=dt.date(2026, 11, 27))


def check_nothing_is_left(store: MemoryStore) -> None:
    assert store.images.list() == ()
    assert store.state.leases == {}
    store.collect_garbage()
    assert (store.state.blobs, store.state.ingests, store.state.snapshots) == ({}, {}, {})


@pytest.mark.parametrize("pipe", [False, True], ids=["file", "pipe"])
@pytest.mark.parametrize("name", HOSTILE)
def test_it_is_refused(name: str, pipe: bool) -> None:
    case = HOSTILE[name]
    store = MemoryStore()
    with pytest.raises(PyctrdError, match=case.message) as caught:
        attempt(store, case.data(), pipe=pipe)
    assert caught.value.exit_code == case.code
    check_nothing_is_left(store)


def test_a_bomb_of_zeros_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decompress, "_ALWAYS_ALLOWED_BYTES", 1 << 20)
    monkeypatch.setattr(decompress, "_MAX_RATIO", 10)
    store = MemoryStore()
    data = COMPRESSORS["gzip"](tar_of({"a": bytes(8 << 20), **files()}))
    with pytest.raises(ArchiveError, match="decompression bomb"):
        attempt(store, data, pipe=True)
    check_nothing_is_left(store)


ARCHIVE = tar_of(files(shapes.single()))


@given(st.lists(st.tuples(st.integers(0, len(ARCHIVE) - 1), st.integers(0, 255)), max_size=3), st.booleans())
def test_a_changed_archive_is_loaded_whole_or_not_at_all(changes: list[tuple[int, int]], pipe: bool) -> None:
    data = bytearray(ARCHIVE)
    for position, value in changes:
        data[position] = value
    store = MemoryStore()
    try:
        attempt(store, bytes(data), pipe=pipe)
    except PyctrdError:
        check_nothing_is_left(store)
    else:
        store.collect_garbage()
        assert set(store.state.blobs) == set(shapes.single().blobs)

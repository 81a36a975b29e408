"""Usage and prune of ten thousand images: calls do not grow with images and blobs, nor memory per image."""

from __future__ import annotations

import datetime as dt
import gc
import tracemalloc
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from pyctrd.oci.resources import DiskSpace
from pyctrd.operations.prune_images import FreeSpace, PrunePolicy, prune
from pyctrd.operations.usage import usage
from tests.support.ageing import AgeingStore

NOW = dt.datetime(2026, 11, 27, tzinfo=dt.UTC)
MANY = 10_000
BASES = 10
DISK = DiskSpace(root="/", bytes=1 << 40, bytes_free=0)
NEWEST = 2
SERVICES = ("content", "images", "leases", "containers", "namespaces", "snapshots", "introspection")

WORK: dict[str, Callable[[AgeingStore], Any]] = {
    "usage": lambda store: usage(store, store.state.now),
    "unused": lambda store: dry(store, unused=True),
    "until free": lambda store: dry(
        store, until_free=FreeSpace(bytes=2000 * len(store.state.images)), keep_last=NEWEST
    ),
}


def dry(store: AgeingStore, **policy: Any) -> Any:
    return prune(store, PrunePolicy(**policy), store.state.now, disk=lambda: DISK, dry_run=True)


def filled(count: int) -> AgeingStore:
    """Return a namespace with images of common bases; every tenth has a container."""
    store = AgeingStore(NOW)
    for number in range(BASES):
        store.add_snapshot(f"base {number}", f"base {number - 1}" if number else "")
    for number in range(count):
        store.add_snapshot(f"top {number}", f"base {number % BASES}")
        layers = [b"base %d" % below for below in range(number % BASES)]
        target = store.add_image(b"document %d" % number, [*layers, b"own %d" % number], f"top {number}")
        store.name(f"registry.example/{number % 100}:{number}", target)
        if number % 10 == 0:
            store.run(f"c{number}", f"registry.example/{number % 100}:{number}")
        store.advance(dt.timedelta(minutes=1))
    store.in_namespace("other")
    return store


class Counted:
    """Anything, whose methods are counted when they are called from outside."""

    def __init__(self, inner: Any, name: str, calls: Counter[str]) -> None:
        self._inner, self._name, self._calls = inner, name, calls

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._inner, name)
        path = f"{self._name}.{name}".lstrip(".")
        if name in SERVICES:
            return Counted(found, path, self._calls)
        if not callable(found):
            return found

        def counted(*args: Any, **named: Any) -> Any:
            self._calls[path] += 1
            return found(*args, **named)

        return counted


@pytest.fixture(scope="module")
def many() -> AgeingStore:
    return filled(MANY)


@pytest.mark.parametrize("work", WORK)
def test_ten_thousand_images_take_a_few_calls(many: AgeingStore, work: str) -> None:
    """A list of each kind, and a call for each snapshot whose size is asked for; no document is read."""
    calls = Counter[str]()
    counted: Any = Counted(many, "", calls)
    result = WORK[work](counted)
    sizes = calls.pop("snapshots.usage", 0)
    # Between batches of sizes it is checked whether the client was closed.
    assert calls.pop("check_open", 0) <= 1 + sizes // 256
    assert sum(calls.values()) <= 15, calls
    if work == "usage":
        assert (len(result.images), sizes) == (MANY, len(many.state.snapshots))
    else:
        assert 0 < len(result.images) <= MANY * 9 // 10
        assert sizes <= MANY


@pytest.mark.parametrize("work", WORK)
def test_memory_does_not_grow_per_image(work: str) -> None:
    """The peak is as many bytes for each image, however many there are, and few."""
    few, some = (peak(filled(count), WORK[work]) for count in (100, 500))
    assert some / 500 < 1.3 * few / 100
    assert some / 500 < 12 << 10


def peak(store: AgeingStore, work: Callable[[AgeingStore], Any]) -> int:
    """Return the peak of memory, in bytes, that work allocates."""
    gc.collect()
    tracemalloc.start()
    try:
        work(store)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()

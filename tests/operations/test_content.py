"""Single blobs, in a store in memory: found, copied, printed, labelled and removed."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyctrd.errors import (
    AmbiguousReference,
    ContentError,
    DigestMismatch,
    InUse,
    InvalidInput,
    InvalidReference,
    NotFound,
    Remedy,
)
from pyctrd.oci.expiry import EXPIRE_LABEL
from pyctrd.oci.model import Descriptor, Digest, ImageRecord
from pyctrd.operations import content
from tests.support.memory import MemoryStore
from tests.support.memory_content import Resource

NOW = dt.datetime(2026, 11, 27, tzinfo=dt.UTC)
DOCUMENT = b'{"b": [1, 2],  "a": "\xc3\xa4"}'
BINARY = bytes(range(256)) * 20_000
JSON = Digest.of(DOCUMENT)
LAYER = Digest.of(BINARY)


@pytest.fixture
def store() -> MemoryStore:
    made = MemoryStore()
    made.put({JSON: DOCUMENT, LAYER: BINARY})
    return made


# --- find -------------------------------------------------------------------------------------------------


def test_a_blob_is_found_by_the_beginning_of_its_digest(store: MemoryStore) -> None:
    for text in (LAYER, LAYER[:20], LAYER.encoded, LAYER.encoded[:12]):
        assert content.find_blob(store.content, text) == LAYER


def test_an_unknown_beginning_is_not_found(store: MemoryStore) -> None:
    unknown = next(digit for digit in "0123456789abcdef" if digit not in (JSON.encoded[0], LAYER.encoded[0]))
    with pytest.raises(NotFound, match=f"content digest {unknown}: not found") as refused:
        content.find_blob(store.content, unknown)
    assert refused.value.remedy == Remedy(method="content.list")


def test_a_beginning_of_several_blobs_is_ambiguous() -> None:
    store = MemoryStore()
    digests = [Digest(f"sha256:ab{number}{61 * '0'}") for number in (1, 2)]
    store.put(dict.fromkeys(digests, b""))
    with pytest.raises(AmbiguousReference) as refused:
        content.find_blob(store.content, "ab")
    assert refused.value.candidates == tuple(digests)
    assert content.find_blob(store.content, "ab1") == digests[0]


@pytest.mark.parametrize(
    "text", ["", "sha256:", "zz", "sha256:zz", "md5:00", f"sha256:{65 * '0'}", "a/b:c", "a."]
)
def test_anything_else_is_no_digest(text: str) -> None:
    with pytest.raises(InvalidReference, match="invalid checksum digest format"):
        content.blob_prefix(text)


# --- read -------------------------------------------------------------------------------------------------


@given(offset=st.integers(0, len(BINARY)), length=st.none() | st.integers(0, 2 * len(BINARY)))
def test_a_part_of_a_blob_is_that_slice(offset: int, length: int | None) -> None:
    store = MemoryStore()
    store.put({LAYER: BINARY})
    end = None if length is None else offset + length
    chunks = content.chunks_of(store.content, LAYER, offset=offset, length=length)
    assert b"".join(map(bytes, chunks)) == BINARY[offset:end]


def test_an_offset_after_the_end_is_refused(store: MemoryStore) -> None:
    with pytest.raises(InvalidInput, match=f"has only {len(BINARY)} bytes"):
        list(content.chunks_of(store.content, LAYER, offset=len(BINARY) + 1))


def test_a_damaged_blob_is_an_error_only_as_a_whole(store: MemoryStore) -> None:
    store.state.blobs[LAYER] = BINARY[:-1] + b"x"
    with pytest.raises(DigestMismatch, match="is corrupt"):
        list(content.chunks_of(store.content, LAYER))
    assert b"".join(map(bytes, content.chunks_of(store.content, LAYER, offset=1))).endswith(b"x")


def test_a_document_is_printed_indented_or_as_it_is(store: MemoryStore) -> None:
    assert content.is_document(store.content, JSON)
    text = content.document(store.content, JSON)
    assert text == '{\n  "b": [\n    1,\n    2\n  ],\n  "a": "ä"\n}'
    assert json.loads(text) == json.loads(DOCUMENT)
    assert content.document(store.content, JSON, indent=False).encode() == DOCUMENT


@pytest.mark.parametrize("data", [BINARY, b"", b"text", b"{", b'{"a": 1} and more', b'{"a": "\xff"}'])
def test_other_content_is_no_document(data: bytes) -> None:
    store = MemoryStore()
    digest = Digest.of(data)
    store.put({digest: data})
    with pytest.raises(ContentError, match="is not a JSON document") as refused:
        content.document(store.content, digest)
    assert refused.value.remedy == Remedy(method="content.save", images=(digest,))


# --- labels -----------------------------------------------------------------------------------------------


def test_labels_are_set_and_removed_one_by_one(store: MemoryStore) -> None:
    content.label(store.content, JSON, {"a": "1", "b": "2"})
    assert content.label(store.content, JSON, {"a": "", "c": "3"}).labels == {"b": "2", "c": "3"}


@pytest.mark.parametrize("key", ["containerd.io/gc.root", "containerd.io/gc.ref.content.l.0"])
def test_labels_of_the_collector_need_force(store: MemoryStore, key: str) -> None:
    with pytest.raises(InvalidInput, match=f"label {key}: the garbage collector acts on it"):
        content.label(store.content, JSON, {"a": "1", key: ""})
    assert store.state.labels == {}
    assert content.label(store.content, JSON, {key: "x"}, force=True).labels == {key: "x"}


def test_a_label_that_is_too_long_is_refused(store: MemoryStore) -> None:
    with pytest.raises(InvalidInput, match="greater than maximum size"):
        content.label(store.content, JSON, {"a": "x" * 5000})


# --- remove -----------------------------------------------------------------------------------------------


def image_of(store: MemoryStore, digest: Digest) -> None:
    target = Descriptor(media_type="application/vnd.oci.image.manifest.v1+json", digest=digest, size=1)
    store.state.images["docker.io/library/app:1"] = ImageRecord(name="docker.io/library/app:1", target=target)


def test_unused_content_is_removed(store: MemoryStore) -> None:
    assert [info.digest for info in content.remove(store, [LAYER, LAYER.encoded], now=NOW)] == [LAYER]
    assert set(store.state.blobs) == {JSON}


def test_content_in_use_is_not_removed_and_the_users_are_named(store: MemoryStore) -> None:
    image_of(store, JSON)
    store.content.set_labels(JSON, {"containerd.io/gc.ref.content.l.0": LAYER})
    store.content.set_labels(LAYER, {"containerd.io/gc.root": "x"})
    store.leases.create("held", {"pyctrd.io/command": "pull"})
    store.state.leases["held"].add(Resource("content", LAYER))
    with pytest.raises(InUse) as refused:
        content.remove(store, [LAYER], now=NOW)
    assert set(refused.value.users) == {
        f"content {JSON} (label containerd.io/gc.ref.content.l.0)",
        "its label containerd.io/gc.root",
        "lease held (pull)",
    }
    with pytest.raises(InUse, match=r"is in use by image docker.io/library/app:1"):
        content.remove(store, [JSON, LAYER], now=NOW)
    assert set(store.state.blobs) == {JSON, LAYER}
    assert len(content.remove(store, [LAYER, JSON], force=True, now=NOW)) == 2
    assert store.state.blobs == {}


def test_content_that_goes_with_what_refers_to_it_is_not_in_use(store: MemoryStore) -> None:
    store.content.set_labels(JSON, {"containerd.io/gc.ref.content.l.0": LAYER})
    assert len(content.remove(store, [LAYER, JSON], now=NOW)) == 2


def test_an_expired_lease_protects_nothing(store: MemoryStore) -> None:
    store.leases.create("old", {EXPIRE_LABEL: "2026-11-26T00:00:00Z"})
    store.state.leases["old"].add(Resource("content", LAYER))
    assert content.remove(store, [LAYER], now=NOW)


def test_nothing_is_removed_if_one_is_unknown(store: MemoryStore) -> None:
    with pytest.raises(NotFound):
        content.remove(store, [LAYER, f"sha256:{64 * '0'}"], now=NOW)
    assert set(store.state.blobs) == {JSON, LAYER}


def counted(method: Callable[..., Any], calls: list[str]) -> Callable[..., Any]:
    def call(*args: Any) -> Any:
        calls.append(method.__qualname__)
        return method(*args)

    return call


def test_calls_do_not_grow_with_the_number_of_blobs(monkeypatch: pytest.MonkeyPatch) -> None:
    store = MemoryStore()
    digests = [Digest.of(bytes([number])) for number in range(200)]
    store.put(dict.fromkeys(digests, b"x"))
    for number in range(3):
        store.leases.create(str(number), {})
    calls: list[str] = []
    for service, method in (
        (store.images, "list"),
        (store.content, "list"),
        (store.leases, "list"),
        (store.leases, "resources"),
    ):
        monkeypatch.setattr(service, method, counted(getattr(service, method), calls))
    content.users(store, digests, NOW)
    assert sorted(calls) == [
        *("MemoryContent.list", "MemoryImages.list", "MemoryLeases.list"),
        *(3 * ["MemoryLeases.resources"]),
    ]

"""Archives whose documents say something else, under digests that are right: loaded whole or not at all."""

from __future__ import annotations

import copy
import datetime as dt
import io
import json
from collections.abc import Callable, Mapping, Sequence
from typing import IO, Any, cast

from hypothesis import example, given
from hypothesis import strategies as st

from pyctrd.archive.reader import open_archive
from pyctrd.errors import PyctrdError
from pyctrd.operations.load import LoadOptions, load
from tests.support import images, shapes
from tests.support.images import digest_of, to_json
from tests.support.memory import MemoryStore
from tests.support.selections import selected
from tests.support.tars import Pipe, tar_of

NAME = "registry.example/team/app:latest"
LAYOUT = {"imageLayoutVersion": "1.0.0"}
IMAGE = shapes.multi(["linux/amd64", "linux/arm64"])
CHILD = IMAGE.child(0)

TEXTS = (
    "",
    "a",
    "../x",
    "a\0b",
    "\ud800",
    "x" * 5000,
    "sha256:",
    f"sha256:{'0' * 64}",
    NAME,
    "linux",
    "amd64",
)
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-1, 3),
    st.sampled_from([-(1 << 63), 1 << 63, 1 << 200, 1e308, 0.5]),
    st.sampled_from([*TEXTS, IMAGE.digest, CHILD.digest, images.OCI_INDEX, images.OCI_MANIFEST]),
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
    max_leaves=5,
)
DESCRIPTOR = ("mediaType", "digest", "size", "annotations", "platform", "urls", "data", "artifactType")
KEYS = st.sampled_from([*DESCRIPTOR, "manifests", "layers", "config", "subject", "rootfs", "os", "\ud800"])
Change = Callable[[Any], Any]


def changed(document: Any, steps: Sequence[int], how: str, key: str, value: object) -> Any:
    """A copy of a document, with a change at the place that the steps lead to."""
    if steps and isinstance(document, dict | list) and document:
        chosen = steps[0] % len(document)
        at: Any = sorted(document)[chosen] if isinstance(document, dict) else chosen
        copied = copy.copy(document)
        if how == "remove" and len(steps) == 1:
            del copied[at]
        else:
            copied[at] = changed(copied[at], steps[1:], how, key, value)
        return copied
    if how == "add" and isinstance(document, dict):
        return {**document, key: value}
    if how == "add" and isinstance(document, list):
        return [*document, value]
    if how == "repeat" and isinstance(document, list):
        return document * 2
    return value


def changes() -> st.SearchStrategy[Change]:
    """A change of one place in any document."""
    steps = st.lists(st.integers(0, 20), max_size=6)
    how = st.sampled_from(["replace", "remove", "add", "repeat"])
    return st.builds(lambda *chosen: lambda document: changed(document, *chosen), steps, how, KEYS, VALUES)


def layout(where: str, change: Change) -> dict[str, bytes]:
    """The layout of an image with one document changed; what refers to it has its digest and size."""

    def made(level: str, document: Any) -> bytes:
        return to_json(change(document) if level == where else document)

    def refer(descriptor: dict[str, Any], data: bytes) -> None:
        descriptor.update(digest=digest_of(data), size=len(data))

    manifest = CHILD.document()
    config = made("config", json.loads(IMAGE.blobs[manifest["config"]["digest"]]))
    refer(manifest["config"], config)
    manifest_data = made("manifest", manifest)
    index = IMAGE.document()
    refer(index["manifests"][0], manifest_data)
    index_data = made("index", index)
    entry: dict[str, Any] = {**IMAGE.root, "annotations": {"io.containerd.image.name": NAME}}
    refer(entry, index_data)
    blobs = [*IMAGE.blobs.values(), config, manifest_data, index_data]
    return {
        **{f"blobs/sha256/{digest_of(data)[7:]}": data for data in blobs},
        "index.json": made("index.json", {"schemaVersion": 2, "manifests": [entry]}),
        "oci-layout": made("oci-layout", LAYOUT),
    }


def docker(where: str, change: Change) -> dict[str, bytes]:
    """Docker's archive of an image with one document changed."""
    layers = [images.layer({"a": b"b"}, compression=""), images.layer({"c": b"d"}, compression="")]
    config = json.loads(images.config(layers).data)
    listed = [{"Config": "config.json", "RepoTags": [NAME], "Layers": ["0.tar", "1.tar"]}]
    return {
        **{f"{number}.tar": made.data for number, made in enumerate(layers)},
        "config.json": to_json(change(config) if where == "config" else config),
        "manifest.json": to_json(change(listed) if where == "manifest.json" else listed),
    }


def check(files: Mapping[str, bytes], *, pipe: bool, everything: bool) -> None:
    """Load the files: the image is recorded and complete, or there is an error and nothing is left."""
    data = tar_of(files)
    store = MemoryStore()
    options = LoadOptions(platforms=selected("all") if everything else selected())
    try:
        with open_archive(cast("IO[bytes]", Pipe(data, 10_000)) if pipe else io.BytesIO(data)) as archive:
            result = load(store, archive, options, today=dt.date(2026, 11, 27))
        loaded = {image.target.digest for image in result.images}
    except PyctrdError as error:
        if error.exit_code not in (1, 3, 4):
            raise
        loaded = set()
    store.collect_garbage()
    assert {record.target.digest for record in store.images.list()} == loaded
    assert loaded <= set(store.state.blobs)
    assert loaded or (store.state.blobs, store.state.snapshots) == ({}, {})
    assert (store.state.ingests, store.state.leases) == ({}, {})


@given(
    st.sampled_from(["config", "manifest", "index", "index.json", "oci-layout"]),
    changes(),
    st.booleans(),
    st.booleans(),
)
def test_the_documents_of_a_layout(where: str, change: Change, pipe: bool, everything: bool) -> None:
    check(layout(where, change), pipe=pipe, everything=everything)


@given(st.sampled_from(["config", "manifest.json"]), changes(), st.booleans())
def test_the_documents_of_dockers_archive(where: str, change: Change, pipe: bool) -> None:
    check(docker(where, change), pipe=pipe, everything=False)


@given(st.sampled_from(["index.json", "oci-layout", "manifest.json"]), st.binary(max_size=200), st.booleans())
@example("index.json", b"[" * 100_000, False)
@example("index.json", b'{"a":' * 100_000, True)
@example("manifest.json", b"1" * 100_000, False)
def test_bytes_that_are_no_json(where: str, data: bytes, pipe: bool) -> None:
    files = docker("", lambda document: document) if where == "manifest.json" else layout("", lambda one: one)
    check({**files, where: data}, pipe=pipe, everything=False)

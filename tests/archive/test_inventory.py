"""Inventories: the JSON, what is none, and which snapshots count."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest

from pyctrd.archive.inventory import Inventory, StoredBlob, StoredImage, have_of, parse, read
from pyctrd.errors import InvalidInput
from pyctrd.oci.model import Digest

ONE, TWO, THREE = (Digest.of(text) for text in (b"one", b"two", b"three"))
INVENTORY = Inventory(
    namespace="k8s.io",
    blobs=(StoredBlob(digest=ONE, size=3),),
    snapshots={"overlayfs": (ONE, TWO), "native": (TWO, THREE), "unused": ()},
    images=(StoredImage(name="docker.io/library/é:1", digest=ONE),),
    default_snapshotter="overlayfs",
)


def test_the_json_is_read_back(tmp_path: Path) -> None:
    raw = INVENTORY.to_json()
    assert json.loads(raw) == {
        "schema": 1,
        "namespace": "k8s.io",
        "blobs": [{"digest": ONE, "size": 3}],
        "snapshots": {"overlayfs": [ONE, TWO], "native": [TWO, THREE], "unused": []},
        "images": [{"name": "docker.io/library/é:1", "digest": ONE}],
        "default_snapshotter": "overlayfs",
    }
    path = tmp_path / "inventory.json"
    path.write_bytes(raw)
    for source in (INVENTORY, path, str(path), io.BytesIO(raw)):
        assert read(source) == INVENTORY
    with pytest.raises(TypeError):
        INVENTORY.snapshots["other"] = ()  # type: ignore[index]


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"images 3",
        b"[]",
        b"{}",
        b'{"schema":"1"}',
        b"\xff\xfe",
        b'{"schema":1,"blobs":[{"digest":"nonsense","size":1}]}',
        b'{"schema":1,"blobs":[{"size":1}]}',
        b'{"schema":1,"snapshots":{"overlayfs":["mine"]}}',
        b"[" * 100_000,
    ],
    ids=range(10),
)
def test_what_is_no_inventory(raw: bytes) -> None:
    with pytest.raises(InvalidInput, match=r"^a file is not an inventory: ") as caught:
        parse(raw, "a file")
    assert "pyctrd inventory --format json" in str(caught.value.hint)


def test_fields_of_later_versions_are_ignored_and_other_schemas_refused() -> None:
    assert parse(b'{"schema":1,"new":{},"blobs":[]}', "x") == Inventory(namespace="")
    with pytest.raises(InvalidInput, match="x: an inventory of schema 2; this version reads schema 1"):
        parse(b'{"schema":2}', "x")


def test_snapshots_count_where_an_import_unpacks() -> None:
    """Without the default's name, only those that are everywhere are certain."""
    found = have_of(INVENTORY)
    assert (found.blobs, found.chain_ids) == (frozenset({ONE}), frozenset({ONE, TWO}))
    unknown = parse(
        json.dumps({"schema": 1, "snapshots": {"a": [ONE, TWO], "b": [TWO], "c": []}}).encode(), "x"
    )
    assert have_of(unknown).chain_ids == {TWO}
    assert have_of(Inventory(namespace="", default_snapshotter="overlayfs")).chain_ids == frozenset()

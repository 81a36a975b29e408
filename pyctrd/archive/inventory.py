"""Inventories: what a namespace of a containerd has, as a file, so that an archive can leave it out."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any, Final, TypeAlias

import msgspec

from pyctrd.errors import InvalidInput, InvalidReference
from pyctrd.oci.model import EMPTY, Digest, freeze

SCHEMA: Final = 1
_HINT: Final = "write one with `pyctrd inventory --format json`, on the machine that will load the archive"


class StoredBlob(msgspec.Struct, frozen=True, kw_only=True):
    """A blob in a content store; the size is in bytes."""

    digest: Digest
    size: int


class StoredImage(msgspec.Struct, frozen=True, kw_only=True):
    """The name of an image, and the digest of its target."""

    name: str
    digest: Digest


class Inventory(msgspec.Struct, frozen=True, kw_only=True):
    """What a namespace has: blobs, the chain ids of unpacked layers by snapshotter, and images.

    `default_snapshotter` is where an import unpacks if it is not told otherwise; "" if it is not known.
    """

    namespace: str
    blobs: tuple[StoredBlob, ...] = ()
    snapshots: Mapping[str, tuple[Digest, ...]] = EMPTY
    images: tuple[StoredImage, ...] = ()
    default_snapshotter: str = ""

    def __post_init__(self) -> None:
        freeze(self, "snapshots")

    def document(self) -> dict[str, Any]:
        """Return the inventory as `pyctrd inventory --format json` prints it."""
        return {
            "schema": SCHEMA,
            "namespace": self.namespace,
            "blobs": [{"digest": str(item.digest), "size": item.size} for item in self.blobs],
            "snapshots": {name: list(map(str, chains)) for name, chains in self.snapshots.items()},
            "images": [{"name": item.name, "digest": str(item.digest)} for item in self.images],
            "default_snapshotter": self.default_snapshotter,
        }

    def to_json(self) -> bytes:
        """Return the inventory as JSON, for a file."""
        return msgspec.json.encode(self.document())


class Have(msgspec.Struct, frozen=True, kw_only=True):
    """What need not be in an archive: blobs, and layers whose snapshots have these chain ids."""

    blobs: frozenset[Digest] = frozenset()
    chain_ids: frozenset[Digest] = frozenset()


def have_of(inventory: Inventory) -> Have:
    """Return what an import into this namespace finds there.

    Only snapshots of the snapshotter that it unpacks into help it; if that is not known, those that every
    snapshotter in use has.
    """
    if inventory.default_snapshotter:
        chains = frozenset(inventory.snapshots.get(inventory.default_snapshotter, ()))
    else:
        used = [frozenset(found) for found in inventory.snapshots.values() if found]
        chains = frozenset.intersection(*used) if used else frozenset()
    return Have(blobs=frozenset(item.digest for item in inventory.blobs), chain_ids=chains)


# --- read a file ------------------------------------------------------------------------------------------

InventorySource: TypeAlias = Inventory | str | os.PathLike[str] | IO[bytes]


class _Blob(msgspec.Struct):
    digest: str
    size: int


class _Image(msgspec.Struct):
    name: str
    digest: str


class _File(msgspec.Struct):
    schema: int
    namespace: str = ""
    blobs: list[_Blob] = []
    snapshots: dict[str, list[str]] = {}
    images: list[_Image] = []
    default_snapshotter: str = ""


def read(source: InventorySource) -> Inventory:
    """Return an inventory from a file (`-` is stdin) or a binary stream. Raises InvalidInput."""
    if isinstance(source, Inventory):
        return source
    if isinstance(source, str | os.PathLike):
        name = os.fspath(source)
        try:
            raw = sys.stdin.buffer.read() if name == "-" else Path(name).read_bytes()
        except OSError as error:
            raise InvalidInput(f"cannot read the inventory {name}: {error.strerror or error}") from error
        return parse(raw, name)
    if hasattr(source, "read"):
        return parse(source.read(), str(getattr(source, "name", "the stream")))
    raise InvalidInput(f"have={source!r}: must be an Inventory, a path or a binary stream")


def parse(raw: bytes, name: str) -> Inventory:
    """Return an inventory from its JSON; `name` is for messages. Raises InvalidInput."""
    try:
        found = msgspec.json.decode(raw, type=_File)
        if found.schema != SCHEMA:
            raise InvalidInput(
                f"{name}: an inventory of schema {found.schema}; this version reads schema {SCHEMA}"
            )
        return Inventory(
            namespace=found.namespace,
            blobs=tuple(StoredBlob(digest=Digest(item.digest), size=item.size) for item in found.blobs),
            snapshots={name: tuple(map(Digest, chains)) for name, chains in found.snapshots.items()},
            images=tuple(StoredImage(name=item.name, digest=Digest(item.digest)) for item in found.images),
            default_snapshotter=found.default_snapshotter,
        )
    except (msgspec.DecodeError, UnicodeDecodeError, InvalidReference) as error:
        raise InvalidInput(f"{name} is not an inventory: {error}", hint=_HINT) from error

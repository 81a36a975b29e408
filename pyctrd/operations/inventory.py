"""Inventory: what a namespace has, for an archive that leaves it out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from pyctrd.archive.inventory import Inventory, StoredBlob, StoredImage
from pyctrd.errors import InvalidReference
from pyctrd.oci.model import Digest
from pyctrd.ports import Store


def inventory(store: Store, snapshotters: Sequence[str]) -> Inventory:
    """List the blobs, images and unpacked layers of a namespace. Raises DaemonError."""
    found = {name: tuple(sorted(_chain_ids(store, name))) for name in sorted(snapshotters)}
    return Inventory(
        namespace=store.namespace,
        blobs=tuple(
            StoredBlob(digest=item.digest, size=item.size)
            for item in sorted(store.content.list(), key=lambda item: item.digest)
        ),
        snapshots={name: chains for name, chains in found.items() if chains},
        images=tuple(
            StoredImage(name=item.name, digest=item.target.digest)
            for item in sorted(store.images.list(), key=lambda item: item.name)
        ),
        default_snapshotter=store.default_snapshotter(),
    )


def _chain_ids(store: Store, snapshotter: str) -> Iterator[Digest]:
    """Yield the names of committed snapshots that are chain ids: containers have others, and active ones."""
    for snapshot in store.snapshots.list(snapshotter):
        if snapshot.kind == "committed":
            try:
                yield Digest(snapshot.name)
            except InvalidReference:
                continue

"""Check a content store: every blob is read and hashed, every record is looked up."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

from integration.rig import bolt
from integration.rig.containerd import Containerd
from integration.rig.store import snapshot_of

_HOME = "root/io.containerd.content.v1.content/blobs"


def damage(daemon: Containerd) -> list[str]:
    """Describe what is wrong with the store, from its files; no client may use it. [] if it is consistent.

    The garbage collector may run meanwhile, as after a restart: it removes records before their blobs, so
    what a record lacks must still be missing when the records are read again.

    Problems: a blob whose digest differs from its name; a record of a blob that is missing or has another
    size; an image whose target is missing; a lease without an expiry.
    """
    home = daemon.root / _HOME
    meta = bolt.read(daemon.root / "root/io.containerd.metadata.v1.bolt/meta.db")
    found = list(_wrong_bytes(home))
    for namespace in meta.at("v1").buckets:
        broken = list(_broken_promises(daemon, namespace, home))
        if broken:
            again = set(_broken_promises(daemon, namespace, home))
            found += [f"{namespace}: {one}" for one in broken if one in again]
    return found


def _wrong_bytes(home: Path) -> Iterator[str]:
    for blob in sorted(home.glob("*/*")):
        try:
            with blob.open("rb") as file:
                actual = hashlib.file_digest(file, blob.parent.name).hexdigest()
        except FileNotFoundError:  # collected meanwhile
            continue
        if actual != blob.name:
            yield f"blob {blob.name} has the bytes of {actual}"


def _broken_promises(daemon: Containerd, namespace: str, home: Path) -> Iterator[str]:
    state = snapshot_of(daemon, namespace)
    for digest, record in state["content"].items():
        place = home / digest.replace(":", "/")
        try:
            size = place.stat().st_size
        except FileNotFoundError:
            yield f"content {digest} has no blob"
            continue
        if size != record["size"]:
            yield f"content {digest} has {size} bytes, its record {record['size']}"
    for name, image in state["images"].items():
        if image["target"]["digest"] not in state["content"]:
            yield f"image {name} has no target"
    for name, lease in state["leases"].items():
        if "containerd.io/gc.expire" not in lease["labels"]:
            yield f"lease {name} never expires"

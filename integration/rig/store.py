"""The contents of a namespace of a real containerd, as values that can be compared with ==.

Read from containerd's own metadata files (buckets: containerd core/metadata/buckets.go and
core/snapshots/storage/bolt.go); test_rig.py compares them with the output of ctr.
"""

from __future__ import annotations

import time
from contextlib import suppress
from pathlib import Path
from typing import TypedDict

from integration.rig import bolt
from integration.rig.containerd import Containerd

_KINDS = {1: "View", 2: "Active", 3: "Committed"}
_TIME_LABELS = frozenset({"containerd.io/gc.expire"})


class Content(TypedDict):
    """A committed blob; size in bytes."""

    size: int
    labels: dict[str, str]


class Target(TypedDict):
    """The descriptor of an image record."""

    mediaType: str
    digest: str
    size: int
    annotations: dict[str, str]


class Image(TypedDict):
    """An image record."""

    target: Target
    labels: dict[str, str]


class Snapshot(TypedDict):
    """A snapshot; kind is View, Active or Committed; parent "" for none."""

    parent: str
    kind: str
    labels: dict[str, str]


class Lease(TypedDict):
    """A lease (its expiry shows as a label without value) with the resources it holds, "type/id" sorted."""

    labels: dict[str, str]
    resources: list[str]


class Ingest(TypedDict):
    """An unfinished write: its expected digest ("" if unknown) and its bytes so far."""

    expected: str
    offset: int


class State(TypedDict):
    """Everything of a namespace except containers and times; `snapshots` by snapshotter and key."""

    content: dict[str, Content]
    images: dict[str, Image]
    snapshots: dict[str, dict[str, Snapshot]]
    leases: dict[str, Lease]
    ingests: dict[str, Ingest]


def snapshot_of(daemon: Containerd, namespace: str = "default") -> State:
    """The current state of the namespace. Call `collect_garbage` first if a client has just ended."""
    for _ in range(200):
        # A snapshot was added, committed or removed between the writes of the two files, which take long on a
        # busy disk.
        with suppress(KeyError):
            return _state(daemon, namespace)
        time.sleep(0.05)
    return _state(daemon, namespace)


def _state(daemon: Containerd, namespace: str) -> State:
    home = daemon.root / "root"
    spaces = bolt.read(home / "io.containerd.metadata.v1.bolt/meta.db")
    space = spaces.at("v1", namespace)
    return {
        "content": {
            digest: {"size": _number(blob.values["size"]), "labels": blob.at("labels").texts()}
            for digest, blob in space.at("content", "blob").buckets.items()
        },
        "images": {name: _image(record) for name, record in space.at("images").buckets.items()},
        "snapshots": {
            name: _snapshots(home / f"io.containerd.snapshotter.v1.{name}/metadata.db", keys)
            for name, keys in space.at("snapshots").buckets.items()
            if keys.buckets
        },
        "leases": {name: _lease(record) for name, record in space.at("leases").buckets.items()},
        "ingests": _ingests(home / "io.containerd.content.v1.content/ingest", space.at("content", "ingests")),
    }


def digests(daemon: Containerd, namespace: str = "default") -> set[str]:
    """Digests of all committed blobs of the namespace."""
    return set(snapshot_of(daemon, namespace)["content"])


def collect_garbage(daemon: Containerd, namespace: str = "default") -> None:
    """Collect garbage: the deletion of a lease with --sync waits for a full collection."""
    daemon.ctr("leases", "create", "--id", "rig-gc", namespace=namespace)
    daemon.ctr("leases", "delete", "--sync", "rig-gc", namespace=namespace)


def prune_references(daemon: Containerd, namespace: str = "default") -> None:
    """Run `ctr content prune references`, again if a blob that it has listed is collected meanwhile."""
    for _ in range(20):
        done = daemon.ctr("content", "prune", "references", namespace=namespace, check=False)
        if b": not found" not in done.stderr:
            break
    assert done.returncode == 0, done.stderr.decode(errors="replace")


def _number(data: bytes) -> int:
    """A Go binary.PutVarint number: 7 bits a byte, lowest first, zigzag."""
    value = sum((byte & 0x7F) << (7 * place) for place, byte in enumerate(data))
    return (value >> 1) ^ -(value & 1)


def _image(record: bolt.Bucket) -> Image:
    target = record.at("target")
    return {
        "target": {
            "mediaType": target.text("mediatype"),
            "digest": target.text("digest"),
            "size": _number(target.values["size"]),
            "annotations": record.at("annotations").texts(),
        },
        "labels": record.at("labels").texts(),
    }


def _snapshots(own: Path, keys: bolt.Bucket) -> dict[str, Snapshot]:
    """The namespace's snapshots; the kind is in the snapshotter's own file, under the name in meta.db."""
    backend = bolt.read(own).at("v1", "snapshots")
    return {
        key: {
            "parent": record.text("parent"),
            "kind": _KINDS[backend.at(record.text("name")).values["kind"][0]],
            "labels": record.at("labels").texts(),
        }
        for key, record in keys.buckets.items()
    }


def _lease(record: bolt.Bucket) -> Lease:
    labels = record.at("labels").texts()
    held: list[str] = []
    for kind in ("content", "ingests", "images"):
        held.extend(f"{kind}/{name}" for name in record.at(kind).values)
    for snapshotter, keys in record.at("snapshots").buckets.items():
        held.extend(f"snapshots/{snapshotter}/{key}" for key in keys.values)
    return {
        "labels": {key: "" if key in _TIME_LABELS else value for key, value in labels.items()},
        "resources": sorted(held),
    }


def _ingests(folder: Path, records: bolt.Bucket) -> dict[str, Ingest]:
    """Unfinished writes; each has a folder with its backend ref and the bytes so far."""
    written = {}
    for place in folder.glob("*/ref"):
        with suppress(FileNotFoundError):  # committed meanwhile
            data = place.with_name("data")
            written[place.read_text()] = data.stat().st_size if data.exists() else 0
    return {
        ref: {"expected": record.text("expected"), "offset": written.get(record.text("ref"), 0)}
        for ref, record in records.buckets.items()
    }

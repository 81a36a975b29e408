"""Snapshots: their disk space, how they are stacked, and removing them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import msgspec

from pyctrd.amounts import listed
from pyctrd.errors import FailedPrecondition, NotFound, Remedy
from pyctrd.oci.model import Mount, SnapshotInfo
from pyctrd.ports import Store
from pyctrd.steps.gc_nodes import Node
from pyctrd.steps.snapshot_sizes import SnapshotSizes


class SnapshotSize(msgspec.Struct, frozen=True, kw_only=True):
    """A snapshot with its own disk space, without its parents: bytes of its blocks, and inodes."""

    snapshot: SnapshotInfo
    bytes: int
    inodes: int


class SnapshotLevel(msgspec.Struct, frozen=True, kw_only=True):
    """A snapshot in a tree: at depth 0 are those without a parent."""

    snapshot: SnapshotInfo
    depth: int


def sizes(store: Store, snapshotter: str, keys: Sequence[str] = ()) -> tuple[SnapshotSize, ...]:
    """Return the disk space of snapshots, or of all of them, sorted by key: a call for each.

    Raises NotFound if one of `keys` does not exist.
    """
    if keys:
        infos = [store.snapshots.stat(snapshotter, key) for key in dict.fromkeys(keys)]
    else:
        infos = sorted(store.snapshots.list(snapshotter), key=lambda info: info.name)
    nodes = {Node("snapshot", info.name, snapshotter): info for info in infos}
    return tuple(
        SnapshotSize(snapshot=nodes[node], bytes=usage.bytes, inodes=usage.inodes)
        for node, usage in SnapshotSizes(store).usage_of(nodes).items()
        if usage is not None
    )


def tree(store: Store, snapshotter: str) -> tuple[SnapshotLevel, ...]:
    """Return all snapshots, each followed by its children. Raises DaemonError."""
    infos = {info.name: info for info in store.snapshots.list(snapshotter)}
    children: dict[str, list[SnapshotInfo]] = {}
    for info in sorted(infos.values(), key=lambda info: info.name):
        children.setdefault(info.parent if info.parent in infos else "", []).append(info)
    return tuple(_walk(children))


def _walk(children: Mapping[str, Sequence[SnapshotInfo]]) -> Iterator[SnapshotLevel]:
    stack = [(info, 0) for info in reversed(children.get("", ()))]
    while stack:
        info, depth = stack.pop()
        yield SnapshotLevel(snapshot=info, depth=depth)
        stack += [(child, depth + 1) for child in reversed(children.get(info.name, ()))]


def mounts(store: Store, snapshotter: str, key: str) -> tuple[Mount, ...]:
    """Return the mounts of an active snapshot or a view. Raises NotFound, FailedPrecondition."""
    try:
        return tuple(store.snapshots.mounts(snapshotter, key))
    except (NotFound, FailedPrecondition) as error:
        error.hint = "only an active snapshot or a view can be mounted; list the snapshots"
        error.remedy = Remedy(method="snapshots.list")
        raise


def remove(store: Store, snapshotter: str, keys: Sequence[str]) -> tuple[str, ...]:
    """Remove snapshots, children before their parents, and return their keys in this order.

    Raises NotFound before anything is removed, FailedPrecondition for a snapshot that has other children.
    """
    wanted = [store.snapshots.stat(snapshotter, key).name for key in dict.fromkeys(keys)]
    depths = {level.snapshot.name: level.depth for level in tree(store, snapshotter)}
    ordered = sorted(wanted, key=lambda key: -depths.get(key, 0))
    for key in ordered:
        try:
            store.snapshots.remove(snapshotter, key)
        except NotFound:  # another client was faster
            continue
        except FailedPrecondition as error:
            above = sorted(info.name for info in store.snapshots.list(snapshotter) if info.parent == key)
            if above:
                error.hint = f"{key} is the parent of {listed(above)}: remove these first"
            raise
    return tuple(ordered)

"""What a removal frees: predicted from the references in the namespace, and carried out.

The collector works in the whole containerd, but what it keeps in one namespace depends only on the records
of that namespace. Blobs are stored once for all namespaces, so that a blob which another namespace has stays
on the disk (core/metadata/content.go); snapshots belong to one namespace.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Collection, Iterable
from contextlib import suppress

import msgspec

from pyctrd.errors import NotFound
from pyctrd.oci.model import Digest
from pyctrd.ports import Containerd
from pyctrd.steps.gc_graph import GcGraph, Rules
from pyctrd.steps.gc_nodes import Kind, Node
from pyctrd.steps.gc_state import read_state
from pyctrd.steps.snapshot_sizes import SnapshotSizes


class RemovedBlob(msgspec.Struct, frozen=True, kw_only=True):
    """A blob that a removal takes out of the namespace.

    If it is `shared`, another namespace has it, too, and its `size` in bytes stays on the disk.
    """

    digest: Digest
    size: int
    shared: bool = False


class RemovedSnapshot(msgspec.Struct, frozen=True, kw_only=True):
    """A snapshot that a removal frees, with its bytes on the disk."""

    snapshotter: str
    key: str
    bytes: int


class Reference(msgspec.Struct, frozen=True, kw_only=True):
    """An object in a chain of references, and how the one before it refers to it.

    `kind` is image, content, snapshot, lease, container or ingest. `via` is the key of a label, or `target`,
    `parent`, `lease` or `snapshot` for the fields of records; for the first object of a chain it is "", or
    the label because of which it is kept without a reference. `here` is false for an object that does not
    exist, to which others are attached. `purpose` says which command of pyctrd made a lease.
    """

    kind: Kind
    name: str
    via: str = ""
    snapshotter: str = ""
    here: bool = True
    expires_at: dt.datetime | None = None
    purpose: str = ""


class KeptImage(msgspec.Struct, frozen=True, kw_only=True):
    """A removed name whose content stays: `by` is what keeps it, such as other names of the image."""

    name: str
    by: tuple[Reference, ...] = ()


class RemoveResult(msgspec.Struct, frozen=True, kw_only=True):
    """What a removal frees, or would free: images, and all that nothing refers to without them.

    `bytes` is what becomes free on the disk: blobs that are not shared, and snapshots. Records and content
    that nothing referred to before, and expired leases and images, are included: the collector takes them at
    the same time. `kept` are the images whose content stays although their names are removed, and
    `bytes_missing` what prune could not free for `until_free`.
    """

    images: tuple[str, ...] = ()
    blobs: tuple[RemovedBlob, ...] = ()
    snapshots: tuple[RemovedSnapshot, ...] = ()
    leases: tuple[str, ...] = ()
    ingests: tuple[str, ...] = ()
    kept: tuple[KeptImage, ...] = ()
    bytes_missing: int = 0

    @property
    def bytes(self) -> int:
        """How many bytes become free on the disk."""
        return sum(blob.size for blob in self.blobs if not blob.shared) + sum(
            snapshot.bytes for snapshot in self.snapshots
        )


def read_graph(store: Containerd, now: dt.datetime) -> GcGraph:
    """Read the references in a namespace, by the rules of its containerd. Raises DaemonError."""
    return GcGraph(read_state(store), Rules.of(store.version().version), now)


class Removal:
    """Removals from one namespace, whose references were read before.

    containerd is asked once for the blobs of each other namespace, and once for the size of each snapshot
    that goes, however many removals are predicted.
    """

    def __init__(self, store: Containerd, graph: GcGraph) -> None:
        self._store = store
        self._graph = graph
        self._shared: frozenset[Digest] | None = None
        self._sizes = SnapshotSizes(store)

    def predict(self, removed: Collection[Node]) -> RemoveResult:
        """Return what is gone when these objects are deleted and the collector has run.

        Raises DaemonError.
        """
        return self.measure(self.going(removed))

    def going(self, removed: Collection[Node]) -> frozenset[Node]:
        """Return these objects and what the next collection removes without them."""
        there = frozenset(node for node in removed if node in self._graph)
        return there | self._graph.without(there).collected()

    def measure(self, nodes: Iterable[Node]) -> RemoveResult:
        """Return objects as a result, with their sizes. Raises DaemonError."""
        by_kind: dict[str, list[Node]] = {}
        for node in sorted(nodes):
            by_kind.setdefault(node.kind, []).append(node)
        snapshots = self._sizes.of(by_kind.get("snapshot", ()))
        return RemoveResult(
            images=_names(by_kind.get("image", ())),
            blobs=tuple(map(self._blob, by_kind.get("content", ()))),
            snapshots=tuple(
                RemovedSnapshot(snapshotter=node.snapshotter, key=node.name, bytes=size)
                for node, size in snapshots.items()
            ),
            leases=_names(by_kind.get("lease", ())),
            ingests=_names(by_kind.get("ingest", ())),
        )

    def carry_out(self, removed: Collection[Node], *, sync: bool = True) -> RemoveResult:
        """Delete images, leases and ingests; return what is gone, or without `sync`, what will be.

        What another client deletes first is not an error. Without `sync` the collector runs later. Raises
        DaemonError.
        """
        going = self.going(removed)
        planned = self.measure(going)
        for node in sorted(removed):
            self._store.check_open()
            with suppress(NotFound):
                self._delete(node)
        if not sync:
            return planned
        self._store.collect_garbage()
        return _without(planned, self._still_here(going))

    def _delete(self, node: Node) -> None:
        match node.kind:
            case "image":
                self._store.images.delete(node.name)
            case "lease":
                self._store.leases.delete(node.name)
            case "ingest":
                self._store.content.abort(node.name)
            case "content":
                self._store.content.delete(Digest(node.name))
            case "snapshot":
                self._store.snapshots.remove(node.snapshotter, node.name)
            case _:
                raise ValueError(f"a {node.kind} is not removed")

    def _blob(self, node: Node) -> RemovedBlob:
        info = self._graph.state.content[Digest(node.name)]
        shared = info.digest in self._in_other_namespaces()
        return RemovedBlob(digest=info.digest, size=info.size, shared=shared)

    def _in_other_namespaces(self) -> frozenset[Digest]:
        if self._shared is None:
            store, content = self._store, self._graph.state.content
            self._shared = frozenset(
                info.digest
                for namespace in store.namespaces.list()
                if namespace.name != store.namespace
                for info in store.in_namespace(namespace.name).content.list()
                if info.digest in content
            )
        return self._shared

    def _still_here(self, nodes: Collection[Node]) -> frozenset[Node]:
        """Return what is not gone: another client refers to it since the references were read."""
        kinds = {node.kind for node in nodes}
        store = self._store
        found = set[Node]()
        if "image" in kinds:
            found.update(Node("image", image.name) for image in store.images.list())
        if "content" in kinds:
            found.update(
                node for info in store.content.list() if (node := Node("content", str(info.digest))) in nodes
            )
        if "lease" in kinds:
            found.update(Node("lease", lease.id) for lease in store.leases.list())
        if "ingest" in kinds:
            found.update(Node("ingest", ingest.ref) for ingest in store.content.ingests())
        for snapshotter in sorted({node.snapshotter for node in nodes if node.kind == "snapshot"}):
            found.update(Node("snapshot", one.name, snapshotter) for one in store.snapshots.list(snapshotter))
        return frozenset(found.intersection(nodes))


def _names(nodes: Iterable[Node]) -> tuple[str, ...]:
    return tuple(node.name for node in nodes)


def _without(result: RemoveResult, kept: Collection[Node]) -> RemoveResult:
    return RemoveResult(
        images=tuple(name for name in result.images if Node("image", name) not in kept),
        blobs=tuple(blob for blob in result.blobs if Node("content", str(blob.digest)) not in kept),
        snapshots=tuple(
            item for item in result.snapshots if Node("snapshot", item.key, item.snapshotter) not in kept
        ),
        leases=tuple(name for name in result.leases if Node("lease", name) not in kept),
        ingests=tuple(ref for ref in result.ingests if Node("ingest", ref) not in kept),
    )

"""How much disk space images take: blobs and snapshots, their own and shared, and what can be freed.

What belongs to an image is what the garbage collector keeps for it, by the labels of its content; no document
is read.
"""

from __future__ import annotations

import datetime as dt
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping

import msgspec

from pyctrd.oci.image_names import first_name
from pyctrd.oci.model import EMPTY, Digest, freeze
from pyctrd.ports import Containerd
from pyctrd.steps.gc_graph import GcGraph, Node
from pyctrd.steps.image_use import ImageUse, all_uses
from pyctrd.steps.removal import read_graph
from pyctrd.steps.snapshot_sizes import SnapshotSizes


class SpaceTotal(msgspec.Struct, frozen=True, kw_only=True):
    """Objects of one kind: their number, their bytes, and how many of these can be freed."""

    count: int = 0
    bytes: int = 0
    reclaimable: int = 0


class SnapshotTotal(SpaceTotal, frozen=True, kw_only=True):
    """All snapshots, and by `snapshotters` those of each one that has any."""

    snapshotters: Mapping[str, SpaceTotal] = EMPTY

    def __post_init__(self) -> None:
        freeze(self, "snapshotters")


class ImageUsage(msgspec.Struct, frozen=True, kw_only=True):
    """The bytes of one image in the content store and in snapshots.

    All records of one target are one image: `names` are all of its names, `name` is the first one with a tag.
    `bytes_shared` is what another image has, too, `bytes_own` the rest, and `bytes_reclaimable` what becomes
    free when the image is removed: nothing while a container uses it or it is pinned.
    """

    namespace: str
    name: str
    names: tuple[str, ...]
    target: Digest
    bytes_blobs: int
    bytes_snapshots: int
    bytes_own: int
    bytes_shared: int
    bytes_reclaimable: int
    in_use: bool = False
    pinned: bool = False


class UsageResult(msgspec.Struct, frozen=True, kw_only=True):
    """The disk space of images, blobs, snapshots and unfinished writes, in bytes.

    Reclaimable is what becomes free when all images are removed that no container uses and that are not
    pinned; and what the next run of the garbage collector frees anyway. A blob counts once, however many
    namespaces have it, and can be freed only if all of them let go of it.
    """

    images: tuple[ImageUsage, ...] = ()
    blobs: SpaceTotal = SpaceTotal()
    snapshots: SnapshotTotal = SnapshotTotal()
    ingests: SpaceTotal = SpaceTotal()

    @property
    def bytes(self) -> int:
        """The bytes of blobs, snapshots and unfinished writes together."""
        return self.blobs.bytes + self.snapshots.bytes + self.ingests.bytes

    @property
    def reclaimable(self) -> int:
        """How many of `bytes` can be freed."""
        return self.blobs.reclaimable + self.snapshots.reclaimable + self.ingests.reclaimable


def usage(store: Containerd, now: dt.datetime, *, all_namespaces: bool = False) -> UsageResult:
    """Return the disk space of a namespace, or of all of them.

    Each namespace takes a call for each kind of object, and one for each lease and each snapshot. Raises
    DaemonError.
    """
    stores = {store.namespace: store}
    for namespace in store.namespaces.list():
        stores.setdefault(namespace.name, store.in_namespace(namespace.name))
    owners = Counter(info.digest for each in stores.values() for info in each.content.list())
    if not all_namespaces:
        stores = {store.namespace: store}
    found = _Usage(owners)
    for name in sorted(stores):
        found.add(stores[name], now)
    return found.result()


class _Usage:
    """The sums over namespaces; `owners` are the numbers of namespaces that have a blob."""

    def __init__(self, owners: Mapping[Digest, int]) -> None:
        self._owners = owners
        self._images: list[ImageUsage] = []
        self._blobs: dict[Digest, int] = {}
        self._released: Counter[Digest] = Counter()
        self._snapshotters: dict[str, SpaceTotal] = {}
        self._ingests = SpaceTotal()

    def add(self, store: Containerd, now: dt.datetime) -> None:
        """Add a namespace."""
        graph = read_graph(store, now)
        state = graph.state
        sizes = dict(SnapshotSizes(store).of(node for node in graph if node.kind == "snapshot"))
        used = all_uses(graph)
        removable = [
            Node("image", name) for name, image in state.images.items() if image.target.digest not in used
        ]
        going = graph.without(removable).collected()
        for node, size in sizes.items():
            total = self._snapshotters.get(node.snapshotter, SpaceTotal())
            self._snapshotters[node.snapshotter] = _more(total, size, node in going)
        for digest, info in state.content.items():
            node = Node("content", str(digest))
            sizes[node] = self._blobs[digest] = info.size
            self._released[digest] += node in going
        for ref, ingest in state.ingests.items():
            self._ingests = _more(self._ingests, ingest.offset, Node("ingest", ref) in going)
        self._images += self._each_image(graph, sizes, used)

    def _each_image(
        self, graph: GcGraph, sizes: Mapping[Node, int], used: Mapping[Digest, ImageUse]
    ) -> Iterator[ImageUsage]:
        records = graph.state.images
        names: dict[Digest, list[str]] = {}
        for name in sorted(records):
            names.setdefault(records[name].target.digest, []).append(name)
        holders: Counter[Node] = Counter()
        for each in names.values():
            holders.update(_reached(graph, each))
        kept = frozenset(graph) - graph.without([Node("image", name) for name in records]).collected()
        for target, each in names.items():
            nodes = [node for node in _reached(graph, each) if node in sizes]
            own = [node for node in nodes if holders[node] == 1]
            use = used.get(target, ImageUse())
            yield ImageUsage(
                namespace=graph.state.namespace,
                name=first_name(each),
                names=tuple(each),
                target=target,
                bytes_blobs=sum(sizes[node] for node in nodes if node.kind == "content"),
                bytes_snapshots=sum(sizes[node] for node in nodes if node.kind == "snapshot"),
                bytes_own=sum(sizes[node] for node in own),
                bytes_shared=sum(sizes[node] for node in nodes if holders[node] > 1),
                bytes_reclaimable=0
                if use
                else sum(sizes[node] for node in own if node not in kept and not self._is_elsewhere(node)),
                in_use=bool(use.containers),
                pinned=bool(use.pinned),
            )

    def _is_elsewhere(self, node: Node) -> bool:
        """Whether another namespace has a blob."""
        return node.kind == "content" and self._owners.get(Digest(node.name), 0) > 1

    def result(self) -> UsageResult:
        """Return the sums."""
        parts = self._snapshotters
        return UsageResult(
            images=tuple(self._images),
            blobs=SpaceTotal(
                count=len(self._blobs),
                bytes=sum(self._blobs.values()),
                reclaimable=sum(
                    size
                    for digest, size in self._blobs.items()
                    if self._released[digest] >= max(self._owners.get(digest, 0), 1)
                ),
            ),
            snapshots=SnapshotTotal(
                count=sum(part.count for part in parts.values()),
                bytes=sum(part.bytes for part in parts.values()),
                reclaimable=sum(part.reclaimable for part in parts.values()),
                snapshotters={name: parts[name] for name in sorted(parts)},
            ),
            ingests=self._ingests,
        )


def _reached(graph: GcGraph, names: Iterable[str]) -> frozenset[Node]:
    """Return what the records of one image keep."""
    return graph.reached_from(Node("image", name) for name in names)


def _more(total: SpaceTotal, size: int, reclaimable: bool) -> SpaceTotal:
    return SpaceTotal(
        count=total.count + 1,
        bytes=total.bytes + size,
        reclaimable=total.reclaimable + (size if reclaimable else 0),
    )

"""How much disk space images take: blobs and snapshots, their own and shared, and what can be freed.

What belongs to an image is what the garbage collector keeps for it, by the labels of its content; no document
is read.
"""

from __future__ import annotations

import datetime as dt
from array import array
from collections import Counter
from collections.abc import Collection, Container, Iterator, Mapping

import msgspec

from pyctrd.oci.image_names import first_name
from pyctrd.oci.model import EMPTY, Digest, freeze
from pyctrd.ports import Containerd
from pyctrd.steps.gc_graph import GcGraph
from pyctrd.steps.gc_nodes import Node
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

    Each namespace takes a call for each kind of object, and one for each lease and each snapshot; if there
    are several, the content of each is listed once more. Raises DaemonError.
    """
    stores = {store.namespace: store}
    for namespace in store.namespaces.list():
        stores.setdefault(namespace.name, store.in_namespace(namespace.name))
    found = _Usage(_shared(stores.values()))
    for name in sorted(stores) if all_namespaces else [store.namespace]:
        found.add(stores[name], now)
    return found.result()


def _shared(stores: Collection[Containerd]) -> Mapping[Digest, int]:
    """Return the blobs that several namespaces have, and how many have each."""
    if len(stores) == 1:
        return {}
    owners = Counter(info.digest for store in stores for info in store.content.list())
    return {digest: count for digest, count in owners.items() if count > 1}


class _Objects:
    """The blobs and snapshots of a namespace, by number: sizes, and whether other namespaces have them."""

    def __init__(self, graph: GcGraph, store: Containerd, shared: Container[Digest]) -> None:
        self.sizes = array("q", bytes(8 * graph.count))
        self.blobs = bytearray(graph.count)
        self.shared = bytearray(graph.count)
        for digest, info in graph.state.content.items():
            number = graph.number(Node("content", digest))
            if number is not None:
                self.sizes[number] = info.size
                self.blobs[number] = True
                self.shared[number] = digest in shared
        for node, size in SnapshotSizes(store).of(node for node in graph if node.kind == "snapshot").items():
            number = graph.number(node)
            if number is not None:
                self.sizes[number] = size


class _Usage:
    """The sums over namespaces; `shared` are the blobs that several have, with the number of namespaces."""

    def __init__(self, shared: Mapping[Digest, int]) -> None:
        self._shared = shared
        self._images: list[ImageUsage] = []
        self._blobs = SpaceTotal()
        # Of shared blobs, in how many namespaces something may keep them.
        self._keepers: dict[Digest, int] = {}
        self._snapshotters: dict[str, SpaceTotal] = {}
        self._ingests = SpaceTotal()

    def add(self, store: Containerd, now: dt.datetime) -> None:
        """Add a namespace."""
        graph = read_graph(store, now)
        objects = _Objects(graph, store, self._shared)
        used = all_uses(graph)
        goes = graph.without(
            Node("image", name)
            for name, image in graph.state.images.items()
            if image.target.digest not in used
        ).collected_numbers()
        for number, node in enumerate(graph):
            match node.kind:
                case "content":
                    self._add_blob(Digest(node.name), objects.sizes[number], bool(goes[number]))
                case "snapshot":
                    total = self._snapshotters.get(node.snapshotter, SpaceTotal())
                    total = _more(total, objects.sizes[number], bool(goes[number]))
                    self._snapshotters[node.snapshotter] = total
                case "ingest":
                    offset = graph.state.ingests[node.name].offset
                    self._ingests = _more(self._ingests, offset, bool(goes[number]))
                case _:
                    pass
        self._images += _each_image(graph, objects, used)

    def _add_blob(self, digest: Digest, size: int, goes: bool) -> None:
        if digest not in self._shared:
            self._blobs = _more(self._blobs, size, goes)
            return
        if digest not in self._keepers:
            self._keepers[digest] = self._shared[digest]
            self._blobs = _more(self._blobs, size, False)
        if goes:
            self._keepers[digest] -= 1
            if not self._keepers[digest]:
                self._blobs = msgspec.structs.replace(self._blobs, reclaimable=self._blobs.reclaimable + size)

    def result(self) -> UsageResult:
        """Return the sums."""
        parts = self._snapshotters
        return UsageResult(
            images=tuple(self._images),
            blobs=self._blobs,
            snapshots=SnapshotTotal(
                count=sum(part.count for part in parts.values()),
                bytes=sum(part.bytes for part in parts.values()),
                reclaimable=sum(part.reclaimable for part in parts.values()),
                snapshotters={name: parts[name] for name in sorted(parts)},
            ),
            ingests=self._ingests,
        )


def _each_image(graph: GcGraph, objects: _Objects, used: Mapping[Digest, ImageUse]) -> Iterator[ImageUsage]:
    """Yield the images of a namespace, in the order of their first names."""
    records = graph.state.images
    names: dict[Digest, list[str]] = {}
    for name in sorted(records):
        names.setdefault(records[name].target.digest, []).append(name)
    goes_alone = graph.without(Node("image", name) for name in records).collected_numbers()
    reached = [
        array("q", graph.numbers_from(Node("image", name) for name in each)) for each in names.values()
    ]
    holders = array("q", bytes(8 * graph.count))
    for numbers in reached:
        for number in numbers:
            holders[number] += 1
    sizes = objects.sizes
    for (target, each), numbers in zip(names.items(), reached, strict=True):
        own = [number for number in numbers if holders[number] == 1]
        bytes_all = sum(sizes[number] for number in numbers)
        bytes_blobs = sum(sizes[number] for number in numbers if objects.blobs[number])
        bytes_own = sum(sizes[number] for number in own)
        use = used.get(target, ImageUse())
        yield ImageUsage(
            namespace=graph.state.namespace,
            name=first_name(each),
            names=tuple(each),
            target=target,
            bytes_blobs=bytes_blobs,
            bytes_snapshots=bytes_all - bytes_blobs,
            bytes_own=bytes_own,
            bytes_shared=bytes_all - bytes_own,
            bytes_reclaimable=0
            if use
            else sum(sizes[number] for number in own if goes_alone[number] and not objects.shared[number]),
            in_use=bool(use.containers),
            pinned=bool(use.pinned),
        )


def _more(total: SpaceTotal, size: int, reclaimable: bool) -> SpaceTotal:
    return SpaceTotal(
        count=total.count + 1,
        bytes=total.bytes + size,
        reclaimable=total.reclaimable + (size if reclaimable else 0),
    )

"""Remove images by policies, and what interrupted work has left behind.

An image is all records of one target: they go together or not at all, so that CRI, which has three records of
each image, stays consistent. An image that a container uses or that is pinned is never removed, nor is one of
the names that are to be kept. What remains is narrowed by each policy.
"""

from __future__ import annotations

import datetime as dt
import math
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from typing import Final, Self

import msgspec

from pyctrd.errors import InvalidInput
from pyctrd.oci.expiry import EXPIRE_LABEL
from pyctrd.oci.image_names import has_tag, repository
from pyctrd.oci.model import Digest, SnapshotInfo
from pyctrd.oci.resources import DiskSpace, Lease, LeaseResource
from pyctrd.ports import Containerd
from pyctrd.steps import kubelet
from pyctrd.steps.gc_graph import GcGraph
from pyctrd.steps.gc_nodes import Node
from pyctrd.steps.gc_state import GcState
from pyctrd.steps.image_use import all_uses, uses
from pyctrd.steps.removal import Removal, RemoveResult, read_graph

# How long a pull makes no progress until what it has left is taken for a leftover.
QUIET: Final = dt.timedelta(hours=1)
POLICIES: Final = (
    *("dangling", "unused", "older_than", "keep_last"),
    *("until_free", "expired", "leftovers"),
)
_EXTRACTION: Final = "extract-"
_FREE: Final = re.compile(r"([0-9]{1,15}(?:\.[0-9]{1,9})?) ?(?:(%)|([KMGT])?(?:i?B)?)", re.ASCII)
_NEVER: Final = dt.datetime.max.replace(tzinfo=dt.UTC)


class FreeSpace(msgspec.Struct, frozen=True, kw_only=True):
    """How much of a disk is to be free: a number of bytes, or a percentage of the disk."""

    bytes: int = 0
    percent: float = 0

    @classmethod
    def parse(cls, value: object) -> Self:
        """Parse a number of bytes, a size in powers of 1024 like `20G` or `500MiB`, or `15%`.

        Raises InvalidInput.
        """
        if isinstance(value, int) and not isinstance(value, bool) and value > 0:
            return cls(bytes=value)
        found = _FREE.fullmatch(value) if isinstance(value, str) else None
        amount = float(found[1]) if found else 0
        if found is None or amount <= 0 or (found[2] and amount > 100):
            raise InvalidInput(f"`until_free`: {value!r} is not a size like 20G, or a percentage like 15%")
        if found[2]:
            return cls(percent=amount)
        return cls(bytes=math.ceil(amount * 1024 ** " KMGT".index(found[3] or " ")))

    def missing(self, space: DiskSpace) -> int:
        """Return how many bytes still have to become free; zero or less if there are enough."""
        return self.bytes + math.ceil(space.bytes * self.percent / 100) - space.bytes_free


class PrunePolicy(msgspec.Struct, frozen=True, kw_only=True):
    """Which images to remove, and what else; `keep` are regular expressions searched in names."""

    dangling: bool = False
    unused: bool = False
    older_than: dt.timedelta | None = None
    keep_last: int | None = None
    until_free: FreeSpace | None = None
    keep: tuple[re.Pattern[str], ...] = ()
    expired: bool = False
    leftovers: bool = False

    @property
    def narrows(self) -> bool:
        """Whether it limits which images are removed."""
        return self.older_than is not None or self.keep_last is not None

    @property
    def is_about_images(self) -> bool:
        """Whether images are removed."""
        return self.dangling or self.unused or self.until_free is not None or self.narrows

    def check(self) -> None:
        """Raise InvalidInput if there is nothing to remove, or if it is not clear which images."""
        if not (self.is_about_images or self.expired or self.leftovers):
            raise InvalidInput(
                f"nothing is removed without a policy: {', '.join(f'`{name}`' for name in POLICIES)}",
                hint="`dangling` removes images without a tag, `unused` all that no container uses",
            )
        chosen = self.dangling or self.unused or self.until_free is not None
        if self.narrows and not chosen and (self.expired or self.leftovers):
            raise InvalidInput(
                "`older_than` and `keep_last` are about images, `expired` and `leftovers` are not: add "
                "`dangling`, `unused` or `until_free`, which say which images to remove"
            )


def prune(
    store: Containerd,
    policy: PrunePolicy,
    now: dt.datetime,
    *,
    disk: Callable[[], DiskSpace],
    confirm: Callable[[RemoveResult], bool] = lambda _planned: True,
    dry_run: bool = False,
) -> RemoveResult:
    """Remove what a policy says, and run the garbage collector; return what is gone.

    `disk` is asked only for `until_free`, and `confirm` before anything is removed. With `dry_run` nothing is
    changed, and the result is what would be gone. Raises InvalidInput, Unsupported if `disk` is not known,
    DaemonError.
    """
    policy.check()
    missing = policy.until_free.missing(disk()) if policy.until_free is not None else None
    graph = read_graph(store, now)
    removal = Removal(store, graph)
    chosen = _Choice(graph, policy, now).nodes(removal, missing)
    result = removal.predict(chosen)
    if not dry_run:
        if not confirm(_with_missing(result, missing)):
            return RemoveResult()
        result = removal.carry_out(_unchanged(store, graph, chosen))
    return _with_missing(result, missing)


def _with_missing(result: RemoveResult, missing: int | None) -> RemoveResult:
    return msgspec.structs.replace(result, bytes_missing=max(0, (missing or 0) - result.bytes))


def _unchanged(store: Containerd, graph: GcGraph, chosen: Collection[Node]) -> frozenset[Node]:
    """Return the chosen objects without those that are in use or were changed since they were read.

    Sizes are known by now, so that only the deletions follow.
    """
    state = graph.state
    images = {image.name: image for image in store.images.list()}
    used = set(uses(images.values(), store.containers.list()))
    read = state.images
    for name in images.keys() | read.keys():
        if images.get(name) != read.get(name):
            used.update(each[name].target.digest for each in (images, read) if name in each)
    written = {ingest.ref for ingest in store.content.ingests() if state.ingests.get(ingest.ref) != ingest}

    def is_unchanged(node: Node) -> bool:
        match node.kind:
            case "image":
                return read[node.name].target.digest not in used
            case "lease":
                return not any(
                    item.type == "ingests" and item.id in written for item in state.leases[node.name][1]
                )
            case _:
                return node.name not in written

    return frozenset(filter(is_unchanged, chosen))


class _Image(msgspec.Struct, frozen=True, kw_only=True):
    """An image: the names of its records, and when the last of these was changed."""

    target: Digest
    names: tuple[str, ...]
    changed: dt.datetime

    @property
    def nodes(self) -> Sequence[Node]:
        return [Node("image", name) for name in self.names]

    @property
    def age(self) -> tuple[dt.datetime, str]:
        """The key to sort by, oldest first."""
        return self.changed, self.names[0]


class _Choice:
    """Chooses what to remove."""

    def __init__(self, graph: GcGraph, policy: PrunePolicy, now: dt.datetime) -> None:
        self._graph = graph
        self._policy = policy
        self._now = now
        self._images = sorted(_images(graph), key=lambda image: image.age)
        self._used = all_uses(graph)

    def nodes(self, removal: Removal, missing: int | None) -> frozenset[Node]:
        """Return what to remove; `missing` is how many bytes are enough, None if all of it is to go."""
        others = set[Node]()
        if self._policy.expired:
            others.update(self._expired())
        if self._policy.leftovers:
            others.update(_leftovers(self._graph, self._now))
        images: Sequence[_Image] = tuple(self._removable())
        if missing is not None:
            images = _Enough(self._graph, removal, images, others).of(missing)
        return frozenset(others.union(*(image.nodes for image in images)))

    def _is_kept(self, image: _Image) -> bool:
        """Whether an image is never removed."""
        patterns = self._policy.keep
        return image.target in self._used or any(
            pattern.search(name) for pattern in patterns for name in image.names
        )

    def _removable(self) -> Iterator[_Image]:
        """Yield the images that the policies choose, oldest first."""
        policy = self._policy
        if not policy.is_about_images:
            return
        newest = self._newest(policy.keep_last or 0)
        only_dangling = policy.dangling and not policy.unused
        for image in self._images:
            if self._is_kept(image) or image.target in newest:
                continue
            if only_dangling and any(map(has_tag, image.names)):
                continue
            if policy.older_than is not None and self._now - image.changed < policy.older_than:
                continue
            yield image

    def _newest(self, count: int) -> frozenset[Digest]:
        """Return the newest images of each repository, at most `count` of each."""
        by_repository: dict[str, list[Digest]] = {}
        for image in reversed(self._images) if count else ():
            for name in {repository(name) for name in image.names} - {""}:
                by_repository.setdefault(name, []).append(image.target)
        return frozenset(target for found in by_repository.values() for target in found[:count])

    def _expired(self) -> Iterator[Node]:
        """Yield records whose expiry is over; containerd 2 collects them by itself, older ones do not.

        In CRI's namespace, an image goes as a whole, and only if no other tag is left.
        """
        images = self._graph.state.images
        for image in self._images:
            if self._is_kept(image):
                continue
            over = [name for name in image.names if self._graph.is_expired(images[name])]
            if over and self._graph.state.namespace == kubelet.NAMESPACE:
                left = any(has_tag(name) for name in image.names if name not in over)
                over = [] if left else list(image.names)
            yield from (Node("image", name) for name in over)


def _images(graph: GcGraph) -> Iterator[_Image]:
    records = graph.state.images
    names: dict[Digest, list[str]] = {}
    for name in sorted(records):
        names.setdefault(records[name].target.digest, []).append(name)
    for target, each in names.items():
        changed = max(records[name].updated_at or records[name].created_at or _NEVER for name in each)
        yield _Image(target=target, names=tuple(each), changed=changed)


# --- until enough is free ---------------------------------------------------------------------------------


class _Enough:
    """Chooses the oldest images that free enough; `others` are removed in any case."""

    def __init__(
        self, graph: GcGraph, removal: Removal, images: Sequence[_Image], others: Collection[Node]
    ) -> None:
        self._graph = graph
        self._removal = removal
        self._images = images
        self._before = removal.going(others)
        every = frozenset(others).union(*(image.nodes for image in images))
        self._freeable = removal.going(every) - self._before
        self._holders = Counter(node for image in images for node in self._held_by(image))

    def of(self, missing: int) -> Sequence[_Image]:
        """Return images that free so many bytes together, and without any of them fewer."""
        chosen: dict[Digest, _Image] = {}
        freed = set[Node]()
        bytes_freed = self._bytes(self._before)
        for image in self._images:
            if bytes_freed >= missing:
                break
            chosen[image.target] = image
            held = self._held_by(image)
            self._holders.subtract(held)
            new = {node for node in held if not self._holders[node]}
            freed |= new
            bytes_freed += self._bytes(new)
        for image in tuple(reversed(chosen.values())):
            lost = freed.intersection(self._held_by(image))
            if bytes_freed - self._bytes(lost) >= missing:
                del chosen[image.target]
                freed -= lost
                bytes_freed -= self._bytes(lost)
        return tuple(chosen.values())

    def _held_by(self, image: _Image) -> frozenset[Node]:
        """Return what an image keeps, as far as it goes when all images do."""
        return self._graph.reached_from(image.nodes) & self._freeable

    def _bytes(self, nodes: Collection[Node]) -> int:
        return self._removal.measure(nodes).bytes


# --- what interrupted pulls leave -------------------------------------------------------------------------


def _leftovers(graph: GcGraph, now: dt.datetime) -> Iterator[Node]:
    """Yield the leases of interrupted pulls, and unfinished writes that no lease holds.

    Whether a client still runs is not known, so that nothing counts that has changed within the last hour.
    The snapshots of an interrupted pull go with its lease.
    """
    state = graph.state
    quiet_since = now - QUIET
    leased = set[str]()
    for name, (lease, held) in state.leases.items():
        leased.update(item.id for item in held if item.type == "ingests")
        if _is_of_a_pull(state, lease, held) and _changed(state, lease, held) <= quiet_since:
            yield Node("lease", name)
    for ref, ingest in state.ingests.items():
        if ref not in leased and (ingest.updated_at or _NEVER) <= quiet_since:
            yield Node("ingest", ref)


def _is_of_a_pull(state: GcState, lease: Lease, held: Iterable[LeaseResource]) -> bool:
    """Whether a lease expires, and holds an unfinished write or a snapshot that a layer is unpacked into.

    Other leases protect something on purpose. The names of such snapshots begin with `extract-`
    (containerd core/unpack/unpacker.go).
    """
    if EXPIRE_LABEL not in lease.labels:
        return False
    for item in held:
        if item.type == "ingests" and item.id in state.ingests:
            return True
        snapshot = _snapshot(state, item)
        if snapshot is not None and snapshot.kind == "active" and snapshot.name.startswith(_EXTRACTION):
            return True
    return False


def _changed(state: GcState, lease: Lease, held: Iterable[LeaseResource]) -> dt.datetime:
    """Return when a lease was created, or the last of what it holds was written."""
    times = [lease.created_at]
    for item in held:
        snapshot = _snapshot(state, item)
        if snapshot is not None:
            times.append(snapshot.updated_at or snapshot.created_at)
        elif item.type == "ingests" and item.id in state.ingests:
            times.append(state.ingests[item.id].updated_at)
        elif item.type == "content":
            info = state.content.get(Digest(item.id))
            times += [info.created_at] if info else []
    return max(time or _NEVER for time in times)


def _snapshot(state: GcState, item: LeaseResource) -> SnapshotInfo | None:
    return state.snapshots.get((item.type.removeprefix("snapshots/"), item.id))

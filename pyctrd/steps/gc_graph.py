"""What keeps what in a namespace, by the rules of containerd's garbage collector.

Roots are images, leases, containers, unfinished writes and what has a gc.root label; they refer to content
and snapshots, which refer to more by their labels. What no root reaches, the next collection removes. The
rules have grown: see Rules. Source: containerd core/metadata/gc.go (metadata/gc.go in 1.x).
"""

from __future__ import annotations

import copy
import datetime as dt
import re
from collections import deque
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Final, Literal, NamedTuple, TypeAlias

import msgspec

from pyctrd.oci.expiry import expiry_of
from pyctrd.oci.gotime import parse_duration, parse_time
from pyctrd.oci.model import ImageRecord
from pyctrd.oci.resources import Lease
from pyctrd.steps.gc_state import GcState

Kind: TypeAlias = Literal["image", "content", "snapshot", "lease", "container", "ingest"]

ROOT_LABEL: Final = "containerd.io/gc.root"
FLAT_LABEL: Final = "containerd.io/gc.flat"
_PREFIX: Final = "containerd.io/gc."
_REF: Final = "containerd.io/gc.ref."
_BACK_REF: Final = "containerd.io/gc.bref."
_CONDITION: Final = "containerd.io/gc.cond.snapshot"
_USED_AT: Final = "containerd.io/gc.cond.value-usedat"
# A write without a lease is kept for a day (core/metadata/content.go).
_INGEST_LIFETIME: Final = dt.timedelta(hours=24)


class Node(NamedTuple):
    """An object that the collector knows: a blob's name is its digest, an ingest's its ref."""

    kind: Kind
    name: str
    snapshotter: str = ""


class Link(NamedTuple):
    """One step of a chain of references: `via` is how the object before it refers to this one.

    `via` is a label's key, or `target`, `parent`, `lease` and `snapshot` for the fields of records; of a
    chain's first object, it is what makes it a root: "", or a label's key.
    """

    node: Node
    via: str


class Rules(msgspec.Struct, frozen=True, kw_only=True):
    """What the collector of one release does.

    With `images` (since 2.0), images expire, and leases and labels refer to them; with `back_references`
    (since 2.2), gc.bref labels attach an object to another one; with `conditions` (since 2.3), gc.cond labels
    keep a snapshot as long as it was used lately.
    """

    images: bool = True
    back_references: bool = True
    conditions: bool = True

    @classmethod
    def of(cls, version: str) -> Rules:
        """Return the rules of a version of containerd, e.g. `1.7.24~ds1`; an unknown one has all."""
        found = re.match(r"v?(\d+)\.(\d+)", version)
        release = (int(found[1]), int(found[2])) if found else (99, 0)
        return cls(images=release >= (2, 0), back_references=release >= (2, 2), conditions=release >= (2, 3))


# A node, and whether it was reached from a flat lease, whose objects keep nothing by labels.
_Visit: TypeAlias = tuple[Node, bool]
# An object that is referred to, and how.
_Target: TypeAlias = tuple[Node, str]


class GcGraph:
    """The references in a namespace at a moment."""

    def __init__(
        self, state: GcState, rules: Rules, now: dt.datetime, *, without: Collection[Node] = ()
    ) -> None:
        self.state = state
        self._all = _Everything(state, rules, now)
        self._gone = frozenset(without)
        self._before: dict[_Visit, list[tuple[_Visit, str]]] | None = None

    def without(self, removed: Collection[Node]) -> GcGraph:
        """Return the references that are left when these objects are deleted."""
        left = copy.copy(self)
        left._gone = self._gone.union(removed)
        left._before = None
        return left

    def __contains__(self, node: Node) -> bool:
        """Whether there is such an object."""
        return node in self._all.labels and node not in self._gone

    def __iter__(self) -> Iterator[Node]:
        """Yield all objects."""
        return (node for node in self._all.labels if node not in self._gone)

    def is_expired(self, record: Lease | ImageRecord) -> bool:
        """Whether a record has a valid expiry that is over."""
        return self._all.is_expired(record)

    def expiry_of(self, node: Node) -> dt.datetime | None:
        """Return when an image or a lease expires; None for never, which an image of containerd 1.x does."""
        return self._all.expiry_of(node) if node in self else None

    def collected(self) -> frozenset[Node]:
        """Return what the next collection removes, which may be expired leases and images, too."""
        reached = {node for node, _ in self._reached()}
        return frozenset(node for node in self if node not in reached and self._all.may_go(node))

    def reached_from(self, nodes: Iterable[Node]) -> frozenset[Node]:
        """Return these objects, and what they refer to, directly or not; all of it exists."""
        visits = [(node, False) for node in nodes]
        return frozenset(node for node, _ in self._followed(visits) if node in self)

    def chains(self, node: Node) -> tuple[tuple[Link, ...], ...]:
        """Return for each root that keeps an object a chain of references, the shortest one first.

        A link may be an object that does not exist: others can be attached to it by back references.
        """
        before = self._referrers()
        found: dict[Node, tuple[Link, ...]] = {}
        known = {(node, False), (node, True)}
        queue = deque[tuple[_Visit, tuple[Link, ...]]]((visit, ()) for visit in sorted(known))
        while queue:
            visit, rest = queue.popleft()
            root, flat = visit
            if not flat and root in self._all.roots and root in self:
                found[root] = (Link(root, self._all.roots[root]), *rest)
            for previous, via in before.get(visit, ()):
                if previous not in known:
                    known.add(previous)
                    queue.append((previous, (Link(visit[0], via), *rest)))
        return tuple(found.values())

    def referrers(self, node: Node) -> tuple[Link, ...]:
        """Return what keeps an object directly: itself, by its own label, and what refers to it, with how."""
        own = [Link(node, self._all.roots[node])] if self._all.roots.get(node) else []
        before = self._referrers()
        visits = [*before.get((node, False), ()), *before.get((node, True), ())]
        return (*own, *(Link(referrer, via) for (referrer, _), via in visits))

    def _referrers(self) -> Mapping[_Visit, Sequence[tuple[_Visit, str]]]:
        """Return what refers to each object, of all that is reached from the roots."""
        if self._before is None:
            self._before = {}
            for visit in sorted(self._reached()):
                for target, via in self._references(*visit):
                    self._before.setdefault(target, []).append((visit, via))
        return self._before

    def _reached(self) -> set[_Visit]:
        """Return what is reached from the roots, which may be objects that do not exist."""
        return self._followed((root, False) for root in self._all.roots if root not in self._gone)

    def _followed(self, visits: Iterable[_Visit]) -> set[_Visit]:
        reached = set(visits)
        queue = list(reached)
        while queue:
            for visit, _ in self._references(*queue.pop()):
                if visit not in reached:
                    reached.add(visit)
                    queue.append(visit)
        return reached

    def _references(self, node: Node, flat: bool) -> Iterator[tuple[_Visit, str]]:
        if not flat:
            yield from self._left(self._all.attached.get(node, ()))
        if node not in self:
            return
        if node.kind == "lease":
            yield from self._all.held(node)
            return
        for target, via in self._all.fields(node):
            yield (target, flat), via
        if not flat:
            for target, via in self._all.labelled(node):
                yield (target, False), via
            yield from self._left(self._all.conditional.get(node, ()))

    def _left(self, targets: Iterable[_Target]) -> Iterator[tuple[_Visit, str]]:
        return (((target, False), via) for target, via in targets if target not in self._gone)


class _Everything:
    """All objects of a namespace with their references, whatever may be deleted.

    `attached` are the objects that attach themselves to one, which need not exist; `conditional` those that
    an image or a blob keeps by a condition that holds now.
    """

    def __init__(self, state: GcState, rules: Rules, now: dt.datetime) -> None:
        self._state = state
        self._rules = rules
        self._now = now
        self.labels = {node: _for_collector(labels) for node, labels in _objects(state)}
        self._leased = {
            item.id for _, held in state.leases.values() for item in held if item.type == "ingests"
        }
        self.roots = {node: via for node in self.labels if (via := self._root_by(node)) is not None}
        self.attached: dict[Node, list[_Target]] = {}
        self.conditional: dict[Node, list[_Target]] = {}
        if rules.back_references:
            self._add_back_references()
        if rules.conditions:
            self._add_conditions()

    def may_go(self, node: Node) -> bool:
        """Whether the collector removes objects of this kind."""
        return node.kind != "container" and (node.kind != "image" or self._rules.images)

    def is_expired(self, record: Lease | ImageRecord) -> bool:
        expiry = expiry_of(record.labels)
        return expiry is not None and self._now > expiry

    def expiry_of(self, node: Node) -> dt.datetime | None:
        if node.kind == "lease":
            return expiry_of(self._state.leases[node.name][0].labels)
        if node.kind == "image" and self._rules.images:
            return expiry_of(self._state.images[node.name].labels)
        return None

    def _root_by(self, node: Node) -> str | None:
        """Return what makes an object a root: "" for its kind, or a label's key; None if it is none."""
        state = self._state
        match node.kind:
            case "container":
                return ""
            case "lease" | "image":
                expiry = self.expiry_of(node)
                return None if expiry is not None and self._now > expiry else ""
            case "ingest":
                started = state.ingests[node.name].started_at
                fresh = started is None or self._now <= started + _INGEST_LIFETIME
                return "" if node.name not in self._leased and fresh else None
            case _:
                keys = (key for key, _ in self.labels[node])
                if self._rules.back_references:  # since then, any key that begins so
                    return next((key for key in keys if key.startswith(ROOT_LABEL)), None)
                return ROOT_LABEL if ROOT_LABEL in keys else None

    def fields(self, node: Node) -> Iterator[_Target]:
        """Yield the object that a field of a record refers to."""
        return _by_field(self._state, node)

    def held(self, node: Node) -> Iterator[tuple[_Visit, str]]:
        """Yield what a lease holds."""
        lease, held = self._state.leases[node.name]
        flat = FLAT_LABEL in lease.labels
        for item in held:
            target = _leased(item.type, item.id)
            if target is not None and (target.kind != "image" or self._rules.images):
                yield (target, flat and target.kind != "ingest"), "lease"

    def labelled(self, node: Node) -> Iterator[_Target]:
        """Yield what the labels of an object refer to."""
        for key, value in self.labels[node]:
            target = _by_label(key, value, _REF)
            if target is not None and (target.kind != "image" or self._rules.images):
                yield target, key

    def _add_back_references(self) -> None:
        for node, labels in self.labels.items():
            if node.kind == "image" and node in self.roots:
                continue  # it is kept anyway
            for key, value in labels:
                owner = _by_label(key, value, _BACK_REF)
                if owner is not None:
                    self.attached.setdefault(owner, []).append((node, key))

    def _add_conditions(self) -> None:
        for node, labels in self.labels.items():
            if node.kind in ("image", "content"):
                for key, value in labels:
                    target = self._conditional(key, value)
                    if target is not None:
                        self.conditional.setdefault(node, []).append((target, key))

    def _conditional(self, key: str, value: str) -> Node | None:
        """Return the snapshot that a gc.cond label keeps now."""
        conditions, bar, name = value.partition("|")
        if not key.startswith(_CONDITION) or not bar:
            return None
        snapshotter = key.removeprefix(_CONDITION).lstrip("./").partition("/")[0]
        target = Node("snapshot", name, snapshotter)
        labels = self.labels.get(target, ())
        used = [parse_time(text) for label, text in labels if label.startswith(_USED_AT)]
        ages = [self._now - moment for moment in used if moment is not None]
        holds = any(_condition_holds(condition, ages) for condition in conditions.split(","))
        return target if holds else None


def _for_collector(labels: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    """Return the labels that the collector reads."""
    return tuple(item for item in labels.items() if item[0].startswith(_PREFIX))


def _objects(state: GcState) -> Iterator[tuple[Node, Mapping[str, str]]]:
    """Yield all objects with their labels; an ingest has none, and those of a lease refer to nothing."""
    yield from ((Node("image", name), image.labels) for name, image in state.images.items())
    yield from ((Node("content", str(digest)), info.labels) for digest, info in state.content.items())
    for (snapshotter, name), snapshot in state.snapshots.items():
        yield Node("snapshot", name, snapshotter), snapshot.labels
    yield from ((Node("lease", name), {}) for name in state.leases)
    yield from ((Node("container", name), item.labels) for name, item in state.containers.items())
    yield from ((Node("ingest", ref), {}) for ref in state.ingests)


def _by_field(state: GcState, node: Node) -> Iterator[tuple[Node, str]]:
    """Yield the object that a field of a record refers to."""
    match node.kind:
        case "image":
            yield Node("content", str(state.images[node.name].target.digest)), "target"
        case "snapshot":
            parent = state.snapshots[node.snapshotter, node.name].parent
            if parent:
                yield Node("snapshot", parent, node.snapshotter), "parent"
        case "container":
            container = state.containers[node.name]
            if container.snapshotter:
                yield Node("snapshot", container.snapshot_key, container.snapshotter), "snapshot"
        case _:
            pass


def _condition_holds(condition: str, ages: Sequence[dt.timedelta]) -> bool:
    found = re.fullmatch(r"usedat([<>])(.*)", condition, re.DOTALL)
    limit = parse_duration(found[2]) if found else None
    if found is None or limit is None:
        return False
    return any(age < limit if found[1] == "<" else age > limit for age in ages)


def _by_label(key: str, value: str, prefix: str) -> Node | None:
    """Return the object that a reference label means."""
    meaning = _meaning(key, prefix)
    return Node(meaning[0], value, meaning[1]) if meaning else None


@lru_cache(4096)
def _meaning(key: str, prefix: str) -> tuple[Kind, str] | None:
    """Return the kind and the snapshotter that the key of a reference label means.

    The rest of the key after `.` or `/` is a comment.
    """
    if not key.startswith(prefix):
        return None
    kind, mark, rest = _split(key.removeprefix(prefix))
    if kind == "snapshot":
        return ("snapshot", rest.partition("/")[0]) if mark == "." else None
    if mark not in ("", ".", "/"):
        return None
    match kind:
        case "content" | "image":
            return kind, ""
        case "container" if prefix == _BACK_REF:
            return "container", ""
        case _:
            return None


def _split(key: str) -> tuple[str, str, str]:
    """Split a key after its first word: the word, the next character, and the rest."""
    word = re.match(r"[a-z]*", key)
    kind = word[0] if word else ""
    return kind, key[len(kind) : len(kind) + 1], key[len(kind) + 1 :]


def _leased(resource: str, name: str) -> Node | None:
    kind, _, snapshotter = resource.partition("/")
    match kind:
        case "content":
            return Node("content", name)
        case "images":
            return Node("image", name)
        case "ingests":
            return Node("ingest", name)
        case "snapshots":
            return Node("snapshot", name, snapshotter)
        case _:
            return None

"""What keeps what in a namespace, by the rules of containerd's garbage collector.

Roots are images, leases, containers, unfinished writes and what has a gc.root label; they refer to content
and snapshots, which refer to more by their labels. What no root reaches, the next collection removes. The
rules have grown: see Rules. Source: containerd core/metadata/gc.go (metadata/gc.go in 1.x).
"""

from __future__ import annotations

import copy
import datetime as dt
import re
from array import array
from bisect import bisect_left
from collections import deque
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Final, NamedTuple, TypeAlias

import msgspec

from pyctrd.oci.expiry import expiry_of
from pyctrd.oci.gotime import parse_duration, parse_time
from pyctrd.oci.model import EMPTY, ImageRecord
from pyctrd.oci.resources import Lease
from pyctrd.steps.gc_nodes import Kind, Node, Numbers
from pyctrd.steps.gc_state import GC_PREFIX, GcState

ROOT_LABEL: Final = "containerd.io/gc.root"
FLAT_LABEL: Final = "containerd.io/gc.flat"
_REF: Final = "containerd.io/gc.ref."
_BACK_REF: Final = "containerd.io/gc.bref."
_CONDITION: Final = "containerd.io/gc.cond.snapshot"
_USED_AT: Final = "containerd.io/gc.cond.value-usedat"
# A write without a lease is kept for a day (core/metadata/content.go).
_INGEST_LIFETIME: Final = dt.timedelta(hours=24)


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


# An object by its number, doubled; one more if it was reached from a flat lease, whose objects keep nothing
# by labels.
_Visit: TypeAlias = int
# How an object refers to another one: by a field of its record, by a label, by a condition that holds now, or
# because that one attaches itself to it, which needs no object; a lease holds objects, also flat.
_FIELD, _LABEL, _CONDITIONAL, _ATTACHED, _HELD, _HELD_FLAT = range(6)


class GcGraph:
    """The references in a namespace at a moment.

    An object also has a number, in the order of the nodes, so that what is known about each object of a
    namespace with many can be in an array.
    """

    def __init__(
        self, state: GcState, rules: Rules, now: dt.datetime, *, without: Collection[Node] = ()
    ) -> None:
        self.state = state
        self._all = _Everything(state, rules, now)
        self._gone = bytes(len(self._all.numbers))
        self._before: Sequence[int] | None = None
        if without:
            self._gone = self.without(without)._gone

    def without(self, removed: Iterable[Node]) -> GcGraph:
        """Return the references that are left when these objects are deleted."""
        left = copy.copy(self)
        gone = bytearray(self._gone)
        for node in removed:
            number = self.number(node)
            if number is not None:
                gone[number] = True
        left._gone = bytes(gone)
        left._before = None
        return left

    def __contains__(self, node: Node) -> bool:
        """Whether there is such an object."""
        number = self.number(node)
        return number is not None and not self._gone[number]

    def __iter__(self) -> Iterator[Node]:
        """Yield all objects."""
        return (self.node(number) for number, gone in enumerate(self._gone) if not gone)

    @property
    def count(self) -> int:
        """How many numbers there are."""
        return len(self._gone)

    def number(self, node: Node) -> int | None:
        """Return the number of an object; None if there was none when the references were read."""
        return self._all.numbers.of(node)

    def node(self, number: int) -> Node:
        """Return the object with a number."""
        return self._all.numbers.node(number)

    def is_expired(self, record: Lease | ImageRecord) -> bool:
        """Whether a record has a valid expiry that is over."""
        return self._all.is_expired(record)

    def expiry_of(self, node: Node) -> dt.datetime | None:
        """Return when an image or a lease expires; None for never, which an image of containerd 1.x does."""
        return self._all.expiry_of(node) if node in self else None

    def collected(self) -> frozenset[Node]:
        """Return what the next collection removes, which may be expired leases and images, too."""
        return frozenset(self.node(number) for number, goes in enumerate(self.collected_numbers()) if goes)

    def collected_numbers(self) -> bytes:
        """Return for each number whether the next collection removes the object."""
        goes = bytearray(self._all.may_go)
        for visit in self._reached():
            if visit >> 1 < len(goes):
                goes[visit >> 1] = False
        for number, gone in enumerate(self._gone):
            if gone:
                goes[number] = False
        return bytes(goes)

    def reached_from(self, nodes: Iterable[Node]) -> frozenset[Node]:
        """Return these objects, and what they refer to, directly or not; all of it exists."""
        return frozenset(map(self.node, self.numbers_from(nodes)))

    def numbers_from(self, nodes: Iterable[Node]) -> frozenset[int]:
        """Return the numbers of these objects and of what they refer to, as `reached_from` does."""
        numbers = (number for node in nodes if (number := self.number(node)) is not None)
        visits = self._followed([number << 1 for number in numbers])
        return frozenset(visit >> 1 for visit in visits if self._is_here(visit >> 1))

    def chains(self, node: Node) -> tuple[tuple[Link, ...], ...]:
        """Return for each root that keeps an object a chain of references, the shortest one first.

        A link may be an object that does not exist: others can be attached to it by back references.
        """
        number = self._all.numbers.known(node)
        if number is None:
            return ()
        found: dict[int, tuple[Link, ...]] = {}
        known = {number << 1, number << 1 | 1}
        queue = deque[tuple[_Visit, tuple[Link, ...]]]((visit, ()) for visit in sorted(known))
        while queue:
            visit, rest = queue.popleft()
            root, here = visit >> 1, self.node(visit >> 1)
            if not visit & 1 and root in self._all.roots and self._is_here(root):
                found[root] = (Link(here, self._all.roots[root]), *rest)
            for previous, via in self._referring(visit):
                if previous not in known:
                    known.add(previous)
                    queue.append((previous, (Link(here, via), *rest)))
        return tuple(found.values())

    def referrers(self, node: Node) -> tuple[Link, ...]:
        """Return what keeps an object directly: itself, by its own label, and what refers to it, with how."""
        number = self._all.numbers.known(node)
        if number is None:
            return ()
        own = [Link(node, via)] if (via := self._all.roots.get(number)) else []
        before = [*self._referring(number << 1), *self._referring(number << 1 | 1)]
        return (*own, *(Link(self.node(referrer >> 1), via) for referrer, via in before))

    def _referring(self, visit: _Visit) -> Iterator[tuple[_Visit, str]]:
        """Yield what refers to an object, and how, of all that is reached from the roots."""
        width = self._width
        if self._before is None:
            pairs = (
                target * width + referrer
                for referrer in self._reached()
                for target in {target for target, _ in self._references(referrer)}
            )
            self._before = array("q", sorted(pairs))
        for position in range(bisect_left(self._before, visit * width), len(self._before)):
            target, referrer = divmod(self._before[position], width)
            if target != visit:
                return
            yield from ((referrer, via) for other, via in self._references(referrer) if other == visit)

    @property
    def _width(self) -> int:
        """One more than the largest visit."""
        return 2 * self._all.numbers.count

    def _reached(self) -> Sequence[_Visit]:
        """Return what is reached from the roots, which may be objects that do not exist."""
        return self._followed([root << 1 for root in self._all.roots if not self._gone[root]])

    def _followed(self, visits: Iterable[_Visit]) -> Sequence[_Visit]:
        """Return these and all that they refer to."""
        reached = bytearray(self._width)
        found = array("q")
        queue = list(visits)
        for visit in queue:
            reached[visit] = True
        while queue:
            visit = queue.pop()
            found.append(visit)
            for target, _ in self._references(visit):
                if not reached[target]:
                    reached[target] = True
                    queue.append(target)
        return found

    def _references(self, visit: _Visit) -> Iterator[tuple[_Visit, str]]:
        number, flat = visit >> 1, visit & 1
        here = self._is_here(number)
        for target, how, via in self._all.references(number):
            if how == _FIELD:
                if here:
                    yield target << 1 | flat, via
            elif how in (_HELD, _HELD_FLAT):
                if here:
                    yield target << 1 | (how == _HELD_FLAT), via
            elif not flat and (
                (here and how == _LABEL)
                or ((here or how == _ATTACHED) and how != _LABEL and not self._is_gone(target))
            ):
                yield target << 1, via

    def _is_here(self, number: int) -> bool:
        return number < len(self._gone) and not self._gone[number]

    def _is_gone(self, number: int) -> bool:
        return number < len(self._gone) and bool(self._gone[number])


class _Everything:
    """All objects of a namespace with their references, whatever may be deleted.

    `roots` says what makes an object a root, by number; `may_go` whether the collector removes its kind.
    """

    def __init__(self, state: GcState, rules: Rules, now: dt.datetime) -> None:
        self._state = state
        self._rules = rules
        self._now = now
        self._leased = {
            item.id for _, held in state.leases.values() for item in held if item.type == "ingests"
        }
        self.numbers = Numbers(state)
        self.roots: dict[int, str] = {}
        self.may_go = bytearray()
        # Of each object, where its references begin: targets with kinds of references, and labels.
        self._starts = array("q", [0])
        self._targets = array("q")
        self._vias: list[str] = []
        # What attaches itself to an object, which need not exist.
        self._attached: dict[int, list[tuple[int, int, str]]] = {}
        for number, (node, labels) in enumerate(_objects(state)):
            self.may_go.append(node.kind != "container" and (node.kind != "image" or rules.images))
            via = self._root_by(node, labels)
            if via is not None:
                self.roots[number] = via
            self._add(self._own(node, labels))
            if rules.back_references and not (node.kind == "image" and via is not None):  # kept anyway
                self._attach(number, labels)

    def references(self, number: int) -> Iterator[tuple[int, int, str]]:
        """Yield what an object refers to: the number of the target, the kind of reference, and how."""
        yield from self._attached.get(number, ())
        if number + 1 < len(self._starts):
            for position in range(self._starts[number], self._starts[number + 1]):
                yield self._targets[position] >> 3, self._targets[position] & 7, self._vias[position]

    def _add(self, references: Iterable[tuple[int, int, str]]) -> None:
        """Add the references of the next object."""
        for target, how, via in references:
            self._targets.append(target << 3 | how)
            self._vias.append(via)
        self._starts.append(len(self._targets))

    def is_expired(self, record: Lease | ImageRecord) -> bool:
        expiry = expiry_of(record.labels)
        return expiry is not None and self._now > expiry

    def expiry_of(self, node: Node) -> dt.datetime | None:
        if node.kind == "lease":
            return expiry_of(self._state.leases[node.name][0].labels)
        if node.kind == "image" and self._rules.images:
            return expiry_of(self._state.images[node.name].labels)
        return None

    def _root_by(self, node: Node, labels: Mapping[str, str]) -> str | None:
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
                if self._rules.back_references:  # since then, any key that begins so
                    return next((key for key in labels if key.startswith(ROOT_LABEL)), None)
                return ROOT_LABEL if ROOT_LABEL in labels else None

    def _own(self, node: Node, labels: Mapping[str, str]) -> Iterator[tuple[int, int, str]]:
        """Yield the references of an object: first those of its record's fields."""
        if node.kind == "lease":
            yield from self._held(node)
            return
        for target, via in _by_field(self._state, node):
            yield self.numbers.add(target), _FIELD, via
        found = _for_collector(labels)
        for key, value in found:
            labelled = _by_label(key, value, _REF)
            if labelled is not None and (labelled.kind != "image" or self._rules.images):
                yield self.numbers.add(labelled), _LABEL, key
        if self._rules.conditions and node.kind in ("image", "content"):
            for key, value in found:
                conditional = self._conditional(key, value)
                if conditional is not None:
                    yield self.numbers.add(conditional), _CONDITIONAL, key

    def _held(self, node: Node) -> Iterator[tuple[int, int, str]]:
        """Yield what a lease holds."""
        lease, held = self._state.leases[node.name]
        flat = FLAT_LABEL in lease.labels
        for item in held:
            target = _leased(item.type, item.id)
            if target is not None and (target.kind != "image" or self._rules.images):
                how = _HELD_FLAT if flat and target.kind != "ingest" else _HELD
                yield self.numbers.add(target), how, "lease"

    def _attach(self, number: int, labels: Mapping[str, str]) -> None:
        """Add the back references of an object."""
        for key, value in _for_collector(labels):
            owner = _by_label(key, value, _BACK_REF)
            if owner is not None:
                self._attached.setdefault(self.numbers.add(owner), []).append((number, _ATTACHED, key))

    def _conditional(self, key: str, value: str) -> Node | None:
        """Return the snapshot that a gc.cond label keeps now."""
        conditions, bar, name = value.partition("|")
        if not key.startswith(_CONDITION) or not bar:
            return None
        snapshotter = key.removeprefix(_CONDITION).lstrip("./").partition("/")[0]
        snapshot = self._state.snapshots.get((snapshotter, name))
        labels = snapshot.labels if snapshot is not None else {}
        used = [parse_time(text) for label, text in labels.items() if label.startswith(_USED_AT)]
        ages = [self._now - moment for moment in used if moment is not None]
        holds = any(_condition_holds(condition, ages) for condition in conditions.split(","))
        return Node("snapshot", name, snapshotter) if holds else None


def _for_collector(labels: Mapping[str, str]) -> Sequence[tuple[str, str]]:
    """Return the labels that the collector reads."""
    return [item for item in labels.items() if item[0].startswith(GC_PREFIX)] if labels else ()


def _objects(state: GcState) -> Iterator[tuple[Node, Mapping[str, str]]]:
    """Yield all objects with their labels, sorted; those of a lease are no references."""
    yield from ((Node("container", name), state.containers[name].labels) for name in sorted(state.containers))
    yield from ((Node("content", digest), state.content[digest].labels) for digest in sorted(state.content))
    yield from ((Node("image", name), state.images[name].labels) for name in sorted(state.images))
    yield from ((Node("ingest", ref), EMPTY) for ref in sorted(state.ingests))
    yield from ((Node("lease", name), EMPTY) for name in sorted(state.leases))
    for name, snapshotter in sorted((name, snapshotter) for snapshotter, name in state.snapshots):
        yield Node("snapshot", name, snapshotter), state.snapshots[snapshotter, name].labels


def _by_field(state: GcState, node: Node) -> Iterator[tuple[Node, str]]:
    """Yield the object that a field of a record refers to."""
    match node.kind:
        case "image":
            yield Node("content", state.images[node.name].target.digest), "target"
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

"""The objects that the collector knows, and numbers for them.

Source: containerd core/metadata/gc.go (ResourceContent, ResourceSnapshot and others).
"""

from __future__ import annotations

import itertools
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from typing import Any, Final, Literal, NamedTuple, TypeAlias, TypeVar

from pyctrd.steps.gc_state import GcState

Kind: TypeAlias = Literal["image", "content", "snapshot", "lease", "container", "ingest"]

# In the order of their numbers.
_KINDS: Final[tuple[Kind, ...]] = ("container", "content", "image", "ingest", "lease", "snapshot")

_T = TypeVar("_T", bound=Any)


class Node(NamedTuple):
    """An object that the collector knows: a blob's name is its digest, an ingest's its ref."""

    kind: Kind
    name: str
    snapshotter: str = ""


class Numbers:
    """The numbers of objects: their positions among all, sorted, and after these of what only others name."""

    def __init__(self, state: GcState) -> None:
        names: Sequence[Sequence[str]] = [
            sorted(state.containers),
            sorted(state.content),
            sorted(state.images),
            sorted(state.ingests),
            sorted(state.leases),
        ]
        self._names = names
        self._snapshots = sorted((name, snapshotter) for snapshotter, name in state.snapshots)
        counts = [*map(len, names), len(self._snapshots)]
        self._starts = [0, *itertools.accumulate(counts)]
        self._absent: dict[Node, int] = {}
        self._absent_nodes: list[Node] = []

    def __len__(self) -> int:
        """Return the number of objects."""
        return self._starts[-1]

    @property
    def count(self) -> int:
        """The number of objects, and of what only others name."""
        return len(self) + len(self._absent_nodes)

    def of(self, node: Node) -> int | None:
        """Return the number of an object; None if it does not exist."""
        kind = _KINDS.index(node.kind)
        if node.kind == "snapshot":
            return self._position(kind, self._snapshots, (node.name, node.snapshotter))
        return None if node.snapshotter else self._position(kind, self._names[kind], node.name)

    def _position(self, kind: int, names: Sequence[_T], name: _T) -> int | None:
        position = bisect_left(names, name)
        return self._starts[kind] + position if names[position : position + 1] == [name] else None

    def known(self, node: Node) -> int | None:
        """Return the number of what is an object or is named by one."""
        number = self.of(node)
        return self._absent.get(node) if number is None else number

    def add(self, node: Node) -> int:
        """Return the number of an object, or of what does not exist, which then is named."""
        number = self.known(node)
        if number is None:
            number = self._absent[node] = self.count
            self._absent_nodes.append(node)
        return number

    def node(self, number: int) -> Node:
        """Return what has a number."""
        if number >= len(self):
            return self._absent_nodes[number - len(self)]
        kind = bisect_right(self._starts, number) - 1
        position = number - self._starts[kind]
        if kind < len(self._names):
            return Node(_KINDS[kind], self._names[kind][position])
        name, snapshotter = self._snapshots[position]
        return Node("snapshot", name, snapshotter)

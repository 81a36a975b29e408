"""A document that is here, what it names, and what of that its gc labels keep."""

from __future__ import annotations

from collections.abc import Collection
from functools import cached_property

from pyctrd.oci import graph, mediatypes
from pyctrd.oci.model import Descriptor, Digest
from pyctrd.operations.diagnose.inspection import Inspection


class Family:
    """A parent and its children; what is worked out about all of them is worked out once."""

    def __init__(self, inspection: Inspection, parent: Descriptor) -> None:
        self._inspection = inspection
        self.parent = parent
        self.labels = inspection.labels(parent.digest)
        self.children = inspection.children(parent)

    @cached_property
    def unlabelled(self) -> frozenset[Digest]:
        """Those children that no gc label of their parent names, whatever number the label has."""
        kept = {value for key, value in self.labels.items() if key.startswith(mediatypes.GC_REF)}
        return frozenset(child.digest for child in self.children if child.digest not in kept)

    @cached_property
    def here(self) -> frozenset[Digest]:
        """Those children that are here."""
        return frozenset(child.digest for child in self.children if self._inspection.present(child))

    @cached_property
    def is_of_an_import(self) -> bool:
        """Whether the labels name just those children that are here, as after an import of some platforms."""
        return bool(self.here) and self.unlabelled == {child.digest for child in self.children} - self.here

    def lost_keys(self, digests: Collection[Digest]) -> tuple[str, ...]:
        """Name the gc label that a pull would have written for each of these children, its first one."""
        return tuple(key for _, key in sorted(self._keys[item] for item in set(digests) & self._keys.keys()))

    @cached_property
    def _keys(self) -> dict[Digest, tuple[int, str]]:
        """The first label of a pull by child, with its place."""
        keys: dict[Digest, tuple[int, str]] = {}
        for place, (key, value) in enumerate(graph.child_labels(self.children).items()):
            keys.setdefault(Digest(value), (place, key))
        return keys

"""ParentDocument: a document in the store, its children, and which of them its gc labels protect."""

from __future__ import annotations

from collections.abc import Collection
from functools import cached_property

from pyctrd.oci import graph, mediatypes
from pyctrd.oci.model import Descriptor, Digest
from pyctrd.operations.diagnose.inspection import Inspection


class ParentDocument:
    """An index or a manifest in the store, with its children and its gc labels."""

    def __init__(self, inspection: Inspection, parent: Descriptor) -> None:
        self._inspection = inspection
        self.descriptor = parent
        self.labels = inspection.labels(parent.digest)
        self.children = inspection.children(parent)

    @cached_property
    def unlabelled(self) -> frozenset[Digest]:
        """The children that have no gc label, whatever its number."""
        kept = {value for key, value in self.labels.items() if key.startswith(mediatypes.GC_REF)}
        return frozenset(child.digest for child in self.children if child.digest not in kept)

    @cached_property
    def present(self) -> frozenset[Digest]:
        """The children that are in the store."""
        return frozenset(child.digest for child in self.children if self._inspection.is_present(child))

    @cached_property
    def was_imported_in_part(self) -> bool:
        """Whether exactly the present children have labels, as after an import of some platforms."""
        absent = {child.digest for child in self.children} - self.present
        return bool(self.present) and self.unlabelled == absent

    def lost_keys(self, digests: Collection[Digest]) -> tuple[str, ...]:
        """Return the first gc label that a pull would have set for each of these children."""
        return tuple(key for _, key in sorted(self._keys[item] for item in set(digests) & self._keys.keys()))

    @cached_property
    def _keys(self) -> dict[Digest, tuple[int, str]]:
        """The first label of each child after a pull, with its position."""
        keys: dict[Digest, tuple[int, str]] = {}
        for position, (key, value) in enumerate(graph.child_labels(self.children).items()):
            keys.setdefault(Digest(value), (position, key))
        return keys

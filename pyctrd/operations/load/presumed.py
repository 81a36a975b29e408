"""What a delta archive presumes: layers that it leaves out, because the store has them or their snapshots."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from pyctrd.amounts import count, listed, size
from pyctrd.archive.presumed import Presumed, parse
from pyctrd.errors import NotFound
from pyctrd.oci.errors import IncompleteContent
from pyctrd.oci.model import Descriptor, Digest
from pyctrd.oci.platforms import Targets
from pyctrd.ports import Store
from pyctrd.steps.fetch import is_present


class Presumption:
    """The layers that an archive leaves out, as far as its images are loaded.

    `adopt` tries to get a blob from another namespace. `unpacks` says whether anything is unpacked: only then
    a snapshot replaces its layer. With `skip`, what is missing is no error.
    """

    def __init__(
        self,
        store: Store,
        adopt: Callable[[Descriptor], bool],
        *,
        targets: Targets,
        snapshotter: str,
        unpacks: bool,
        skip: bool,
    ) -> None:
        self._store = store
        self._adopt = adopt
        self._targets = targets
        self._snapshotter = snapshotter
        self._unpacks = unpacks
        self._skip = skip
        self._layers = frozenset[Digest]()

    def check(self, statement: bytes) -> None:
        """Check what the archive states. Raises IncompleteContent with all missing layers, ArchiveError."""
        found = parse(statement)
        self._layers = frozenset(item.layer.digest for item in found)
        missing = [item for item in found if self._is_loaded(item) and not self._has(item.layer)]
        absent = [item for item in missing if not (self._unpacks and self._is_unpacked(item))]
        if absent and not self._skip:
            raise self._error(absent)

    def is_replaced(self, layer: Descriptor, chain_id: Digest | None) -> bool:
        """Whether a layer that the archive leaves out is in the snapshotter, with the layers below it."""
        return layer.digest in self._layers and chain_id is not None and self._has_snapshot(chain_id)

    def _is_loaded(self, item: Presumed) -> bool:
        return not item.platforms or any(map(self._targets.matcher.match, item.platforms))

    def _has(self, layer: Descriptor) -> bool:
        return is_present(self._store.content, layer) or self._adopt(layer)

    def _is_unpacked(self, item: Presumed) -> bool:
        return any(map(self._has_snapshot, item.chain_ids))

    def _has_snapshot(self, chain_id: Digest) -> bool:
        self._snapshotter = self._snapshotter or self._store.default_snapshotter()
        try:
            self._store.snapshots.stat(self._snapshotter, str(chain_id))
        except NotFound:
            return False
        return True

    def _error(self, absent: Sequence[Presumed]) -> IncompleteContent:
        layers = [item.layer for item in absent]
        shown = listed([f"{layer.digest} ({size(layer.size)})" for layer in layers])
        if not self._unpacks and all(map(self._is_unpacked, absent)):
            hint = "only their snapshots exist, which replace them if the layers are unpacked"
        else:
            hint = "load the images that it builds on first, or save it with an inventory of this namespace"
        return IncompleteContent(
            f"content digest {layers[0].digest}: not found: the archive leaves out "
            f"{count(len(layers), 'layer')} that this namespace does not have: {shown}",
            missing=layers,
            hint=hint,
        )

"""ListedInspection: access to a namespace for the diagnosis of many images.

Content and snapshots are listed once, so that no blob or snapshot is asked for by itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Final

import msgspec

from pyctrd.errors import NotFound, Unsupported
from pyctrd.oci import graph
from pyctrd.oci.model import ContentInfo, Descriptor, Digest, SnapshotInfo
from pyctrd.operations.diagnose.inspection import Inspection

# The labels that say that the content of a snapshot is remote; others would only use memory.
_REMOTE: Final = "containerd.io/snapshot/"
# Parsed, documents use about ten times as much memory.
_KEPT_BYTES: Final = 2 << 20


class ListedInspection(Inspection):
    """An inspection that knows from a listing which blobs and snapshots the namespace has.

    Only documents are read, and only those of incomplete images are asked for their labels.
    """

    @cached_property
    def digests(self) -> frozenset[Digest]:
        """All content of the namespace."""
        return frozenset(info.digest for info in self.store.content.list())

    def info(self, digest: Digest) -> ContentInfo | None:
        return super().info(digest) if digest in self.digests else None

    def is_present(self, descriptor: Descriptor) -> bool:
        return descriptor.digest in self.digests

    def read(self, descriptor: Descriptor) -> bytes:
        if descriptor.digest not in self.digests:
            message = f"content digest {descriptor.digest}: not found"
            raise NotFound(message, kind="content", name=descriptor.digest)
        return self.remembered.content.read_all(descriptor.digest, limit=graph.size_limit(descriptor))

    def snapshot(self, snapshotter: str, name: str) -> SnapshotInfo | None:
        found = self._listed(snapshotter)
        if isinstance(found, Unsupported):
            raise Unsupported(found.message, code=found.code, kind=found.kind, name=found.name)
        return found.get(name)

    def blobs_of_diff_id(self, diff_id: Digest) -> tuple[Digest, ...]:  # noqa: ARG002 - only evidence
        """Return none: each would be a scan of the content, for evidence that a list does not show."""
        return ()

    def shrink(self) -> None:
        """Forget the documents that were read if they are many; images that follow may share a few."""
        if self.remembered.content.shrink(_KEPT_BYTES):
            self._children.clear()

    @cached_property
    def _lists(self) -> dict[str, Mapping[str, SnapshotInfo] | Unsupported]:
        return {}

    def _listed(self, snapshotter: str) -> Mapping[str, SnapshotInfo] | Unsupported:
        if snapshotter not in self._lists:
            try:
                found = self.store.snapshots.list(snapshotter)
                self._lists[snapshotter] = {info.name: _light(info) for info in found}
            except Unsupported as error:
                self._lists[snapshotter] = error
        return self._lists[snapshotter]


def _light(info: SnapshotInfo) -> SnapshotInfo:
    labels = {key: value for key, value in info.labels.items() if key.startswith(_REMOTE)}
    return msgspec.structs.replace(info, labels=labels)

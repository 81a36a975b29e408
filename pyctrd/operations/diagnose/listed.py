"""ListedInspection: access to a namespace for the diagnosis of many images.

Content and snapshots are listed once, so that no blob or snapshot is asked for by itself.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import Final

import msgspec

from pyctrd.errors import ContentError, DaemonError, NotFound, Unsupported
from pyctrd.oci import graph, mediatypes
from pyctrd.oci.model import ContentInfo, Descriptor, Digest, SnapshotInfo
from pyctrd.oci.platforms import Matcher
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

    def read_ahead(self, targets: Iterable[Descriptor], matcher: Matcher | None) -> None:
        """Read the documents of images for matching platforms, or with None for all, many at a time.

        What cannot be read is left out here, and so is what is too much to keep.
        """
        self.shrink(_KEPT_BYTES)
        content = self.remembered.content
        generation = list(targets)
        for _ in range(graph.MAX_DEPTH):
            new = {item.digest: item for item in generation if item.digest in self.digests}
            if not new:
                return
            few = itertools.takewhile(lambda _: content.document_bytes < _KEPT_BYTES, new.values())
            deque(content.read_several(few), maxlen=0)
            generation = [child for item in new.values() for child in self._documents_in(item, matcher)]

    def _documents_in(self, parent: Descriptor, matcher: Matcher | None) -> Sequence[Descriptor]:
        try:
            children = self.children(parent)
        except (ContentError, DaemonError, NotFound):
            return ()
        if mediatypes.is_index(parent.media_type):
            return list(filter(graph.fits(matcher), children) if matcher else children)
        return children[:1] if matcher is None or parent.platform is None else ()

    def snapshot(self, snapshotter: str, name: str) -> SnapshotInfo | None:
        found = self._listed(snapshotter)
        if isinstance(found, Unsupported):
            raise Unsupported(found.message, code=found.code, kind=found.kind, name=found.name)
        return found.get(name)

    def blobs_of_diff_id(self, diff_id: Digest) -> tuple[Digest, ...]:  # noqa: ARG002 - only evidence
        """Return none: each would be a scan of the content, for evidence that a list does not show."""
        return ()

    def shrink(self, limit: int = 2 * _KEPT_BYTES) -> None:
        """Forget the documents that were read if they are many; images that follow may share a few."""
        if self.remembered.content.shrink(limit):
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

"""Looking at a store without touching it: every answer is read once and remembered."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from pyctrd.errors import ContentError, NotFound
from pyctrd.oci import graph
from pyctrd.oci.model import ContentInfo, Descriptor, Digest, ImageConfig, SnapshotInfo
from pyctrd.ports import Store


class Inspection:
    """Read-only access to one namespace, with a memory.

    Only calls that leave no trace are made: Info, Read and List of content, Stat of snapshots. In
    particular no write is opened, although that would tell whether another namespace has a blob.
    """

    def __init__(self, store: Store) -> None:
        self.store = store
        self._read_children = graph.read_children(self.read)
        self._children: dict[tuple[Digest, str], Sequence[Descriptor]] = {}
        self._infos: dict[Digest, ContentInfo | None] = {}
        self._documents: dict[Digest, bytes] = {}
        self._snapshots: dict[tuple[str, str], SnapshotInfo | None] = {}

    def info(self, digest: Digest) -> ContentInfo | None:
        """Give a blob's size and labels, or None when it is absent."""
        if digest not in self._infos:
            try:
                self._infos[digest] = self.store.content.info(digest)
            except NotFound:
                self._infos[digest] = None
        return self._infos[digest]

    def present(self, descriptor: Descriptor) -> bool:
        """Tell whether the content of a descriptor is here."""
        return self.info(descriptor.digest) is not None

    def read(self, descriptor: Descriptor) -> bytes:
        """Read a document whole; raises NotFound when absent, ContentError when too large."""
        if self.info(descriptor.digest) is None:
            raise NotFound(
                f"content digest {descriptor.digest}: not found", kind="content", name=descriptor.digest
            )
        if descriptor.digest not in self._documents:
            raw = self.store.content.read_all(descriptor.digest, limit=graph.size_limit(descriptor))
            self._documents[descriptor.digest] = raw
        return self._documents[descriptor.digest]

    def children(self, descriptor: Descriptor) -> Sequence[Descriptor]:
        """List what a document names, parsed once; raises NotFound when absent, ContentError."""
        key = descriptor.digest, descriptor.media_type
        if key not in self._children:
            self._children[key] = self._read_children(descriptor)
        return self._children[key]

    def config(self, descriptor: Descriptor) -> ImageConfig | None:
        """Read an image config; None when it is absent or does not parse."""
        try:
            return ImageConfig.parse(self.read(descriptor))
        except (NotFound, ContentError):
            return None

    @property
    def remembered(self) -> Store:
        """The store for whoever only looks at content; what is known already is not asked for again."""
        return cast("Store", _Remembered(self))

    def labels(self, digest: Digest) -> dict[str, str]:
        """Give a blob's labels; none when it is absent."""
        info = self.info(digest)
        return dict(info.labels) if info else {}

    def snapshot(self, snapshotter: str, name: str) -> SnapshotInfo | None:
        """Give a snapshot, or None when it is not there. Raises Unsupported for an unknown snapshotter."""
        key = (snapshotter, name)
        if key not in self._snapshots:
            try:
                self._snapshots[key] = self.store.snapshots.stat(snapshotter, name)
            except NotFound:
                self._snapshots[key] = None
        return self._snapshots[key]

    def blobs_of_diff_id(self, diff_id: Digest) -> tuple[Digest, ...]:
        """List the blobs that were unpacked to this diff id, by containerd's own label on them."""
        key = "containerd.io/uncompressed"
        found = self.store.content.list([f'labels."{key}"=={diff_id}'])
        return tuple(item.digest for item in found if item.labels.get(key) == diff_id)


class _Remembered:
    """A store with the content of an inspection. It has nothing that changes anything."""

    def __init__(self, inspection: Inspection) -> None:
        self._inspection = inspection
        self.namespace = inspection.store.namespace
        self.images = inspection.store.images
        self.content = self

    def info(self, digest: Digest) -> ContentInfo:
        found = self._inspection.info(digest)
        if found is None:
            raise NotFound(f"content digest {digest}: not found", kind="content", name=digest)
        return found

    def read_all(self, digest: Digest, *, limit: int) -> bytes:  # noqa: ARG002 - as a store has it
        return self._inspection.read(Descriptor(media_type="", digest=digest, size=0))

"""Inspection: cached read-only access to a store."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress

from pyctrd.errors import ContentError, NotFound
from pyctrd.oci import graph
from pyctrd.oci.model import ContentInfo, Descriptor, Digest, ImageConfig, SnapshotInfo
from pyctrd.ports import Store
from pyctrd.steps.local import RememberedStore


class Inspection:
    """Cached read-only access to one namespace.

    Only makes calls that change nothing: Info, Read and List of content, Stat of snapshots. In particular, it
    does not open a write, although that would show whether another namespace has a blob.
    """

    def __init__(self, store: Store) -> None:
        self.store = store
        self.remembered = RememberedStore(store)
        self._read_children = graph.read_children(self.read)
        self._children: dict[tuple[Digest, str], Sequence[Descriptor]] = {}
        self._snapshots: dict[tuple[str, str], SnapshotInfo | None] = {}

    def remember_image(self, target: Descriptor) -> None:
        """Ask for what an image consists of, one generation after the other, with many calls at a time."""
        content = self.remembered.content
        with suppress(ContentError):  # the diagnosis finds it again, and says what is wrong
            for generation in graph.generations(target, self._readable_children):
                infos = content.infos([item.digest for item in generation])
                content.read_ahead(item for item in generation if item.digest in infos)

    def _readable_children(self, descriptor: Descriptor) -> Sequence[Descriptor]:
        try:
            return self.children(descriptor) if graph.has_children(descriptor) else ()
        except (NotFound, ContentError):
            return ()

    def info(self, digest: Digest) -> ContentInfo | None:
        """Return a blob's size and labels, or None if it is absent."""
        try:
            return self.remembered.content.info(digest)
        except NotFound:
            return None

    def is_present(self, descriptor: Descriptor) -> bool:
        """Whether the content of a descriptor is in the store."""
        return self.info(descriptor.digest) is not None

    def read(self, descriptor: Descriptor) -> bytes:
        """Return a document. Raises NotFound, ContentError if it is too large."""
        content = self.remembered.content
        content.info(descriptor.digest)
        return content.read_all(descriptor.digest, limit=graph.size_limit(descriptor))

    def children(self, descriptor: Descriptor) -> Sequence[Descriptor]:
        """Return the children of a document, which is parsed once. Raises NotFound, ContentError."""
        key = descriptor.digest, descriptor.media_type
        if key not in self._children:
            self._children[key] = self._read_children(descriptor)
        return self._children[key]

    def config(self, descriptor: Descriptor) -> ImageConfig | None:
        """Return an image config; None if it is absent or invalid."""
        try:
            return ImageConfig.parse(self.read(descriptor))
        except (NotFound, ContentError):
            return None

    def labels(self, digest: Digest) -> dict[str, str]:
        """Return a blob's labels; none if it is absent."""
        info = self.info(digest)
        return dict(info.labels) if info else {}

    def snapshot(self, snapshotter: str, name: str) -> SnapshotInfo | None:
        """Return a snapshot, or None. Raises Unsupported for an unknown snapshotter."""
        key = (snapshotter, name)
        if key not in self._snapshots:
            try:
                self._snapshots[key] = self.store.snapshots.stat(snapshotter, name)
            except NotFound:
                self._snapshots[key] = None
        return self._snapshots[key]

    def blobs_of_diff_id(self, diff_id: Digest) -> tuple[Digest, ...]:
        """Return the blobs that were unpacked to this diff id, by containerd's label."""
        key = "containerd.io/uncompressed"
        found = self.store.content.list([f'labels."{key}"=={diff_id}'])
        return tuple(item.digest for item in found if item.labels.get(key) == diff_id)

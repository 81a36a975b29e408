"""GcLabels: the labels that protect an image's content from the garbage collector.

During a pull, the lease protects the content; afterwards only the labels do. `ctr content prune references`,
or any client that edits labels, may remove them during the pull, so they are checked at the end.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pyctrd.amounts import size
from pyctrd.errors import NotFound
from pyctrd.oci.errors import IncompleteContent
from pyctrd.oci.model import EMPTY, ContentInfo, Descriptor, Digest
from pyctrd.ports import ContentStore
from pyctrd.progress import Progress, ProgressSink, no_progress


class GcLabels:
    """Sets gc labels, remembers them, and restores them at the end if necessary."""

    def __init__(self, content: ContentStore, progress: ProgressSink = no_progress) -> None:
        self._content = content
        self._progress = progress
        self._labels: dict[Digest, Mapping[str, str]] = {}

    def set_labels(
        self, digest: Digest, labels: Mapping[str, str], *, known: Mapping[str, str] = EMPTY
    ) -> None:
        """Set and remember labels of a blob, except those that are `known`. Raises NotFound, DaemonError."""
        self._labels[digest] = {**self._labels.get(digest, {}), **labels}
        if not labels.items() <= known.items():
            self._content.set_labels(digest, labels)

    def check(self, wanted: Sequence[Descriptor]) -> None:
        """Check that all blobs are in the store, and restore the labels that another client removed.

        Raises IncompleteContent with the missing blobs, DaemonError.
        """
        found = self._content.infos([descriptor.digest for descriptor in wanted])
        missing = [descriptor for descriptor in wanted if not self._is_kept(descriptor, found)]
        if missing:
            raise IncompleteContent(
                f"content digest {missing[0].digest}: not found ({len(missing)} of {len(wanted)} blobs, "
                f"{size(sum(item.size for item in missing))}, disappeared in the meantime)",
                missing=missing,
                hint="another client deleted content while it was being fetched; try again",
            )

    def _is_kept(self, descriptor: Descriptor, found: Mapping[Digest, ContentInfo]) -> bool:
        if descriptor.digest not in found:
            return False
        try:
            current = found[descriptor.digest].labels
            labels = self._labels.get(descriptor.digest, {})
            lost = {key: value for key, value in labels.items() if current.get(key) != value}
            if lost:
                self._content.set_labels(descriptor.digest, lost)
                self._report(descriptor, len(lost), len(labels))
        except NotFound:
            return False
        return True

    def _report(self, descriptor: Descriptor, lost: int, known: int) -> None:
        detail = f"another client removed {lost} of {known} gc labels; restored"
        self._progress(
            Progress(
                action="mended",
                descriptor=descriptor,
                offset=descriptor.size,
                total=descriptor.size,
                detail=detail,
            )
        )

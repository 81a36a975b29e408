"""GcLabels: labels that hold an image's content together, and the last look before somebody relies on it.

`ctr content prune references` and whoever edits labels can take away, in the middle of a pull, what the
collector goes by. A lease keeps the content until the end; after that only the labels do.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pyctrd.errors import NotFound
from pyctrd.oci.errors import IncompleteContent
from pyctrd.oci.model import Descriptor, Digest
from pyctrd.ports import ContentStore
from pyctrd.progress import Progress, ProgressSink, no_progress


class GcLabels:
    """Sets labels on parents, remembers them, and looks after them at the end."""

    def __init__(self, content: ContentStore, progress: ProgressSink = no_progress) -> None:
        self._content = content
        self._progress = progress
        self._labels: dict[Digest, Mapping[str, str]] = {}

    def set_labels(self, digest: Digest, labels: Mapping[str, str]) -> None:
        """Set labels on a blob, and remember them. Raises NotFound, DaemonError."""
        self._labels[digest] = labels
        self._content.set_labels(digest, labels)

    def check(self, wanted: Sequence[Descriptor]) -> None:
        """Look at every blob that is promised, and set those labels again that somebody took away.

        Raises IncompleteContent with all that is not here any more, DaemonError.
        """
        missing = [descriptor for descriptor in wanted if not self._is_kept(descriptor)]
        if missing:
            raise IncompleteContent(
                f"content digest {missing[0].digest}: not found ({len(missing)} of {len(wanted)} blobs "
                "vanished meanwhile)",
                missing=missing,
                hint="another client deleted content while it was fetched; run the command again",
            )

    def _is_kept(self, descriptor: Descriptor) -> bool:
        try:
            there = self._content.info(descriptor.digest).labels
            labels = self._labels.get(descriptor.digest, {})
            lost = {key: value for key, value in labels.items() if there.get(key) != value}
            if lost:
                self._content.set_labels(descriptor.digest, lost)
                self._tell(descriptor, len(lost), len(labels))
        except NotFound:
            return False
        return True

    def _tell(self, descriptor: Descriptor, lost: int, known: int) -> None:
        detail = f"another client removed {lost} of {known} labels that keep its content; set again"
        self._progress(
            Progress(
                action="mended",
                descriptor=descriptor,
                offset=descriptor.size,
                total=descriptor.size,
                detail=detail,
            )
        )

"""BlobTable: the blobs of a namespace with many, in little memory."""

from __future__ import annotations

import itertools
import operator
from array import array
from bisect import bisect_left
from collections.abc import Iterable, Sequence

from pyctrd.oci.model import ContentInfo, Digest


class BlobTable:
    """The digests and sizes of blobs, sorted by digest; what is known of each has the same position."""

    def __init__(self, infos: Iterable[ContentInfo]) -> None:
        self.digests: list[Digest] = []
        self.sizes = array("q")
        for info in infos:
            self._add(info)
        if any(map(operator.gt, self.digests, itertools.islice(self.digests, 1, None))):
            # containerd sends them sorted
            self._sort(sorted(range(len(self.digests)), key=self.digests.__getitem__))

    def _add(self, info: ContentInfo) -> None:
        self.digests.append(info.digest)
        self.sizes.append(info.size)

    def _sort(self, order: Sequence[int]) -> None:
        self.digests = [self.digests[position] for position in order]
        self.sizes = array("q", (self.sizes[position] for position in order))

    def position(self, digest: str) -> int | None:
        """Return the position of a blob; None if there is no such blob."""
        position = bisect_left(self.digests, digest)
        return position if self.digests[position : position + 1] == [digest] else None

    def known(self, digest: Digest) -> Digest | None:
        """Return the digest as it is in memory here; None if there is no such blob."""
        position = self.position(digest)
        return None if position is None else self.digests[position]

    def __contains__(self, digest: object) -> bool:
        """Whether there is such a blob."""
        return isinstance(digest, str) and self.position(digest) is not None

    def __len__(self) -> int:
        """Return the number of blobs."""
        return len(self.digests)

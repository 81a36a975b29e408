"""Find the referrers of loaded images in an archive: signatures, SBOMs and the like.

`pyctrd save --referrers` and clients of containerd 2.2 and later list them in index.json with an annotation
that has their subject; in the layouts of oras, only they themselves say it. An import by ctr leaves them to
the garbage collector.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

from pyctrd import redact
from pyctrd.archive.layout import IMAGE_NAME, REF_NAME
from pyctrd.errors import InvalidReference
from pyctrd.oci import graph, referrers
from pyctrd.oci.model import Descriptor, Digest
from pyctrd.oci.referrers import Referrer
from pyctrd.operations.load.planning import Planner

_log = redact.logger("pyctrd.images")


class ArchivedReferrers:
    """The referrers among the entries of an archive's index.json. Reads and validates documents only."""

    def __init__(self, entries: Iterable[Descriptor], planner: Planner) -> None:
        self._planner = planner
        candidates = [entry for entry in graph.by_digest(entries).values() if _may_refer(entry)]
        self._candidates = [item for item in map(self._referrer, candidates) if item is not None]

    def of(self, loaded: Collection[Digest]) -> tuple[Referrer, ...]:
        """Return the referrers of loaded content, and their referrers, each after its subject.

        One that is not complete is left out with a warning. Raises ArchiveError.
        """
        known = set(loaded)
        waiting = [item for item in self._candidates if item.target.digest not in known]
        found: list[Referrer] = []
        while ready := [item for item in waiting if item.subject in known]:
            waiting = [item for item in waiting if item.subject not in known]
            for item in ready:
                missing = self._planner.missing(item.target)
                if missing:
                    _log.warning(
                        "%s, which refers to %s, is not loaded: content digest %s: not found",
                        item.target.digest,
                        item.subject,
                        missing[0].digest,
                        extra={"digest": str(item.target.digest)},
                    )
                    continue
                found.append(item)
                blobs = graph.preorder(item.target, self._planner.children)
                known.update(blob.digest for blob in blobs if graph.has_children(blob))
        return tuple(found)

    def _referrer(self, entry: Descriptor) -> Referrer | None:
        if not self._planner.has(entry):
            return None
        raw = self._planner.read(entry)
        subject = referrers.subject_of(entry, raw)
        stated = entry.annotations.get(referrers.SUBJECT)
        try:
            digest = Digest(stated) if stated else subject and subject.digest
        except InvalidReference:
            return None
        return Referrer(subject=digest, target=referrers.described(entry, raw)) if digest else None


def _may_refer(entry: Descriptor) -> bool:
    """Whether this is listed as a referrer, or has no name: what has one is an image of its own."""
    names = entry.annotations.keys() & {IMAGE_NAME, REF_NAME}
    return graph.has_children(entry) and (referrers.SUBJECT in entry.annotations or not names)

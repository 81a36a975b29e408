"""Find the referrers that a content store has."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from pyctrd.errors import ContentError, InvalidReference, NotFound
from pyctrd.oci import mediatypes, referrers
from pyctrd.oci.model import MAX_MANIFEST_BYTES, ContentInfo, Descriptor, Digest
from pyctrd.ports import ContentStore


class StoredReferrers:
    """The referrers in a content store.

    A manifest is one if its `subject` says so, or else a gc label: a reference from the subject, or a back
    reference to it. The first call reads every index and manifest of the namespace.
    """

    def __init__(self, content: ContentStore) -> None:
        self._content = content
        self._of: dict[Digest, dict[Digest, Descriptor]] | None = None

    def of(self, subject: Digest) -> Sequence[Descriptor]:
        """Return the referrers of a digest, sorted by digest. Raises DaemonError."""
        if self._of is None:
            self._of = self._find()
        found = self._of.get(subject, {})
        return [found[digest] for digest in sorted(found)]

    def _find(self) -> dict[Digest, dict[Digest, Descriptor]]:
        infos = {info.digest: info for info in self._content.list()}
        labelled = [(subject, referrer) for info in infos.values() for subject, referrer in _labelled(info)]
        found: dict[Digest, dict[Digest, Descriptor]] = {}
        by_label = {referrer for _, referrer in labelled}
        known: dict[Digest, Descriptor] = {}
        for info in infos.values():
            raw = self._read(info) if info.digest in by_label or _has_children(info) else b""
            if info.digest not in by_label and b'"subject"' not in raw:
                continue
            descriptor = referrers.recognized(info.digest, raw)
            if descriptor is not None:
                known[info.digest] = descriptor
                subject = referrers.subject_of(descriptor, raw)
                if subject is not None:
                    found.setdefault(subject.digest, {})[info.digest] = descriptor
        for digest, referrer in labelled:
            if referrer in known:
                found.setdefault(digest, {})[referrer] = known[referrer]
        return found

    def _read(self, info: ContentInfo) -> bytes:
        if info.size > MAX_MANIFEST_BYTES:
            return b""
        try:
            return self._content.read_all(info.digest, limit=MAX_MANIFEST_BYTES)
        except (NotFound, ContentError):  # deleted in the meantime, or damaged
            return b""


def _has_children(info: ContentInfo) -> bool:
    """Whether this has the labels of an index or a manifest: without them, its content is not kept."""
    return any(key.startswith(mediatypes.GC_REF) for key in info.labels)


def _labelled(info: ContentInfo) -> Iterator[tuple[Digest, Digest]]:
    """Yield the subjects and referrers that the labels of a blob state."""
    for key, value in info.labels.items():
        try:
            if referrers.is_gc_label(key):
                yield info.digest, Digest(value)
            elif referrers.is_back_reference(key):
                yield Digest(value), info.digest
        except InvalidReference:
            continue

"""Find the referrers of what is saved, fetch and pin them, and add them to the archive.

They are those in the store and those that registries list, with their own referrers, such as the signature of
an SBOM. Source for the entries in index.json: containerd core/images/archive/exporter.go.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import msgspec

from pyctrd import redact
from pyctrd.amounts import count, size
from pyctrd.archive.layout import ArchiveImage
from pyctrd.errors import ContentError, NotFound, PyctrdError, RegistryError
from pyctrd.oci import graph, referrers
from pyctrd.oci.errors import IncompleteContent
from pyctrd.oci.model import Descriptor, Digest, ImageRecord
from pyctrd.oci.platforms import Selection
from pyctrd.oci.referrers import Referrer
from pyctrd.operations import ensure
from pyctrd.operations.ensure import EnsureResult
from pyctrd.operations.save.options import SaveOptions, Skipped
from pyctrd.ports import Fetchers, ReferrerSource, ReferrerSources
from pyctrd.progress import ProgressSink, no_progress
from pyctrd.steps.local import LocalImage, RememberedStore
from pyctrd.steps.pin import pin
from pyctrd.steps.referrers import StoredReferrers

_log = redact.logger("pyctrd.images")


class ReferrerSearch:
    """Adds the referrers of images to an archive.

    `found` are those that were added, `ensured` what was fetched of them, and `skipped` what is left out
    because it is missing. If it is `planned` only, nothing is fetched, and `missing` is what would be.
    """

    def __init__(
        self,
        store: RememberedStore,
        options: SaveOptions,
        fetchers: Fetchers,
        sources: ReferrerSources,
        *,
        planned: bool = False,
        progress: ProgressSink = no_progress,
    ) -> None:
        self._store = store
        self._options = options
        self._fetchers = fetchers
        self._sources = sources
        self._planned = planned
        self._progress = progress
        self._stored = StoredReferrers(store.content)
        self._targets = Selection(all=True).resolve()
        self._seen = set[Digest]()
        self._unread: dict[Digest, LocalImage] = {}
        self.found: list[Referrer] = []
        self.ensured: list[EnsureResult] = []
        self.missing: dict[Digest, Descriptor] = {}
        self.skipped: list[Skipped] = []

    def added(self, images: Sequence[ImageRecord], archived: Sequence[ArchiveImage]) -> list[ArchiveImage]:
        """Return the archived images, each one of `images`, with their referrers.

        Raises RegistryError if no registry lists the referrers of an image, IncompleteContent, ContentError.
        """
        if not self._options.referrers:
            return list(archived)
        records = {image.name: image for image in images}
        self._seen.update(blob.digest for image in archived for blob in image.blobs)
        return [self._extended(records[image.name], image) for image in archived]

    def reader(self, read: graph.ReadDocument) -> graph.ReadDocument:
        """Return a reader that also has the documents of referrers that a dry run does not fetch."""

        def reading(descriptor: Descriptor) -> bytes:
            local = self._unread.get(descriptor.digest)
            return local.read(descriptor) if local else read(descriptor)

        return reading

    def _extended(self, image: ImageRecord, archived: ArchiveImage) -> ArchiveImage:
        subjects = [
            blob
            for blob in graph.by_digest(archived.blobs).values()
            if graph.has_children(blob) and blob.digest not in archived.generated
        ]
        lists = _Lists(image, self._options, self._sources)
        added = list(self._walk(image, subjects, lists))
        if image.target.digest not in {blob.digest for blob in archived.blobs}:
            self._warn_of_index(image, lists)
        self.found += [referrer for referrer, _ in added]
        return msgspec.structs.replace(
            archived,
            referrers=tuple(referrers.listed(referrer) for referrer, _ in added),
            blobs=(*archived.blobs, *(blob for _, blobs in added for blob in blobs)),
        )

    def _warn_of_index(self, image: ImageRecord, lists: _Lists) -> None:
        """Warn that an index which the archive does not have, since it has a pruned one, has referrers."""
        found = {
            item.digest for item in (*self._stored.of(image.target.digest), *lists.of(image.target.digest))
        }
        if found:
            _log.warning(
                "%s of the index of %s left out: the archive has another index, or none",
                count(len(found), "referrer"),
                image.name,
                extra={"subject": image.name, "digest": str(image.target.digest)},
            )

    def _walk(
        self, image: ImageRecord, subjects: Sequence[Descriptor], lists: _Lists
    ) -> Iterator[tuple[Referrer, Sequence[Descriptor]]]:
        """Yield the referrers of the subjects, then their referrers, and so on, each with all its blobs."""
        level = 0
        while subjects:
            following: list[Descriptor] = []
            for subject in subjects:
                for target, is_stored in self._of(subject.digest, lists):
                    if level == referrers.MAX_LEVELS:
                        raise ContentError(
                            f"the referrers of {image.name} are nested more than {level} levels deep"
                        )
                    graph.check_count(image.target, len(self._seen), graph.MAX_DESCRIPTORS)
                    referrer = Referrer(subject=subject.digest, target=target)
                    taken = self._taken(image, referrer, is_stored)
                    if taken:
                        yield taken
                        following += filter(graph.has_children, taken[1])
            subjects = following
            level += 1

    def _of(self, subject: Digest, lists: _Lists) -> Iterator[tuple[Descriptor, bool]]:
        """Yield the referrers of a subject that were not found before, and whether the store says so."""
        stored = self._stored.of(subject)
        for number, target in enumerate((*stored, *lists.of(subject))):
            if target.digest not in self._seen:
                self._seen.add(target.digest)
                yield target, number < len(stored)

    # --- check, fetch and pin one

    def _taken(
        self, image: ImageRecord, referrer: Referrer, is_stored: bool
    ) -> tuple[Referrer, Sequence[Descriptor]] | None:
        """Return a referrer as it describes itself, and all its blobs, which are available then.

        None if it is left out.
        """
        try:
            local = LocalImage(self._store, referrer.target)
            missing = local.missing(self._targets)
            if missing and self._options.ensure != "none":
                local = LocalImage(self._store, referrer.target, self._fetchers(image))
            if not is_stored:
                raw = local.read(referrer.target)
                if not _refers(referrer, raw):
                    _log.warning(
                        "%s is listed as a referrer of %s, but has another subject, and is left out",
                        referrer.target.digest,
                        referrer.subject,
                        extra={"digest": str(referrer.target.digest)},
                    )
                    return None
                target = referrers.described(referrer.target, raw)
                referrer = msgspec.structs.replace(referrer, target=target)
            if missing and self._options.ensure == "none":
                raise _incomplete(image, missing)
            if not self._planned:
                return referrer, self._pinned(image, referrer, missing)
            if any(map(graph.has_children, missing)):  # whose children are not known yet
                missing = local.missing(self._targets)
        except (NotFound, RegistryError, IncompleteContent) as error:
            is_missing = not isinstance(error, RegistryError) or error.status == 404
            if self._options.on_missing == "fail" or not is_missing:
                raise
            self._skip(image, referrer, error)
            return None
        self.missing.update((item.digest, item) for item in missing)
        self._unread.update((item.digest, local) for item in missing)
        return referrer, _blobs(local)

    def _skip(self, image: ImageRecord, referrer: Referrer, error: PyctrdError) -> None:
        missing = error.missing if isinstance(error, IncompleteContent) else (referrer.target,)
        digest = referrer.target.digest
        message = f"{image.name} is saved without its referrer {digest}: {error.message}"
        if self._options.on_missing == "warn":
            _log.warning("%s", message, extra={"subject": image.name, "digest": str(digest)})
        self.skipped.append(Skipped(image=image.name, referrer=digest, missing=missing, message=message))

    def _pinned(
        self, image: ImageRecord, referrer: Referrer, missing: Sequence[Descriptor]
    ) -> Sequence[Descriptor]:
        """Fetch what is missing, and pin all of it; return all blobs. Raises IncompleteContent."""
        if missing:
            self._fetch(image, referrer)
        blobs = _blobs(LocalImage(self._store, referrer.target))
        absent = pin(self._store, blobs)
        if absent:
            raise _incomplete(image, absent)
        return blobs

    def _fetch(self, image: ImageRecord, referrer: Referrer) -> None:
        """Fetch what is missing; it stays in the store as the content of an image does."""
        done = ensure.ensure(
            self._store.store,
            msgspec.structs.replace(image, target=referrer.target),
            self._targets,
            lambda _part: self._fetchers(image),
            concurrency=self._options.concurrency,
            progress=self._progress,
        )
        self.ensured.append(done)
        self._store.content.forget_absent()
        self._store.content.set_labels(referrer.subject, referrers.gc_label(referrer.target.digest))


class _Lists:
    """The registries' lists of referrers for the manifests of one image.

    A registry that fails is not asked again. It is an error only if no other one answers.
    """

    def __init__(self, image: ImageRecord, options: SaveOptions, sources: ReferrerSources) -> None:
        self._image = image
        self._fails = options.on_missing == "fail"
        self._sources: list[ReferrerSource] = []
        if options.ensure != "none":
            self._sources += sources(image)

    def of(self, subject: Digest) -> Sequence[Descriptor]:
        """Return what the registries list for a digest. Raises RegistryError."""
        found: dict[Digest, Descriptor] = {}
        for source in tuple(self._sources):
            try:
                listed = source.referrers(subject)
            except RegistryError as error:
                self._sources.remove(source)
                if not self._sources and self._fails:
                    error.hint = error.hint or "`ensure=none` saves the referrers in the store"
                    raise
                _log.warning(
                    "referrers that only %s has are left out: %s",
                    source.host,
                    error.message,
                    extra={"host": source.host, "status": error.status},
                )
                continue
            for item in listed:
                if graph.has_children(item):
                    found.setdefault(item.digest, item)
                else:
                    _log.warning(
                        "%s has a referrer that is no manifest, and is left out: %s (%s)",
                        self._image.name,
                        item.digest,
                        item.media_type,
                        extra={"subject": self._image.name, "digest": str(item.digest)},
                    )
        return list(found.values())


def _refers(referrer: Referrer, raw: bytes) -> bool:
    """Whether the bytes of a listed referrer have the subject that it is listed for."""
    subject = referrers.subject_of(referrer.target, raw)
    return subject is not None and subject.digest == referrer.subject


def _blobs(local: LocalImage) -> list[Descriptor]:
    return list(graph.by_digest(graph.preorder(local.target, local.children)).values())


def _incomplete(image: ImageRecord, absent: Sequence[Descriptor]) -> IncompleteContent:
    return IncompleteContent(
        f"content digest {absent[0].digest}: not found: it belongs to a referrer of {image.name} "
        f"(missing: {count(len(absent), 'blob')}, {size(sum(item.size for item in absent))})",
        missing=absent,
        hint="save it with network access, or without what is missing by `on_missing`",
    )

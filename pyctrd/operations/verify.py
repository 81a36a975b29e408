"""Verify: hash the content of images, report damage, and replace damaged content.

containerd only checks a blob when it is committed, so damage on disk goes unnoticed until the blob is used.
This does not trust a blob that it has not hashed itself.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from typing import Literal, TypeAlias

import msgspec

from pyctrd.errors import ContentError, DaemonError, NotFound, PyctrdError
from pyctrd.oci import graph
from pyctrd.oci.model import MAX_MANIFEST_BYTES, Descriptor, Digest, ImageRecord, Platform
from pyctrd.oci.platforms import Matcher, Selection
from pyctrd.operations import repair
from pyctrd.ports import ContentStore, Fetcher, Fetchers, Store
from pyctrd.progress import Progress, ProgressSink, no_progress
from pyctrd.steps.fetch import Downloader, source_labels
from pyctrd.steps.local import LocalImage

# missing: not in the store; unreadable: the store cannot read it; truncated: too few bytes; corrupt: wrong
# bytes; malformed: the right bytes, which do not match their media type.
Fault: TypeAlias = Literal["missing", "unreadable", "truncated", "corrupt", "malformed"]


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """A damaged or missing blob.

    `images` are the names of the images that need it; empty if there are none. `platform` is the one that
    the first of them needs it for; None if that is unknown, or it is for all. `repaired` is true if it has
    been replaced by a good copy. `detail` is a message for people.
    """

    digest: Digest
    fault: Fault
    detail: str
    size: int = 0
    media_type: str = ""
    images: tuple[str, ...] = ()
    platform: Platform | None = None
    repaired: bool = False


class VerifyResult(msgspec.Struct, frozen=True, kw_only=True):
    """How many blobs were hashed, their total size, and the findings, sorted by digest."""

    blobs: int
    bytes_hashed: int
    findings: tuple[Finding, ...]

    @property
    def ok(self) -> bool:
        """Whether there are no findings, or all of them were repaired."""
        return all(finding.repaired for finding in self.findings)


class Repair(msgspec.Struct, frozen=True, kw_only=True):
    """Where to fetch good copies, and the other namespaces of the same store."""

    fetchers: Fetchers
    others: Sequence[Store] = ()


def verify(
    store: Store,
    images: Sequence[ImageRecord],
    selection: Selection,
    *,
    orphans: bool = False,
    repairing: Repair | None = None,
    progress: ProgressSink = no_progress,
) -> VerifyResult:
    """Hash the content of images, and with `orphans` also all other blobs of the namespace.

    Absent content is only reported for the selected platforms. With `repairing`, damaged or missing
    content of an image is fetched by its digest. Raises DaemonError, DaemonUnreachable; errors of registries
    are in the findings.
    """
    with ExitStack() as stack:
        view = stack.enter_context(store.lease("verify --repair")) if repairing else store
        run = _Run(view, repairing, progress)
        for image in images:
            targets = selection.resolve(LocalImage(store, image.target).platforms)
            run.image(image, targets.matcher)
        if orphans:
            run.rest(info.digest for info in tuple(store.content.list()))
        return run.result()


class _Run:
    """The state of a verification: each blob is hashed once, no matter how many images have it."""

    def __init__(self, store: Store, repairing: Repair | None, progress: ProgressSink) -> None:
        self._store = store
        self._repairing = repairing
        self._progress = progress
        self._sizes: dict[Digest, int] = {}
        self._findings: dict[Digest, Finding] = {}
        self._sound = set[Digest]()
        self._platform: Platform | None = None  # that the blob is for that is being checked

    def result(self) -> VerifyResult:
        findings = sorted(self._findings.values(), key=lambda item: item.digest)
        return VerifyResult(
            blobs=len(self._sizes), bytes_hashed=sum(self._sizes.values()), findings=tuple(findings)
        )

    def image(self, image: ImageRecord, targets: Matcher) -> None:
        """Check an image from its target downwards; only undamaged documents are followed."""
        needed = _Needed(targets)
        for generation in graph.generations(image.target, self._step(image, needed), depends_on=needed.has):
            for descriptor in generation:
                self._platform = needed.platform.get(descriptor.digest)
                self._check(descriptor, image, needed=needed.has(descriptor))

    def rest(self, digests: Iterable[Digest]) -> None:
        """Hash the blobs that do not belong to an image."""
        for digest in digests:
            if digest not in self._sizes and digest not in self._findings:
                size = self._store.content.info(digest).size
                self._hash(Descriptor(media_type="", digest=digest, size=size))

    def _step(self, image: ImageRecord, needed: _Needed) -> graph.Children:
        plain = graph.read_children(self._read)
        if self._repairing is not None:  # restore gc labels, without which content may be removed
            plain = graph.labelled(plain, self._store.content.set_labels)

        def step(descriptor: Descriptor) -> Sequence[Descriptor]:
            if descriptor.digest not in self._sound:
                return ()
            try:
                return needed.of(descriptor, plain(descriptor))
            except ContentError as error:
                self._note(descriptor, "malformed", error.message, image)
                return ()

        return step

    def _read(self, descriptor: Descriptor) -> bytes:
        return self._store.content.read_all(descriptor.digest, limit=MAX_MANIFEST_BYTES)

    def _check(self, descriptor: Descriptor, image: ImageRecord, *, needed: bool) -> None:
        known = self._findings.get(descriptor.digest)
        if known is not None:
            names = tuple(dict.fromkeys((*known.images, image.name)))
            self._findings[descriptor.digest] = msgspec.structs.replace(known, images=names)
            return
        if descriptor.digest in self._sound:
            return
        found = self._hash(descriptor, image, absent_is_fine=not needed)
        if found is not None and self._repairing is not None:
            self._repair(found, descriptor, image)

    def _hash(
        self, descriptor: Descriptor, image: ImageRecord | None = None, *, absent_is_fine: bool = False
    ) -> Finding | None:
        try:
            size, actual = digest_of(self._store.content, descriptor.digest, self._reporter(descriptor))
        except NotFound as error:
            return None if absent_is_fine else self._note(descriptor, "missing", error.message, image)
        except (ContentError, DaemonError) as error:
            return self._note(descriptor, "unreadable", error.message, image)
        self._sizes[descriptor.digest] = size
        if size < descriptor.size:
            detail = f"it has {size} bytes instead of {descriptor.size}"
            return self._note(descriptor, "truncated", detail, image)
        if actual != descriptor.digest:
            return self._note(descriptor, "corrupt", f"unexpected digest {actual}", image)
        self._sound.add(descriptor.digest)
        return None

    def _reporter(self, descriptor: Descriptor) -> Callable[[int], None]:
        def report(done: int) -> None:
            self._progress(
                Progress(action="verifying", descriptor=descriptor, offset=done, total=descriptor.size)
            )

        return report

    def _note(self, descriptor: Descriptor, fault: Fault, detail: str, image: ImageRecord | None) -> Finding:
        found = Finding(
            digest=descriptor.digest,
            fault=fault,
            detail=detail,
            size=descriptor.size,
            media_type=descriptor.media_type,
            images=(image.name,) if image else (),
            platform=self._platform if image else None,
        )
        self._findings[descriptor.digest] = found
        return found

    def _repair(self, found: Finding, descriptor: Descriptor, image: ImageRecord) -> None:
        assert self._repairing is not None
        try:
            self._replace(found, descriptor, self._repairing.fetchers(image), self._repairing.others)
            size, actual = digest_of(self._store.content, descriptor.digest)
        except PyctrdError as error:
            repaired, detail = False, f"{found.detail}; not repaired: {error.message}"
        else:
            repaired, detail = actual == descriptor.digest and size == descriptor.size, found.detail
        if repaired:
            self._sizes[descriptor.digest] = size
            self._sound.add(descriptor.digest)
        self._findings[descriptor.digest] = msgspec.structs.replace(found, repaired=repaired, detail=detail)

    def _replace(
        self, found: Finding, descriptor: Descriptor, fetchers: Sequence[Fetcher], others: Sequence[Store]
    ) -> None:
        if found.fault == "missing":
            downloader = Downloader(
                self._store.content,
                fetchers,
                claim_present=False,
                labels=source_labels,
                progress=self._progress,
            )
            downloader.fetch(descriptor)
        else:
            repair.replace(self._store, descriptor, fetchers, others=others, progress=self._progress)


class _Needed:
    """Which descriptors should be in the store: the image's target, and what is below it for the targets."""

    def __init__(self, targets: Matcher) -> None:
        self._targets = targets
        self._unneeded = set[Digest]()
        self._needed = set[Digest]()
        self.platform: dict[Digest, Platform | None] = {}

    def has(self, descriptor: Descriptor) -> bool:
        return descriptor.digest not in self._unneeded or descriptor.digest in self._needed

    def of(self, parent: Descriptor, children: Sequence[Descriptor]) -> Sequence[Descriptor]:
        wanted = self.has(parent)
        for child in children:
            fits = child.platform is None or self._targets.match(child.platform)
            self.platform.setdefault(child.digest, child.platform or self.platform.get(parent.digest))
            (self._needed if wanted and fits else self._unneeded).add(child.digest)
        return children


def digest_of(
    content: ContentStore, digest: Digest, report: Callable[[int], None] = lambda _done: None
) -> tuple[int, str]:
    """Read a whole blob, and return its size in bytes and its actual digest.

    `report` is called with the number of bytes read. Raises NotFound, ContentError if only its file is
    missing, DaemonError if the store cannot read it.
    """
    state = hashlib.new(digest.algorithm)
    size = 0
    with content.read(digest) as chunks:
        for chunk in chunks:
            state.update(chunk)
            size += len(chunk)
            report(size)
    return size, f"{digest.algorithm}:{state.hexdigest()}"

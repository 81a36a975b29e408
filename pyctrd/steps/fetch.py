"""Bring content from remote repositories into the content store, one blob at a time.

The content service's own protocol decides what is downloaded: ask first, go on at the offset that the store
has, take "already exists" for success, wait for a locked ingest (containerd core/remotes/handlers.go Fetch,
core/content/helpers.go OpenWriter). The store verifies size and digest at the commit.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Final, NamedTuple

import tenacity

from pyctrd.errors import (
    AlreadyExists,
    ContentError,
    FailedPrecondition,
    IngestLocked,
    NotFound,
    RegistryContentError,
    RegistryError,
    RegistryUnreachable,
)
from pyctrd.oci import mediatypes
from pyctrd.oci.model import Descriptor, Digest
from pyctrd.ports import ContentStore, Fetcher, Ingest, RepositoryName
from pyctrd.progress import Action, Progress, ProgressSink, no_progress
from pyctrd.steps import validate
from pyctrd.steps.validate import Validator

REF_NAME: Final = "org.opencontainers.image.ref.name"
# containerd refuses a label whose key and value together are longer (pkg/labels/validate.go).
MAX_LABEL_BYTES: Final = 4096
_PIECE: Final = 1 << 20
# How often other clients may come in between.
_TRIES: Final = 10


class Stopped(Exception):
    """Ends a worker after the run was given up; never reaches a caller."""


class FetchResult(NamedTuple):
    """What it took to have a blob: bytes that came now, and bytes that an interrupted download had left.

    Both are 0 for a blob that was here, or that another namespace shared.
    """

    downloaded: int = 0
    resumed: int = 0


def ingest_ref(descriptor: Descriptor) -> str:
    """Give the ingest's name that every containerd client uses, so that one goes on where another stopped.

    Source: containerd core/remotes/handlers.go MakeRefKey.
    """
    name = descriptor.annotations.get(REF_NAME, "")
    what = f"{name}@{descriptor.digest}" if name else str(descriptor.digest)
    return f"{mediatypes.ingest_prefix(descriptor.media_type)}-{what}"


class Downloader:
    """Fetches single blobs from the first of several repositories that has them.

    `claim_present` is for a pull: the reference's repository names the blobs, so it goes onto their label
    also when they were here before. `validator` checks documents before they are stored. Setting `stop` ends
    the downloads that are under way.
    """

    def __init__(
        self,
        content: ContentStore,
        fetchers: Sequence[Fetcher],
        *,
        claim_present: bool,
        progress: ProgressSink = no_progress,
        validator: Validator | None = None,
    ) -> None:
        self._validator = validator or Validator()
        self._tainted: set[Digest] = set()
        self._content = content
        self._fetchers = tuple(fetchers)
        self._claim_present = claim_present
        self._progress = progress
        self.stop = threading.Event()

    def fetch(self, descriptor: Descriptor) -> FetchResult:
        """Make sure that the store (and the lease in force) has a blob; tells what that took.

        Afterwards the blob's `containerd.io/distribution.source.<host>` label names the repository.
        Raises RegistryError, RegistryContentError, DaemonError.
        """
        if descriptor.size == 0:
            raise RegistryContentError(
                f"unable to fetch descriptor ({descriptor.digest}) which reports content size of zero: "
                "invalid argument",
                hint="the manifest that names this content is broken; it has to be built again",
            )
        try:
            result, fetcher = self._fetch(descriptor)
        except AlreadyExists:
            result, fetcher = FetchResult(), self._default_source
        except RegistryContentError:
            if descriptor.digest in self._tainted:
                self._content.abort(ingest_ref(descriptor))
            raise
        if not any(result):
            self._report("exists", descriptor, descriptor.size)
        elif not result.downloaded:
            self._report("downloaded", descriptor, descriptor.size, resumed=result.resumed)
        if fetcher is not None:
            add_source_label(self._content, descriptor.digest, fetcher)
        return result

    @property
    def _default_source(self) -> Fetcher | None:
        """The repository to name on a blob that was not downloaded now."""
        return self._fetchers[0] if self._claim_present and self._fetchers else None

    def _fetch(self, descriptor: Descriptor) -> tuple[FetchResult, Fetcher | None]:
        for _ in range(_TRIES):
            with self._open(descriptor) as ingest:
                start = ingest.offset
                complete = start == descriptor.size  # also content of another namespace
                resumed = self._left_here(descriptor) if complete else start
                fetcher = self._default_source
                try:
                    if not complete:
                        fetcher = self._download(descriptor, ingest)
                    ingest.commit()
                    return FetchResult(descriptor.size - start, resumed), fetcher
                except AlreadyExists:
                    # Another client was faster. Its blob is under our lease only when we have asked again.
                    continue
                except FailedPrecondition as error:
                    failure = error
            # Left to itself, a wrong ingest is committed again by every client that comes by, for ever.
            self._content.abort(ingest_ref(descriptor))
            if start == 0:
                raise _wrong_bytes(descriptor, fetcher, failure) from failure
            self._report("retrying", descriptor, 0, "what an earlier download left here was corrupt")
        raise ContentError(
            f"content {descriptor.digest} comes and goes while it is fetched",
            hint="another client writes and deletes it at the same time; try again",
        )

    def _left_here(self, descriptor: Descriptor) -> int:
        """Tell how much of a complete ingest an earlier download left: all of it, or nothing.

        Content that another namespace shares opens as a complete write, too, but with no ingest of its own
        behind it, or with one that is not complete (containerd core/metadata/content.go Writer).
        """
        ref = ingest_ref(descriptor)
        whole = any(one.ref == ref and one.offset == descriptor.size for one in self._content.ingests())
        return descriptor.size if whole else 0

    @contextmanager
    def _open(self, descriptor: Descriptor) -> Iterator[Ingest]:
        """Open the ingest, waiting while another client writes the same one."""

        other = _OtherClient(self._content, descriptor)

        def waiting(_state: tenacity.RetryCallState) -> None:
            self._report("waiting", descriptor, 0, "another client is downloading it")
            other.check()

        patiently = tenacity.Retrying(
            retry=tenacity.retry_if_exception_type(IngestLocked),
            wait=tenacity.wait_random_exponential(multiplier=0.016, max=2),
            sleep=tenacity.sleep_using_event(self.stop),
            stop=tenacity.stop_when_event_set(self.stop),
            before_sleep=waiting,
            reraise=True,
        )
        with ExitStack() as stack:
            yield patiently(
                lambda: stack.enter_context(
                    self._content.open_ingest(
                        ingest_ref(descriptor), digest=descriptor.digest, size=descriptor.size
                    )
                )
            )

    def _download(self, descriptor: Descriptor, ingest: Ingest) -> Fetcher | None:
        if len(descriptor.data) == descriptor.size:
            if validate.is_document(descriptor):
                self._validator.check(descriptor, descriptor.data)
            ingest.write(descriptor.data[ingest.offset :])
            return self._default_source
        failure: RegistryError | None = None
        resumed = ingest.offset
        for fetcher in self._fetchers:
            try:
                self._copy(descriptor, fetcher, ingest, resumed)
                return fetcher
            except RegistryError as error:
                failure = failure or error
        if failure is None:
            raise NotFound(
                f"content {descriptor.digest}: not found",
                kind="content",
                name=str(descriptor.digest),
                hint="no repository is known to have it: pull the image by its full name",
            )
        raise failure

    def _copy(self, descriptor: Descriptor, fetcher: Fetcher, ingest: Ingest, resumed: int) -> None:
        self._report("downloading", descriptor, ingest.offset, resumed=resumed)
        if validate.is_document(descriptor):
            raw = self._validator.fetch(fetcher, descriptor)
            for start in range(ingest.offset, len(raw), _PIECE):  # a large one is not copied as a whole
                ingest.write(raw[start : start + _PIECE])
            self._report("downloaded", descriptor, ingest.offset, resumed=resumed)
            return
        start = ingest.offset
        try:
            with fetcher.fetch(descriptor, start) as chunks:
                for chunk in chunks:
                    ingest.write(chunk)
                    self._report("downloading", descriptor, ingest.offset, resumed=resumed)
                    if self.stop.is_set():  # what has come is kept for the next pull
                        raise Stopped
        except RegistryContentError as error:
            # Bytes of a liar are no start for the next pull; those before a cut, or of an earlier one, are.
            if ingest.offset > start and not isinstance(error.__cause__, RegistryUnreachable):
                self._tainted.add(descriptor.digest)
            raise
        self._report("downloaded", descriptor, ingest.offset, resumed=resumed)

    def _report(
        self, action: Action, descriptor: Descriptor, offset: int, detail: str = "", *, resumed: int = 0
    ) -> None:
        self._progress(
            Progress(
                action=action,
                descriptor=descriptor,
                offset=offset,
                total=descriptor.size,
                resumed=resumed,
                detail=detail,
            )
        )


class _OtherClient:
    """Watches whether the client that has an ingest locked gets on with it."""

    def __init__(self, content: ContentStore, descriptor: Descriptor) -> None:
        self._content = content
        self._descriptor = descriptor
        self._offset = -1
        self._since = time.monotonic()

    def check(self) -> None:
        """Raise IngestLocked when it has written nothing for as long as a registry may stand still.

        Bytes that are all there may have to be result to a slow disk: that may take ten times as long.
        """
        ref = ingest_ref(self._descriptor)
        offset = next((one.offset for one in self._content.ingests() if one.ref == ref), -1)
        now = time.monotonic()
        if offset != self._offset:
            self._offset, self._since = offset, now
        seconds = self._content.stall_seconds * (10 if offset == self._descriptor.size else 1)
        if now - self._since > seconds:
            raise IngestLocked(
                f"ref {ref} locked: another client of this containerd has begun to write it, and has written "
                f"nothing for {seconds:g} seconds",
                code="UNAVAILABLE",
                kind="ingest",
                name=ref,
                hint="find that client (a pyctrd, ctr, nerdctl or kubelet, perhaps stopped) and end it; "
                "this command then goes on where it was",
            )


def _wrong_bytes(
    descriptor: Descriptor, fetcher: Fetcher | None, failure: FailedPrecondition
) -> RegistryContentError:
    source = f"{fetcher.host}/{fetcher.repository}" if fetcher else "the manifest's inline data"
    hint = "the registry, or a proxy before it, serves other bytes than it names; nothing was kept of them"
    if descriptor.digest.algorithm != "sha256" and "digest sha256:" in failure.message:
        hint = "this containerd keeps content by sha256 only: build the image again with such digests"
    return RegistryContentError(
        f"{failure.message}: wrong content for {descriptor.digest} from {source}",
        host=fetcher.host if fetcher else "",
        repository=fetcher.repository if fetcher else "",
        hint=hint,
    )


def is_present(content: ContentStore, descriptor: Descriptor) -> bool:
    """Tell whether the store has a blob."""
    try:
        content.info(descriptor.digest)
    except NotFound:
        return False
    return True


def host_name(domain: str) -> str:
    """Give the host of `host[:port]`, an IPv6 address without its brackets."""
    if domain.startswith("["):
        return domain[1:].partition("]")[0]
    return domain.partition(":")[0]


def add_source_label(content: ContentStore, digest: Digest, place: RepositoryName) -> None:
    """Note on a blob which repository has it: comma-joined, sorted, each once.

    The host goes without its port, as in containerd, so two registries on one host share a label
    (containerd core/remotes/docker/handler.go AppendDistributionSourceLabel).
    """
    key = f"{mediatypes.DISTRIBUTION_SOURCE}{host_name(place.host)}"
    known = content.info(digest).labels.get(key, "")
    repositories = {name for name in known.split(",") if name} | {place.repository}
    value = ",".join(sorted(repositories))
    if value != known and len(key) + len(value) <= MAX_LABEL_BYTES:
        content.set_labels(digest, {key: value})

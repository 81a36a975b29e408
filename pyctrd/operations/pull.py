"""Pull: reference -> registry -> walk -> content store -> image record, under one lease.

The order is safe against garbage collection at any time: the lease, parents before children, labels on a
parent for all its children before any filter, content, snapshots, and the image record last (containerd
client/pull.go, core/transfer/local/pull.go). docs/differences.md lists the deliberate differences from ctr.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Literal

import msgspec

from pyctrd.errors import (
    AlreadyExists,
    ContentError,
    InvalidInput,
    NotFound,
    RegistryContentError,
    require_utf8,
)
from pyctrd.oci import graph, mediatypes
from pyctrd.oci.expiry import EXPIRE_LABEL, expire_label
from pyctrd.oci.model import EMPTY, MAX_MANIFEST_BYTES, Descriptor, Digest, ImageRecord, Platform
from pyctrd.oci.platforms import Selection
from pyctrd.ports import Containerd, ImageStore, Remote, Store
from pyctrd.progress import Progress, ProgressSink, no_progress
from pyctrd.steps import expiry, kubelet, validate
from pyctrd.steps.docker_legacy import with_image_config
from pyctrd.steps.fetch import MAX_LABEL_BYTES, Downloader, SourceLabels, source_labels
from pyctrd.steps.gc_labels import GcLabels
from pyctrd.steps.local import RememberedStore
from pyctrd.steps.pool import DownloadPool, DownloadResult
from pyctrd.steps.targets import PlatformCheck
from pyctrd.steps.unpacking import Unpacking
from pyctrd.steps.validate import Validator


class PullOptions(msgspec.Struct, frozen=True, kw_only=True):
    """What to pull, and what to do with it.

    `metadata` "all" stores the manifests and configs of every platform (as ctr 2.x does), "selected" only
    those of the selected platforms (as nerdctl, and ctr 1.6 and 1.7 by default, do). With `unpack` None,
    layers are unpacked unless all platforms are pulled, as in ctr 2.x. An empty `snapshotter` means the
    default. `labels` are set on the image record, which expires after `ttl`.
    """

    platforms: Selection = msgspec.field(default_factory=Selection)
    metadata: Literal["all", "selected"] = "all"
    metadata_only: bool = False
    unpack: bool | None = None
    snapshotter: str = ""
    concurrency: int | None = None
    labels: Mapping[str, str] = EMPTY
    ttl: dt.timedelta | None = None

    @property
    def unpacks(self) -> bool:
        """Whether layers are unpacked."""
        if self.metadata_only:
            return False
        return not self.platforms.all if self.unpack is None else self.unpack


class PullResult(DownloadResult, frozen=True, kw_only=True):
    """What a pull downloaded, and the platforms that it unpacked.

    `resumed` maps the blobs of an interrupted download to the number of bytes that it had already stored.
    """

    unpacked: tuple[Platform, ...]


def pull(
    store: Store,
    remote: Remote,
    name: str,
    options: PullOptions,
    *,
    progress: ProgressSink = no_progress,
    labels: SourceLabels = source_labels,
) -> PullResult:
    """Pull what `remote` points at into the store, and record it as image `name`.

    `labels` returns the labels that say where a blob came from; by default they name the repository. Raises
    NotFound if the registry does not know the reference, NoMatchingPlatform if the image lacks a requested
    platform (then no image is recorded), IncompleteContent if another client deletes content in the
    meantime, LeaseLost, RegistryError, ContentError, DaemonError; InvalidInput for labels that containerd
    would refuse at the end.
    """
    check_options(options)
    root = remote.resolve()
    _refuse_schema1(root)
    progress(Progress(action="resolved", descriptor=root, total=root.size, detail=name))
    with _naming(remote), store.lease("pull", resumable=True) as leased:
        result = _Pull(leased, remote, root, options, progress, labels).run(name)
    done = Progress(action="done", descriptor=result.image.target, resumed=result.bytes_resumed, detail=name)
    progress(done)
    return result


class _Pull:
    """One pull, under its lease."""

    def __init__(
        self,
        store: Store,
        remote: Remote,
        root: Descriptor,
        options: PullOptions,
        progress: ProgressSink,
        labels: SourceLabels,
    ) -> None:
        self._store = store
        self._root = root
        self._options = options
        targets = options.platforms.resolve()
        self._matcher = targets.matcher
        self._platforms = PlatformCheck(root, () if options.metadata_only else targets.required)
        self._validator = Validator()
        self._gc_labels = GcLabels(store.content, progress)
        self._downloader = Downloader(
            store.content,
            [remote],
            claim_present=True,
            progress=progress,
            validator=self._validator,
            labels=labels,
        )
        self._downloads = DownloadPool(
            self._downloader.fetch,
            self._downloader.stop,
            max_concurrent=options.concurrency,
            progress=progress,
        )
        self._documents = RememberedStore(store)
        self._unpacking = Unpacking(
            self._documents,
            root,
            options.snapshotter,
            self._downloads.stored,
            progress,
            max_concurrent=options.concurrency,
        )

    def run(self, name: str) -> PullResult:
        """Fetch, unpack, and record the image last."""
        with self._downloads as downloads, self._unpacking as unpacking:
            self._fetch()
            fetched, resumed = downloads.downloaded(), downloads.resumed()
            unpacked = unpacking.finish()
        target = with_image_config(self._store.content, self._root)
        self._gc_labels.check(downloads.wanted)
        image = ImageRecord(name=name, target=target, labels=self._labels())
        if kubelet.MANAGED.items() <= image.labels.items() and EXPIRE_LABEL in image.labels:
            kubelet.put_expiring_id(self._store, image, self._options.platforms.host)
        return PullResult(
            image=put_record(self._store.images, image, may_exist=self._may_be_recorded(fetched or resumed)),
            fetched=tuple(fetched),
            bytes_fetched=sum(fetched.values()),
            unpacked=unpacked,
            resumed=resumed,
        )

    def _may_be_recorded(self, new: Mapping[Descriptor, int]) -> bool:
        """Whether the record need not be written if it is as it is to be.

        CRI looks at the content of an image, which may have been broken, again when its record changes.
        """
        return not new and self._store.namespace != kubelet.NAMESPACE

    def _labels(self) -> Mapping[str, str]:
        """Return the labels of the record; the time until it expires begins when it is complete."""
        options = self._options
        if options.ttl is None:
            return options.labels
        managed = kubelet.MANAGED if self._store.namespace == kubelet.NAMESPACE else {}
        return {**options.labels, **managed, **expire_label(options.ttl, dt.datetime.now(dt.UTC))}

    def _fetch(self) -> None:
        """Walk the image, and store each generation before the next one is read.

        Unpacking a manifest starts when the downloads of all its children have been submitted.
        """
        step = self._validator.watch(self._step(), self._matcher)
        parents: Sequence[Descriptor] = ()
        for generation in graph.generations(self._root, step, depends_on=graph.fits(self._matcher)):
            self._platforms.before(generation)
            if parents and not self._downloads.has_fetched():
                self._downloader.look_up(generation)
            self._downloads.submit(generation)
            if self._options.unpacks:
                self._unpacking.consider(parents, self._matcher)
            self._downloads.join()
            parents = generation
        self._platforms.check()

    def _step(self) -> graph.Children:
        def read(descriptor: Descriptor) -> bytes:
            return self._documents.content.read_all(descriptor.digest, limit=MAX_MANIFEST_BYTES)

        def set_labels(digest: Digest, labels: Mapping[str, str]) -> None:
            self._gc_labels.set_labels(digest, labels, known=self._downloader.labels_in_store(digest))

        step = graph.labelled(self._platforms.watch(graph.read_children(read)), set_labels)
        if self._options.metadata_only:
            step = graph.metadata_only(step)
        if self._options.metadata == "selected":
            return graph.only_platforms(step, self._matcher)
        return graph.metadata_of_all(step, self._matcher)


def check_options(options: PullOptions) -> None:
    """Raise InvalidInput for labels that containerd would refuse at the end, or that contradict `ttl`."""
    check_labels(options.labels)
    if options.ttl is not None and EXPIRE_LABEL in options.labels:
        raise InvalidInput(f"cannot specify both `ttl` and the label {EXPIRE_LABEL}")


def check_expiry(containerd: Containerd, name: str, options: PullOptions) -> None:
    """Raise Unsupported or FailedPrecondition if the image is to expire and cannot."""
    if options.ttl is not None:
        expiry.check_version(containerd.version())
        with suppress(NotFound):
            expiry.check_not_pinned(containerd.images.get(name))


def check_labels(labels: Mapping[str, str]) -> None:
    """Raise InvalidInput for labels that containerd would refuse at the end."""
    for key, value in labels.items():
        require_utf8(f"{key}={value}", "label")
        length = len(key.encode()) + len(value.encode())
        if length > MAX_LABEL_BYTES:
            raise InvalidInput(
                f"label key and value length ({length} bytes) greater than maximum size "
                f"({MAX_LABEL_BYTES} bytes), key: {key[:64]}"
            )


@contextmanager
def _naming(remote: Remote) -> Iterator[None]:
    """Add the repository to errors about content, since all content of a pull comes from there."""
    try:
        yield
    except ContentError as error:
        raise validate.refused(remote, error.message, error.hint) from error


def _refuse_schema1(root: Descriptor) -> None:
    if root.media_type in mediatypes.DOCKER_SCHEMA1:
        raise RegistryContentError(
            f"media type {root.media_type} is no longer supported since containerd v2.1: "
            "schema 1 image manifests are no longer supported: invalid argument",
            hint="push the image again with a current tool, which writes schema 2 or OCI",
        )


def put_record(images: ImageStore, image: ImageRecord, *, may_exist: bool = False) -> ImageRecord:
    """Create the record, or update the target of an existing one, which expires only if `image` does.

    Keeps other labels (ctr replaces all labels, and so removes the kubelet's `io.cri-containerd.image`). If
    it `may_exist` as it is to be, nothing is written then.
    """
    if may_exist:
        with suppress(NotFound):
            stored = images.get(image.name)
            expires = {EXPIRE_LABEL} & stored.labels.keys() <= image.labels.keys()
            if stored.target == image.target and image.labels.items() <= stored.labels.items() and expires:
                return stored
    while True:
        try:
            return images.create(image)
        except AlreadyExists:
            fields = ["target", *(f"labels.{key}" for key in image.labels)]
        try:
            stored = images.update(image, fields=fields)
            if EXPIRE_LABEL in stored.labels and EXPIRE_LABEL not in image.labels:
                stored = images.update(image, fields=[f"labels.{EXPIRE_LABEL}"])
                kubelet.keep_id(images, image)
        except NotFound:
            continue  # deleted in the meantime
        return stored

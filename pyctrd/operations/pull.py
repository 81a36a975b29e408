"""Pull: reference -> registry -> walk -> content store -> image record, under one lease.

The order is what no garbage collection can break: lease, parents before children, labels on a parent for all
of its children before any filter, content, snapshots, the image record last (containerd client/pull.go,
core/transfer/local/pull.go). docs/differences.md lists where this is other than ctr on purpose.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
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
from pyctrd.oci.model import EMPTY, MAX_MANIFEST_BYTES, Descriptor, ImageRecord, Platform, freeze
from pyctrd.oci.platforms import Matcher, Selection
from pyctrd.ports import ImageStore, Remote, Store
from pyctrd.progress import Progress, ProgressSink, no_progress
from pyctrd.steps import validate
from pyctrd.steps.docker_legacy import with_image_config
from pyctrd.steps.fetch import MAX_LABEL_BYTES, Transfer
from pyctrd.steps.gc_labels import Keeping
from pyctrd.steps.pool import Downloads
from pyctrd.steps.targets import Coverage
from pyctrd.steps.unpacking import Unpacking
from pyctrd.steps.validate import Documents


class PullOptions(msgspec.Struct, frozen=True, kw_only=True):
    """What to pull, and what to do with it.

    `metadata` "all" stores the manifests and configs of every platform (ctr of containerd 2.x), "selected"
    those of the chosen platforms only (nerdctl, plain ctr 1.6 and 1.7). `unpack` None is on, but off where
    all platforms are taken, as in ctr 2.x. An empty `snapshotter` is the server's default. `labels` go onto
    the image record.
    """

    platforms: Selection = Selection()
    metadata: Literal["all", "selected"] = "all"
    metadata_only: bool = False
    unpack: bool | None = None
    snapshotter: str = ""
    concurrency: int = 3
    labels: Mapping[str, str] = EMPTY

    @property
    def unpacks(self) -> bool:
        """Whether layers go into the snapshotter."""
        if self.metadata_only:
            return False
        return not self.platforms.all if self.unpack is None else self.unpack


class PullResult(msgspec.Struct, frozen=True, kw_only=True):
    """What a pull did: what it downloaded, and the platforms that it unpacked.

    `resumed` are the blobs of which an interrupted download had left something here, with the bytes of each
    that did not have to come again.
    """

    image: ImageRecord
    fetched: tuple[Descriptor, ...]
    bytes_fetched: int
    unpacked: tuple[Platform, ...]
    resumed: Mapping[Descriptor, int] = EMPTY

    def __post_init__(self) -> None:
        freeze(self, "resumed")

    @property
    def bytes_resumed(self) -> int:
        """The bytes of `resumed` in sum."""
        return sum(self.resumed.values())


def pull(
    store: Store,
    remote: Remote,
    name: str,
    options: PullOptions,
    *,
    host: Platform,
    progress: ProgressSink = no_progress,
) -> PullResult:
    """Pull what `remote` points at into the store, and record it as image `name`.

    Raises NotFound when the registry does not know the reference, NoMatchingPlatform when the image lacks
    one that was asked for (nothing is recorded then), IncompleteContent when another client deleted content
    meanwhile, LeaseLost, RegistryError, ContentError, DaemonError; InvalidInput for labels that containerd
    would refuse in the end.
    """
    check_labels(options.labels)
    root = remote.resolve()
    _refuse_schema1(root)
    progress(Progress(action="resolved", descriptor=root, total=root.size, detail=name))
    judge = Documents()
    with _told_of(remote), store.lease("pull", resumable=True) as leased:
        keeping = Keeping(leased.content, progress)
        transfer = Transfer(leased.content, [remote], claim_present=True, progress=progress, judge=judge)
        with (
            Downloads(
                transfer.bring,
                transfer.stop,
                max_concurrent=options.concurrency,
                progress=progress,
            ) as downloads,
            Unpacking(leased, root, options.snapshotter, downloads.wait, progress) as unpacking,
        ):
            _bring_all(leased, root, options, host, downloads, unpacking, judge, keeping)
            fetched, resumed = downloads.downloaded(), downloads.resumed()
            unpacked = unpacking.finish()
        target = with_image_config(leased.content, root)
        keeping.check(downloads.wanted)
        image = put_record(leased.images, ImageRecord(name=name, target=target, labels=options.labels))
    result = PullResult(
        image=image,
        fetched=tuple(fetched),
        bytes_fetched=sum(fetched.values()),
        unpacked=unpacked,
        resumed=resumed,
    )
    progress(Progress(action="done", descriptor=target, resumed=result.bytes_resumed, detail=name))
    return result


def check_labels(labels: Mapping[str, str]) -> None:
    """Raise InvalidInput for labels that containerd would refuse in the end."""
    for key, value in labels.items():
        require_utf8(f"{key}={value}", "label")
        length = len(key.encode()) + len(value.encode())
        if length > MAX_LABEL_BYTES:
            raise InvalidInput(
                f"label key and value length ({length} bytes) greater than maximum size "
                f"({MAX_LABEL_BYTES} bytes), key: {key[:64]}"
            )


@contextmanager
def _told_of(remote: Remote) -> Iterator[None]:
    """Tell of content that is not what it says where it is from: all that a pull reads a registry names."""
    try:
        yield
    except ContentError as error:
        raise validate.refused(remote, error.message, error.hint) from error


def _refuse_schema1(root: Descriptor) -> None:
    if root.media_type in mediatypes.DOCKER_SCHEMA1:
        raise RegistryContentError(
            f"media type {root.media_type} is no longer supported since containerd v2.1: "
            "schema 1 image manifests are no longer supported: invalid argument",
            hint="push the image again with a tool of this decade; it becomes schema 2 or OCI by itself",
        )


def _bring_all(
    store: Store,
    root: Descriptor,
    options: PullOptions,
    host: Platform,
    downloads: Downloads,
    unpacking: Unpacking,
    judge: Documents,
    keeping: Keeping,
) -> None:
    """Walk the image, each generation into the store before the next is read.

    Unpacking of a manifest starts as soon as all that it names has been asked for.
    """
    anything = options.metadata_only or options.platforms.all
    coverage = Coverage(root, () if anything else options.platforms.platforms or (host,))
    matcher = options.platforms.matcher(host)
    step = judge.watch(_step(store, options, matcher, coverage, keeping), matcher)
    parents: Sequence[Descriptor] = ()
    for generation in graph.generations(root, step, depends_on=graph.fits(matcher)):
        coverage.before(generation)
        downloads.submit(generation)
        if options.unpacks:
            unpacking.consider(parents, options.platforms, host)
        downloads.join()
        parents = generation
    coverage.check()


def _step(
    store: Store, options: PullOptions, matcher: Matcher, coverage: Coverage, keeping: Keeping
) -> graph.Children:
    def read(descriptor: Descriptor) -> bytes:
        return store.content.read_all(descriptor.digest, limit=MAX_MANIFEST_BYTES)

    step = graph.labelled(coverage.watch(graph.read_children(read)), keeping.set_labels)
    if options.metadata_only:
        step = graph.metadata_only(step)
    if options.metadata == "selected":
        return graph.only_platforms(step, matcher)
    return graph.metadata_of_all(step, matcher)


def put_record(images: ImageStore, image: ImageRecord) -> ImageRecord:
    """Create the record, or point the one that is there at the new target.

    Labels that other tools put there stay: only our own are written (ctr replaces them all, and so takes
    `io.cri-containerd.image` from the kubelet).
    """
    while True:
        try:
            return images.create(image)
        except AlreadyExists:
            fields = ["target", *(f"labels.{key}" for key in image.labels)]
        try:
            return images.update(image, fields=fields)
        except NotFound:
            continue  # deleted between the two calls

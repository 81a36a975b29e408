"""Push: image record -> walk -> lease -> registry.

Missing content is detected before anything is uploaded.
Source: containerd core/remotes/handlers.go PushContent, core/remotes/docker/handler.go (mount candidates).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from functools import partial
from typing import TypeAlias

import msgspec

from pyctrd.errors import (
    REPAIR,
    REPAIR_HINT,
    ContentError,
    InvalidInput,
    NoMatchingPlatform,
    NotFound,
    PyctrdError,
    Remedy,
)
from pyctrd.oci import graph, mediatypes, platforms
from pyctrd.oci.errors import IncompleteContent
from pyctrd.oci.model import Descriptor, Digest, ImageRecord, Platform
from pyctrd.oci.platforms import Selection
from pyctrd.oci.reference import Reference
from pyctrd.ports import Chunk, ContentStore, Store, Uploader
from pyctrd.progress import ProgressSink, no_progress
from pyctrd.steps import upload_plan
from pyctrd.steps.fetch import add_source_label, host_name, is_present
from pyctrd.steps.local import LocalImage, RememberedStore
from pyctrd.steps.pin import pin
from pyctrd.steps.targets import PlatformCheck, incomplete
from pyctrd.steps.upload import SendOptions, SendResult, Upload

# Returns which of these are absent.
_FindAbsent: TypeAlias = Callable[[Iterable[Descriptor]], list[Descriptor]]


def push(
    store: Store,
    image: ImageRecord,
    target: Uploader,
    name: Reference,
    options: SendOptions,
    *,
    dry_run: bool = False,
    progress: ProgressSink = no_progress,
) -> SendResult:
    """Push an image to the repository in `name`, and tag it there.

    Adds that repository to the `containerd.io/distribution.source.<host>` labels of the content. `dry_run`
    asks the registry what it has, and uploads nothing. Raises IncompleteContent if content is missing,
    NoMatchingPlatform, InvalidInput, RegistryError, ContentError, DaemonError.
    """
    if dry_run:
        remembered = RememberedStore(store)
        item = _Item(remembered, image, options)

        def find_absent(items: Iterable[Descriptor]) -> list[Descriptor]:
            wanted = graph.by_digest(items)
            found = remembered.content.infos(wanted.keys())
            return [blob for digest, blob in wanted.items() if digest not in found]

        return item.upload(target, name, find_absent=find_absent).run(dry_run=True)
    with store.lease("push") as view:
        leased = RememberedStore(view)
        found = _Item(leased, image, options).upload(
            target, name, find_absent=partial(pin, leased), progress=progress
        )
        result = found.run()
        for descriptor in (*result.uploaded, *result.mounted, *result.present):
            if is_present(leased.content, descriptor):  # a rewritten index is only in the registry
                add_source_label(leased.content, descriptor.digest, target)
    return result


class _Item:
    """One image in a store."""

    def __init__(self, store: Store, image: ImageRecord, options: SendOptions) -> None:
        if not graph.has_children(image.target):
            raise InvalidInput(f"only manifests may be pushed: {image.name} is {image.target.media_type}")
        self._store = store
        self._local = LocalImage(store, image.target)
        self._image = image
        self._options = options
        targets = options.platforms.resolve(self._local.platforms)
        self._required = PlatformCheck(image.target, targets.required)
        self._matcher = targets.matcher
        self._pinned = False
        self._whole: dict[Digest, bool] = {}
        self._left_out: dict[Digest, Descriptor] = {}

    def upload(
        self,
        target: Uploader,
        name: Reference,
        *,
        find_absent: _FindAbsent,
        progress: ProgressSink = no_progress,
    ) -> Upload:
        """Check that nothing is absent, and plan the upload."""
        read = self._local.read
        self._pinned = name.digest is not None
        self._require(read, find_absent)
        packed = upload_plan.pack(
            self._image.target,
            read,
            self._step(graph.read_children(read)),
            index=self._options.index,
            nondistributable=self._options.nondistributable,
        )
        if mediatypes.is_index(packed.root.descriptor.media_type):
            packed = msgspec.structs.replace(packed, skipped=(*packed.skipped, *self._left_out.values()))
        return Upload(
            plan=packed,
            source=self._image.name,
            target=target,
            name=name,
            blob=partial(_StoredBlob, self._store.content),
            mount_from=partial(_mount_candidate, self._store.content, target),
            max_concurrent=self._options.concurrency,
            progress=progress,
        )

    def _step(self, children: graph.Children) -> graph.Children:
        return upload_plan.chosen(self._required.watch(children), self._matcher, self._leaves_out)

    def _leaves_out(self, child: Descriptor) -> bool:
        """Whether this is an incomplete attestation that was not requested."""
        if not graph.is_attestation(child) or self._asks_for(child) or self._is_whole(child):
            return False
        self._left_out[child.digest] = child
        return True

    def _asks_for(self, attestation: Descriptor) -> bool:
        if self._options.platforms.all:
            return self._options.attestations or self._pinned  # a digest includes everything
        return attestation.platform is not None and self._matcher.match(attestation.platform)

    def _is_whole(self, descriptor: Descriptor) -> bool:
        if descriptor.digest not in self._whole:
            absent = self._local.missing_below(descriptor, self._local.children)
            self._whole[descriptor.digest] = all(map(self._skips, absent))
        return self._whole[descriptor.digest]

    def _require(self, read: graph.ReadDocument, find_absent: _FindAbsent) -> None:
        """Raise IncompleteContent, with all missing content, if anything is absent."""
        step = self._step(graph.tolerant(graph.read_children(read), lambda _missing: None, NotFound))
        everything, owner = graph.with_platforms(self._image.target, step)
        absent = find_absent(item for item in everything.values() if not self._skips(item))
        if self._image.target not in absent:
            self._required.check()
            if self._options.platforms.local and not any(map(graph.is_image, everything.values())):
                raise self._nothing_local(read)
        if absent:
            raise _incomplete(self._image, self._options.platforms, absent, owner)

    def _nothing_local(self, read: graph.ReadDocument) -> NoMatchingPlatform:
        step = graph.tolerant(graph.read_children(read), lambda _missing: None, NotFound)
        listed = (item.platform for item in graph.leaves_of(self._image.target, step) if graph.is_image(item))
        names = tuple(dict.fromkeys(platforms.to_string(item) for item in listed if item))
        return NoMatchingPlatform(
            f"no match for platform in manifest {self._image.target.digest}: not found "
            f"({self._image.name} has no complete platform)",
            name="local",
            hint="fetch one",
            remedy=Remedy(method="ensure", images=(self._image.name,), platforms=names[:1]),
        )

    def _skips(self, descriptor: Descriptor) -> bool:
        return mediatypes.is_nondistributable(descriptor.media_type) and not self._options.nondistributable


class _StoredBlob:
    """A blob in the store. Implements ports.BlobSource."""

    def __init__(self, content: ContentStore, descriptor: Descriptor) -> None:
        self._content = content
        self._digest = descriptor.digest

    def open(self, offset: int) -> AbstractContextManager[Iterator[Chunk]]:
        return self._content.read(self._digest, offset=offset)

    def wrong(self, text: str) -> PyctrdError:
        return ContentError(
            f"{text}: containerd's copy is damaged; it was not pushed",
            hint=REPAIR_HINT,
            remedy=REPAIR,
        )


def _mount_candidate(content: ContentStore, target: Uploader, descriptor: Descriptor) -> str:
    """Return the repository on the target's host that a blob came from, the one most similar to the target.

    The labels do not have the registry's port, so it may be in another registry; then the mount fails, and
    the blob is uploaded. Source: containerd core/remotes/docker/handler.go selectRepositoryMountCandidate.
    """
    labels = content.info(descriptor.digest).labels
    known = labels.get(f"{mediatypes.DISTRIBUTION_SOURCE}{host_name(target.host)}", "")
    names = [name for name in known.split(",") if name and name != target.repository]
    wanted = target.repository.split("/")

    def shared(name: str) -> int:
        pairs = zip(name.split("/"), wanted, strict=False)
        return next((number for number, (one, other) in enumerate(pairs) if one != other), len(wanted))

    return max(names, key=shared, default="")


def _incomplete(
    image: ImageRecord,
    selection: Selection,
    absent: Sequence[Descriptor],
    owner: dict[Digest, Platform | None],
) -> IncompleteContent:
    local = "push the complete platforms with `platforms=local`, or " if selection.all else ""
    return incomplete(
        image,
        absent,
        owner,
        hint=f"{local}fetch what is missing",
        remedy=Remedy(method="ensure", images=(image.name,), all_platforms=selection.all),
    )

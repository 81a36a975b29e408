"""Load: archive -> what is in it -> content store -> snapshots -> image records, under one lease.

A pipe is read once, so its blobs are stored before it is known what they belong to; of a file or a folder,
only what the images need is read. Either way nothing is recorded until all of the selected platforms is in
the store. docs/differences.md lists the deliberate differences from `ctr images import`.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Mapping, Sequence
from itertools import chain
from typing import Literal, TypeAlias

import msgspec

from pyctrd.archive import docker_manifests
from pyctrd.archive.images import is_name, parse_documents
from pyctrd.archive.reader import Archive
from pyctrd.errors import (
    AlreadyExists,
    ArchiveError,
    InvalidInput,
    NotFound,
    PyctrdError,
    Remedy,
    require_utf8,
)
from pyctrd.oci import graph, mediatypes
from pyctrd.oci.errors import IncompleteContent
from pyctrd.oci.model import EMPTY, Descriptor, Digest, ImageRecord, Index, Manifest, Platform
from pyctrd.oci.platforms import Matcher, Selection, only_strict
from pyctrd.oci.referrers import Referrer, gc_label
from pyctrd.operations.load.contents import Contents
from pyctrd.operations.load.names import Naming, kubelet_names
from pyctrd.operations.load.planning import Plan, Planner
from pyctrd.operations.load.presumed import Presumption
from pyctrd.operations.load.recording import record
from pyctrd.operations.load.referrers import ArchivedReferrers
from pyctrd.operations.load.storing import Storing, Wanted
from pyctrd.operations.pull import check_labels
from pyctrd.ports import Store
from pyctrd.progress import Progress, ProgressSink, no_progress
from pyctrd.steps import kubelet
from pyctrd.steps.fetch import ingest_ref

LoadOnMissing: TypeAlias = Literal["fail", "skip"]
SetLabels: TypeAlias = Callable[[Digest, Mapping[str, str]], None]

_LAYER_LABEL = f"{mediatypes.GC_REF}l."


class LoadOptions(msgspec.Struct, frozen=True, kw_only=True):
    """What to load of an archive, and what to do with it.

    `on_missing` "skip" leaves out selected platforms and images that the archive does not have completely.
    `name` is the name for the only image; otherwise, only names that begin with `base_name` are loaded, if it
    is not empty, and tags are appended to it. `digests` adds a name with the digest, and `cri` the names
    and labels that the kubelet needs. With `unpack` None, layers are unpacked, for all platforms only the
    host's. With `discard_layers`, the garbage collector may remove layers that are unpacked. `label_all` sets
    gc labels for all children of an index, as ctr 2.x does, not only for those that are loaded.
    """

    platforms: Selection = msgspec.field(default_factory=Selection)
    on_missing: LoadOnMissing = "fail"
    name: str = ""
    base_name: str = ""
    digests: bool = False
    cri: bool = False
    unpack: bool | None = None
    discard_layers: bool = False
    label_all: bool = True
    snapshotter: str = ""
    concurrency: int = 3
    labels: Mapping[str, str] = EMPTY

    def check(self) -> None:
        """Raise InvalidInput for options that contradict each other, and for invalid labels and names."""
        if self.name and (self.base_name or self.digests):
            raise InvalidInput("`name` cannot be combined with `base_name` or `digests`")
        if self.discard_layers and self.unpack is False:
            raise InvalidInput("cannot discard layers that are not unpacked")
        for name in filter(None, (self.name, self.base_name)):
            require_utf8(name, "name")
            if not is_name(name):
                raise InvalidInput(
                    f"invalid name {name[:100]!r}: white space, control characters, or too long"
                )
        check_labels(self.labels)


class LoadedImage(msgspec.Struct, frozen=True, kw_only=True):
    """An image that was loaded, and its platforms; `complete` unless a selected one was missing."""

    name: str
    target: Descriptor
    platforms: tuple[Platform, ...]
    complete: bool


class LoadResult(msgspec.Struct, frozen=True, kw_only=True):
    """What a load did, or with `dry_run` would do.

    `bytes_written` were stored, and `bytes_present` are those of needed blobs that containerd had.
    `referrers` are the signatures, SBOMs and the like that were stored with the images.
    """

    images: tuple[LoadedImage, ...]
    bytes_written: int
    bytes_present: int
    unpacked: tuple[Platform, ...]
    referrers: tuple[Referrer, ...] = ()
    dry_run: bool = False


def load(
    store: Store,
    archive: Archive,
    options: LoadOptions,
    *,
    today: dt.date,
    dry_run: bool = False,
    progress: ProgressSink = no_progress,
) -> LoadResult:
    """Load the images of an archive into the store, and record them.

    `today` is for the names of images that have none. `dry_run` reads the archive, but changes nothing.
    Raises ArchiveError for an archive that is damaged, broken or malicious, NoMatchingPlatform and
    IncompleteContent for an image that lacks a selected platform (then no image is recorded), NotFound if no
    name begins with `base_name`, InvalidInput, LeaseLost, ContentError, DaemonError.
    """
    options.check()
    if options.cri and store.namespace != kubelet.NAMESPACE:
        raise InvalidInput(
            f"the kubelet sees only the namespace {kubelet.NAMESPACE}, not {store.namespace}",
            remedy=Remedy(namespace=kubelet.NAMESPACE),
        )
    sink = _as_writing(progress)
    if dry_run:
        return _Load(store, archive, options, today, sink, writing=False).plan()
    with store.lease("load", resumable=True) as leased:
        result = _Load(leased, archive, options, today, sink, writing=True).run()
    for image in result.images:
        progress(Progress(action="done", descriptor=image.target, detail=image.name))
    return result


class _Load:
    """One load, under its lease."""

    def __init__(
        self,
        store: Store,
        archive: Archive,
        options: LoadOptions,
        today: dt.date,
        progress: ProgressSink,
        *,
        writing: bool,
    ) -> None:
        self._store = store
        self._options = options
        self._targets = options.platforms.resolve()
        self._progress = progress
        self._writing = writing
        self._naming = Naming(options.base_name, today, digests=options.digests)
        adopt = self._adopt if writing else lambda _absent: False
        skip = options.on_missing == "skip"
        presumption = Presumption(
            store,
            adopt,
            targets=self._targets,
            snapshotter=options.snapshotter,
            unpacks=options.unpack is not False,
            skip=skip,
        )
        content = store.content if writing else None
        self._contents = Contents(archive, content, progress, presumed=presumption.check)
        self._planner = Planner(
            self._contents,
            store.content,
            adopt,
            presumption,
            targets=self._targets,
            unpacks=self._unpacks,
            skip=skip,
        )
        self._listed: Sequence[Descriptor] = ()
        self._storing = Storing(
            store,
            self._contents,
            self._planner,
            progress,
            snapshotter=options.snapshotter,
            unpacked=None if options.unpack is False else self._unpacked,
            concurrency=options.concurrency,
        )

    # --- what is loaded

    def _plans(self) -> list[Plan]:
        """Plan all images; with "skip", leave out those of which nothing can be loaded."""
        plans: list[Plan] = []
        failure: PyctrdError | None = None
        for targets in self._by_digest(self._named()):
            try:
                plans.append(self._planner.plan(targets))
            except (NotFound, IncompleteContent) as error:
                if self._options.on_missing == "fail":
                    raise
                failure = failure or error
        if not plans:
            raise failure or ArchiveError(
                "there is no image in the archive", hint="attestations and referrers alone are not loaded"
            )
        return plans

    def _entries(self) -> list[Descriptor]:
        """Return the entries of index.json, or those that docker's manifest.json amounts to."""
        found = parse_documents(self._contents.documents)
        if isinstance(found, Index):
            self._listed = found.manifests
            return list(found.manifests)
        return list(docker_manifests.manifests(found, self._contents, self._store.content))

    def _named(self) -> dict[str, Descriptor]:
        """Return the image for each name: that of the entries with this name which fits the platforms."""
        found = self._naming.names(self._entries())
        fit = {name for name, items in found.items() if any(map(self._planner.fits, items))}
        # Names that are made here are not missed.
        found = {
            name: items
            for name, items in found.items()
            if name in fit or not fit or not self._naming.is_made(name)
        }
        if self._options.name and found:
            found = {self._options.name: [item for items in found.values() for item in items]}
        named = {}
        for name, items in found.items():
            fitting = list(graph.by_digest(filter(self._planner.fits, items)).values())
            if len(fitting) > 1:
                raise _ambiguous(name, len(fitting), is_given=bool(self._options.name))
            # What does not fit is planned, too, for the error.
            named[name] = (fitting or items)[0]
        return named

    def _by_digest(self, named: Mapping[str, Descriptor]) -> list[dict[str, Descriptor]]:
        together: dict[object, dict[str, Descriptor]] = {}
        for name, target in named.items():
            together.setdefault((target.digest, target.media_type), {})[name] = target
        return list(together.values())

    def plan(self) -> LoadResult:
        """Return what would be loaded."""
        plans = self._plans()
        referrers = self._referrers(plans)
        blobs = [blob for plan in plans for blob in self._blobs(plan)]
        for item in referrers:
            blobs += graph.preorder(item.target, self._planner.children)
        wanted = graph.by_digest(blobs)
        found = self._store.content.infos(wanted.keys())
        return LoadResult(
            images=_images(plans),
            bytes_written=sum(blob.size for digest, blob in wanted.items() if digest not in found),
            bytes_present=sum(blob.size for digest, blob in wanted.items() if digest in found),
            unpacked=tuple(dict.fromkeys(one for plan in plans for one in self._unpackable(plan))),
            referrers=referrers,
            dry_run=True,
        )

    def _referrers(self, plans: Sequence[Plan]) -> tuple[Referrer, ...]:
        """Return the referrers of what is loaded."""
        loaded = set[Digest]()
        for plan in plans:
            step = self._filtered(self._planner.children, plan.left_out | plan.replaced)
            reached = graph.preorder(plan.target, step, depends_on=self._planner.fits)
            loaded.update(blob.digest for blob in reached if graph.has_children(blob))
        return ArchivedReferrers(self._listed, self._planner).of(loaded)

    def _unpackable(self, plan: Plan) -> list[Platform]:
        return [platform for platform in plan.platforms if self._unpacks(plan.target, platform)]

    def _unpacks(self, target: Descriptor, platform: Platform) -> bool:
        """Whether an image is unpacked for one of its platforms; a single manifest always is."""
        if self._options.unpack is False:
            return False
        return not mediatypes.is_index(target.media_type) or self._unpacked.match(platform)

    @property
    def _unpacked(self) -> Matcher:
        """Matches the platforms to unpack: of all platforms the host's, unless the caller wants to unpack."""
        chosen = self._options.platforms
        by_default = chosen.all and not self._options.unpack
        return Selection(host=chosen.host).resolve().matcher if by_default else self._targets.matcher

    def _wanted(self, plan: Plan, set_labels: SetLabels = lambda _digest, _labels: None) -> graph.Children:
        """Return the step of a walk over what is loaded, which passes on gc labels."""

        def protect(digest: Digest, labels: Mapping[str, str]) -> None:
            if self._options.discard_layers:
                labels = {key: value for key, value in labels.items() if not key.startswith(_LAYER_LABEL)}
            if labels:
                set_labels(digest, labels)

        left_out = plan.left_out | plan.replaced
        if self._options.label_all:
            return self._filtered(graph.labelled(self._planner.children, protect), left_out)
        return graph.labelled(self._filtered(self._planner.children, left_out), protect)

    def _filtered(self, children: graph.Children, left_out: frozenset[Digest]) -> graph.Children:
        """Leave out what is incomplete, and other platforms.

        If an index has labels for all its children, manifests of other platforms stay, without what they
        refer to, as in ctr 2.x: then diagnose and ensure know what is missing.
        """

        def is_wanted(child: Descriptor) -> bool:
            if child.digest in left_out:
                return False
            return self._planner.fits(child) or (
                self._options.label_all and self._contents.blob(child) is not None
            )

        def step(descriptor: Descriptor) -> Sequence[Descriptor]:
            if not self._planner.fits(descriptor):
                return ()
            return [child for child in children(descriptor) if is_wanted(child)]

        return step

    # --- load it

    def run(self) -> LoadResult:
        """Store the images, unpack them, and record them last."""
        plans = self._plans()
        referrers = self._referrers(plans)
        labels: dict[Digest, dict[str, str]] = {}

        def note(digest: Digest, more: Mapping[str, str]) -> None:
            labels.setdefault(digest, {}).update(more)

        images = [Wanted(plan, self._blobs(plan, note)) for plan in plans]
        attached: list[Descriptor] = []
        for referrer in referrers:
            step = graph.labelled(self._planner.children, note)
            attached += chain(*graph.generations(referrer.target, step))
            note(referrer.subject, gc_label(referrer.target.digest))
        stored = self._storing.run(images, attached, labels)
        # CRI looks at the content of an image, which may have been broken, again when its record changes.
        may_exist = self._store.namespace != kubelet.NAMESPACE
        records = [image for plan in plans for image in self._records(plan)]
        record(self._store.images, records, may_exist=may_exist)
        written = {**stored.written, **self._contents.written}
        blobs = graph.by_digest(chain(*(image.blobs for image in images), attached))
        return LoadResult(
            images=_images(plans),
            bytes_written=sum(written.values()),
            bytes_present=sum(blob.size for digest, blob in blobs.items() if not written.get(digest)),
            unpacked=stored.unpacked,
            referrers=referrers,
        )

    def _blobs(
        self, plan: Plan, set_labels: SetLabels = lambda _digest, _labels: None
    ) -> Sequence[Descriptor]:
        """Return what is stored of an image, parents before children."""
        step = self._wanted(plan, set_labels)
        return tuple(chain(*graph.generations(plan.target, step, depends_on=self._planner.fits)))

    def _adopt(self, blob: Descriptor) -> bool:
        """Store a blob that another namespace has and that the archive lacks; return whether there is one."""
        ref = ingest_ref(blob)
        try:
            with self._store.content.open_ingest(ref, digest=blob.digest, size=blob.size) as ingest:
                if ingest.offset == blob.size:
                    ingest.commit()
                    return True
                begun = ingest.offset > 0
        except AlreadyExists:
            return True
        except PyctrdError:
            return False
        if not begun:  # or a pull may still resume it
            self._store.content.abort(ref)
        return False

    # --- records

    def _records(self, plan: Plan) -> list[ImageRecord]:
        labels = dict(self._options.labels)
        if not self._options.cri:
            return [
                ImageRecord(name=name, target=target, labels=labels) for name, target in plan.targets.items()
            ]
        config = self._config(plan)
        records = {}
        for name, target in plan.targets.items():
            for one in kubelet_names(name, target.digest, config):
                records[one] = ImageRecord(name=one, target=target, labels={**labels, **kubelet.MANAGED})
        return list(records.values())

    def _config(self, plan: Plan) -> Digest:
        """Return the config of the image that runs on this host, which is the image's id for the kubelet."""
        leaves = [
            leaf
            for leaf in graph.leaves_of(plan.target, self._wanted(plan))
            if mediatypes.is_manifest(leaf.media_type)
        ]
        host = self._options.platforms.host
        ours = [leaf for leaf in leaves if leaf.platform and only_strict(host).match(leaf.platform)]
        return Manifest.parse(self._planner.read((ours or leaves)[0])).config.digest


def _images(plans: Sequence[Plan]) -> tuple[LoadedImage, ...]:
    return tuple(
        LoadedImage(name=name, target=target, platforms=plan.platforms, complete=plan.complete)
        for plan in plans
        for name, target in plan.targets.items()
    )


def _ambiguous(name: str, count: int, *, is_given: bool) -> PyctrdError:
    if is_given:
        return InvalidInput(
            f"cannot give the name {name} to {count} images of the archive",
            hint="leave out `name`; they are loaded under their own names",
        )
    return ArchiveError(
        f"the archive has {count} images with the name {name}", hint="select one of them with `platforms`"
    )


def _as_writing(progress: ProgressSink) -> ProgressSink:
    """Return a sink for what reports downloads: here, nothing is downloaded."""

    def report(event: Progress) -> None:
        if event.action in ("downloading", "downloaded"):
            event = msgspec.structs.replace(event, action="writing")
        elif event.action == "planned":
            event = msgspec.structs.replace(event, detail="write")
        elif event.action == "waiting":
            event = msgspec.structs.replace(event, detail="another client is writing it")
        progress(event)

    return report if progress is not no_progress else progress

"""One image of a save: what of it is saved, what has to be fetched for that, and what is missing."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import msgspec

from pyctrd.amounts import listed
from pyctrd.archive.contents import contents, require_exportable
from pyctrd.archive.layout import ArchiveImage
from pyctrd.errors import NoMatchingPlatform, NotFound, RegistryError, Remedy
from pyctrd.oci import graph, mediatypes, platforms
from pyctrd.oci.errors import IncompleteContent
from pyctrd.oci.model import Descriptor, Digest, ImageRecord, Platform
from pyctrd.oci.platforms import Matcher, Targets
from pyctrd.oci.prune import only_image
from pyctrd.operations import ensure, nerdctl
from pyctrd.operations.save.delta import without_presumed
from pyctrd.operations.save.options import SaveOptions, Skipped
from pyctrd.ports import Fetcher, Fetchers
from pyctrd.progress import ProgressSink
from pyctrd.steps.local import LocalImage, RememberedStore
from pyctrd.steps.targets import incomplete, nothing_to_save

if TYPE_CHECKING:
    from pyctrd.operations.archive_source import ArchiveSource


class SavedImage:
    """One image of a save.

    Its targets are determined before anything is fetched, which could make more platforms `local`. `skipped`
    is what is left out because it is missing, and `reached` what the last walk found. `source` is an archive
    that `fetchers` ask first, with `ensure` "none" the only one.
    """

    def __init__(
        self,
        store: RememberedStore,
        image: ImageRecord,
        options: SaveOptions,
        fetchers: Fetchers,
        source: ArchiveSource | None = None,
    ) -> None:
        self._store = store
        self._image = image
        self._options = options
        self._local = LocalImage(store, image.target)
        self._targets = options.platforms.resolve(self._local.platforms)
        self._fetchers = fetchers
        self._source = source
        self._left_out = set[Digest]()
        self.skipped: list[Skipped] = []
        self.reached: list[Descriptor] = []

    @property
    def name(self) -> str:
        return self._image.name

    @property
    def _may_skip(self) -> bool:
        return self._options.on_missing != "fail"

    @property
    def _is_offline(self) -> bool:
        return self._options.ensure == "none"

    @property
    def _may_fetch(self) -> bool:
        return not self._is_offline or self._source is not None

    def _narrow(self, children: graph.Children) -> graph.Children:
        """Limit a walk to what is saved."""
        if self._options.attestations == "keep":
            step = graph.with_attestations(children, self._targets.matcher)
        else:
            step = graph.only_platforms(children, self._targets.matcher)
        if self._options.attestations == "drop":
            step = graph.without(step, graph.is_attestation)
        step = graph.without(step, lambda child: child.digest in self._left_out)
        if self._options.have is not None:
            step = without_presumed(step, self._read_config, self._options.have)
        return step

    def _available(self, children: graph.Children) -> graph.Children:
        """Limit a walk to what is saved, and offline to what is here or in the archive."""
        step = self._narrow(children)
        return graph.without(step, lambda child: not self._is_available(child)) if self._is_offline else step

    def _is_available(self, descriptor: Descriptor) -> bool:
        in_archive = self._source is not None and self._source.has(descriptor)
        return in_archive or self._local.is_present(descriptor)

    def _read_config(self, config: Descriptor) -> bytes:
        """Read a config, from a registry if it is absent and may be fetched."""
        try:
            return self._local.read(config)
        except NotFound:
            if not self._may_fetch:
                raise
            return self._remote(self._fetchers(self._image)).read(config)

    # --- check the indexes

    def check(self, fetchers: Fetchers) -> None:
        """Raise NoMatchingPlatform, ArchiveError if it is no image, InvalidInput for several instead of one.

        Reads an absent index from a registry; if nothing may be fetched, `require` reports it later.
        """
        require_exportable(self._image.target)
        if not mediatypes.is_index(self._image.target.media_type):
            return
        try:
            images = self._listed(self._local.read)
        except NotFound:
            if not self._may_fetch:
                return
            try:
                images = self._listed(self._remote(fetchers(self._image)).read)
            except NotFound:
                if not self._is_offline:
                    raise
                return
        absent = self._targets.absent(item.platform for item in images)
        if absent or not (images or self._options.platforms.all):
            error = _no_match(self._local, self._image, absent)
            if not (images and self._may_skip):
                raise error
            self._skip_platforms(absent, error)
        if self._options.index == "flatten":
            only_image(images)
        elif self._options.format == "docker":
            only_image(images, "`format=docker`")

    def _listed(self, read: graph.ReadDocument) -> list[Descriptor]:
        """Return the images in the indexes that match the targets."""
        step = self._narrow(graph.read_children(read))
        return [item for item in graph.leaves_of(self._image.target, step) if graph.is_image(item)]

    def _skip_platforms(self, absent: Sequence[Platform], error: NoMatchingPlatform) -> None:
        """Continue without platforms that the image does not have."""
        self.skipped += [
            Skipped(image=self.name, platform=platform, message=error.message) for platform in absent
        ]
        self._targets = msgspec.structs.replace(self._targets, required=())

    # --- fetch what is missing

    def _wanted(self) -> Iterator[tuple[Targets, graph.Narrow | None]]:
        """Yield the targets of each fetch, and what else limits it."""
        if self._options.ensure == "all":
            fetched = nerdctl.ensured_by_2_0_3(self._store, self._image)
            if fetched:
                yield Targets(self._options.platforms, platforms.any_of(*fetched), fetched), None
        if not self._is_offline:
            yield self._targets, self._narrow
        elif self._source is not None and self._is_available(self._image.target):
            yield self._targets, self._available

    def ensure(self, fetchers: Fetchers, progress: ProgressSink) -> Iterator[ensure.EnsureResult]:
        """Fetch missing content; `fetchers` is only called if something is missing.

        If content may be missing, the rest is fetched although the registry lacks some.
        """
        for targets, narrow in self._wanted():
            if not self._local.missing(targets, narrow):
                continue
            for part in self._parts():
                try:
                    yield ensure.ensure(
                        self._store.store,
                        part,
                        targets,
                        lambda _part: fetchers(self._image),
                        narrow=narrow,
                        concurrency=self._options.concurrency,
                        progress=progress,
                    )
                except (NotFound, RegistryError) as error:
                    if not (self._may_skip and _is_missing(error)):
                        raise
                self._store.content.forget_absent()

    def _parts(self) -> Iterator[ImageRecord]:
        """Yield what is fetched at once: the image; if content may be missing, each of its manifests."""
        if not self._may_skip or not mediatypes.is_index(self._image.target.media_type):
            yield self._image
            return
        if any(mediatypes.is_index(item.media_type) for item in self._local.missing(self._targets)):
            yield self._image
        for leaf in list(graph.leaves_of(self._image.target, self._available(self._local.children))):
            yield msgspec.structs.replace(self._image, target=leaf)

    def _remote(self, fetchers: Sequence[Fetcher]) -> LocalImage:
        return LocalImage(self._store, self._image.target, fetchers)

    def peek(self, fetchers: Fetchers) -> tuple[list[Descriptor], graph.ReadDocument]:
        """Return what would be fetched, and a reader for documents, which may be in a registry."""
        missing: list[Descriptor] = []
        remote: Sequence[Fetcher] = ()
        for targets, narrow in self._wanted():
            found = self._local.missing(targets, narrow)
            if any(map(graph.has_children, found)):
                remote = remote or fetchers(self._image)
                try:
                    found = self._remote(remote).missing(targets, narrow)
                except RegistryError as error:
                    if not (self._may_skip and _is_missing(error)):
                        raise
                    found = tuple(item for item in found if not graph.has_children(item))
                    remote = ()
            missing += found
        return missing, self._remote(remote).read

    # --- pin and check

    def generations(self) -> Iterator[Sequence[Descriptor]]:
        """Yield what is saved, a generation at a time, and collect it in `reached`.

        Documents are read when the next generation is asked for; absent ones have no children.
        """
        self.reached = []
        for generation in graph.generations(self._image.target, self._step(self._local.read)):
            self.reached += generation
            yield generation

    def pinned(self) -> ArchiveImage:
        """Check that all content is there, and return it; it is pinned before."""
        read = self._local.read
        if not all(map(self._local.is_present, self.reached)):
            self.require(read, ())
        return self.contents(read)

    def _step(self, read: graph.ReadDocument) -> graph.Children:
        return self._narrow(graph.tolerant(graph.read_children(read), lambda _missing: None, NotFound))

    def require(self, read: graph.ReadDocument, available: Collection[Digest]) -> None:
        """Raise IncompleteContent, with all missing content, unless all is `available` or in the store.

        If content may be missing, leave out the incomplete manifests instead, and raise only if nothing else
        is left.
        """
        step = self._step(read)
        found, owner = graph.with_platforms(self._image.target, step)
        absent = {
            digest: item
            for digest, item in found.items()
            if digest not in available and not self._local.is_present(item)
        }
        if not absent:
            return
        error = _incomplete(self._image, tuple(absent.values()), owner)
        has_parts = mediatypes.is_index(self._image.target.media_type)
        if not (self._may_skip and has_parts) or self._image.target.digest in absent:
            raise error
        self._leave_out(step, absent, error)
        if not any(map(graph.is_image, graph.leaves_of(self._image.target, self._step(read)))):
            raise error

    def _leave_out(
        self, step: graph.Children, absent: Mapping[Digest, Descriptor], error: IncompleteContent
    ) -> None:
        """Leave out the manifests and nested indexes of which something is absent, and their attestations."""

        def indexes(descriptor: Descriptor) -> Sequence[Descriptor]:
            return step(descriptor) if mediatypes.is_index(descriptor.media_type) else ()

        children = list(graph.preorder(self._image.target, indexes))[1:]
        for child in children:
            whole = [child] if mediatypes.is_index(child.media_type) else graph.preorder(child, step)
            missing = [item for item in graph.by_digest(whole).values() if item.digest in absent]
            if missing:
                self._left_out.add(child.digest)
                self.skipped.append(
                    Skipped(
                        image=self.name,
                        platform=child.platform,
                        missing=tuple(missing),
                        message=error.message,
                    )
                )
        self._left_out.update(
            child.digest
            for child in children
            if child.annotations.get(mediatypes.ATTESTED_DIGEST) in self._left_out
        )

    def contents(self, read: graph.ReadDocument) -> ArchiveImage:
        """Collect what goes into the archive."""
        return contents(
            self._image,
            read,
            self._narrow,
            preferences=self._preferences(),
            mode=self._options.index,
            sources=self._sources(),
        )

    def _preferences(self) -> list[Matcher]:
        """Return the preferences for the manifest that docker loads: if possible, one that runs here."""
        chosen = self._options.platforms
        if chosen.all:
            return [platforms.only_strict(chosen.host), platforms.only(chosen.host), platforms.ALL]
        if chosen.local:
            return [platforms.only_strict(chosen.host), self._targets.matcher]
        return [self._targets.matcher]

    def _sources(self) -> dict[str, str]:
        try:
            labels = self._store.content.info(self._image.target.digest).labels
        except NotFound:  # a dry run, with an index that is not fetched yet
            return {}
        return {key: value for key, value in labels.items() if key.startswith(mediatypes.DISTRIBUTION_SOURCE)}


def _is_missing(error: NotFound | RegistryError) -> bool:
    """Whether a registry says that it does not have something, or there is no registry to ask."""
    return isinstance(error, NotFound) or error.status == 404


# --- errors -----------------------------------------------------------------------------------------------


def _incomplete(
    image: ImageRecord, absent: Sequence[Descriptor], owner: Mapping[Digest, Platform | None]
) -> IncompleteContent:
    return incomplete(
        image,
        absent,
        owner,
        hint="save it with network access, or fetch what is missing",
        remedy=Remedy(method="ensure", images=(image.name,)),
    )


def _no_match(local: LocalImage, image: ImageRecord, absent: Sequence[Platform]) -> NoMatchingPlatform:
    """Return the error with the image's platforms, and which of them are complete."""
    found = [platforms.format_all(platform) for platform in _reachable(local)]
    complete = {platforms.format_all(item) for item in local.platforms()}
    names = sorted(dict.fromkeys(found), key=lambda name: name not in complete)
    has = listed([f"{name} (complete)" if name in complete else name for name in names])
    wanted = listed([platforms.format_all(item) for item in absent])
    return NoMatchingPlatform(
        nothing_to_save(image.name, wanted),
        name=wanted,
        hint=f"it has {has}" if names else None,
        remedy=Remedy(method="save", images=(image.name,), platforms=(names[0],)) if names else None,
    )


def _reachable(local: LocalImage) -> Iterator[Platform]:
    """Yield the platforms that can be selected: one in a nested index of another platform cannot."""
    step = local.children

    def fitting(descriptor: Descriptor) -> Sequence[Descriptor]:
        if descriptor.platform is None:
            return step(descriptor)
        wanted = graph.fits(platforms.only_strict(descriptor.platform))
        return [child for child in step(descriptor) if wanted(child)]

    def by_platform(descriptor: Descriptor) -> Platform | None:
        return descriptor.platform

    for item in graph.preorder(local.target, fitting, depends_on=by_platform):
        if item.platform is not None and graph.is_image(item):
            yield item.platform

"""What `nerdctl save` would download before it exports, worked out from local content alone.

`nerdctl save` calls EnsureAllContent (nerdctl pkg/cmd/image/ensure.go), which asks for every platform that
it can *read* here whether it is complete, and fetches those that are not:

* 2.0.0 - 2.0.3: every platform whose manifest and config are local. containerd 2.x stores these of all
  platforms at a pull, so everything foreign is downloaded (nerdctl issue 3866).
* 2.0.4 - 2.1.3: only those of them that match the chosen platforms (nerdctl pull request 3920).
* 2.1.4 and later: as before, but attestation manifests are passed over. With real platforms as targets that
  is no change; with --all-platforms their statements are not fetched any more, and the export wants them.
* 2.3.0 and later: as before, but a child whose descriptor has os.features is no longer taken for one of the
  plain platform.

Nothing here touches the network. Whether a version that fetches nothing can export is another question: a
platform whose manifest or config is absent is never fetched by any of them, and then the export fails.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Iterable, Mapping, Sequence
from functools import cached_property
from itertools import chain
from typing import Final, Protocol, TypeAlias

import msgspec

from pyctrd.errors import ContentError, NotFound
from pyctrd.oci import graph, mediatypes, platforms
from pyctrd.oci.model import (
    Descriptor,
    Digest,
    ImageConfig,
    ImageRecord,
    Index,
    Manifest,
    Platform,
)
from pyctrd.oci.platforms import Matcher
from pyctrd.ports import Store

_Blobs: TypeAlias = Mapping[Digest, Descriptor]


class Look(Protocol):
    """What can be seen of a store."""

    def present(self, descriptor: Descriptor) -> bool:
        """Whether the content of a descriptor is here."""

    def read(self, descriptor: Descriptor) -> bytes:
        """Return a document whole; raises NotFound, ContentError."""


class Release(msgspec.Struct, frozen=True, kw_only=True):
    """How a release looks at an image.

    `filters`: it asks for the chosen platforms only. `skips_attestations`: it does not see them.
    `features`: os.features count when platforms are compared.
    """

    filters: bool = True
    skips_attestations: bool = False
    features: bool = False


RELEASE_2_0_3: Final = Release(filters=False)
RELEASE_2_0_4: Final = Release()
RELEASE_2_1_4: Final = Release(skips_attestations=True)
RELEASE_2_3_0: Final = Release(skips_attestations=True, features=True)


class Ensured(msgspec.Struct, frozen=True, kw_only=True):
    """What a release does before it exports.

    `readable`: it finds a platform to look at, and so reads the image's name as a reference. `platforms` are
    those that it asks the registry for, each by a fetch of its own; `fetch` what it downloads for them.
    `hidden` are the documents among that: what they name is downloaded as well. `error` is why it ends before
    the export. `certain` is false where the order of the platforms decides, which is random.
    """

    readable: bool = False
    platforms: tuple[Platform, ...] = ()
    fetch: tuple[Descriptor, ...] = ()
    hidden: tuple[Descriptor, ...] = ()
    error: str = ""
    certain: bool = True


def ensured_by_2_0_3(store: Store, image: ImageRecord) -> tuple[Platform, ...]:
    """List the platforms for which `nerdctl save` 2.0.0 - 2.0.3 calls the registry."""
    return ensure(_Plain(store), image.target, RELEASE_2_0_3, platforms.ALL).platforms


def ensure(look: Look, target: Descriptor, release: Release, targets: Matcher) -> Ensured:
    """Work out what a release of nerdctl does before it exports the `targets` of an image.

    Source: nerdctl pkg/cmd/image/ensure.go EnsureAllContent, ensureOne; pkg/cmd/image/list.go read.
    """
    image = _Image(look, target, release)
    wanted = [item for item in image.readable() if not release.filters or targets.match(item)]
    try:
        incomplete = [item for item in wanted if not image.is_complete(item)]
    except ContentError:
        return Ensured(
            readable=True, error=f"failed to check image {target.digest}", certain=len(wanted) == 1
        )
    if not incomplete:
        return Ensured(readable=bool(wanted))
    common = image.absent_in_common()
    own = [image.absent_of(item) for item in incomplete]
    fetch = {item.digest: item for item in chain(common.values(), *(found.values() for found in own))}
    return Ensured(
        readable=True,
        platforms=tuple(incomplete),
        fetch=tuple(fetch.values()),
        hidden=tuple(item for item in fetch.values() if graph.has_children(item)),
        certain=not _depends_on_order(image, incomplete, common, own),
    )


def _depends_on_order(
    image: _Image, incomplete: Sequence[Platform], common: _Blobs, own: Sequence[_Blobs]
) -> bool:
    """Whether a fetch that brings something of its own is left out when it comes after the others.

    nerdctl goes through a Go map, whose order is random; what an earlier fetch has brought counts.
    """
    if len(incomplete) < 2:
        return False
    times = Counter(digest for found in own for digest in found)
    for platform, found in zip(incomplete, own, strict=True):
        alone = {digest for digest in found if times[digest] == 1 and digest not in common}
        if alone and image.is_complete(platform, _Before(common, times, alone)):
            return True
    return False


class _Before:
    """What has come once all other platforms have been fetched."""

    def __init__(self, common: _Blobs, times: Mapping[Digest, int], alone: set[Digest]) -> None:
        self._common = common
        self._times = times
        self._alone = alone

    def __contains__(self, digest: object) -> bool:
        return digest in self._common or (digest in self._times and digest not in self._alone)


class _Plain:
    """A store as it is."""

    def __init__(self, store: Store) -> None:
        self._content = store.content

    def present(self, descriptor: Descriptor) -> bool:
        try:
            self._content.info(descriptor.digest)
        except NotFound:
            return False
        return True

    def read(self, descriptor: Descriptor) -> bytes:
        return self._content.read_all(descriptor.digest, limit=graph.size_limit(descriptor))


class _Image:
    """An image as nerdctl reads it; every document is parsed once."""

    def __init__(self, look: Look, target: Descriptor, release: Release) -> None:
        self._look = look
        self._target = target
        self._release = release
        self._manifests: dict[Digest, Manifest] = {}
        self._indexes: dict[Digest, _Children] = {}

    def readable(self) -> list[Platform]:
        """List the platforms of the configs that can be read, each once (nerdctl keys them by FormatAll).

        A child of which the manifest or the config is absent is passed over, as is a nested index.
        """
        found: dict[str, Platform] = {}
        manifests = (item for item in self._direct() if mediatypes.is_manifest(item.media_type))
        for manifest in graph.by_digest(manifests).values():
            try:
                platform = self._config_platform(self._manifest(manifest))
            except (_AbsentError, ContentError):
                continue
            found[platforms.format_all(platform)] = platform
        return list(found.values())

    def _direct(self) -> Iterable[Descriptor]:
        if not mediatypes.is_index(self._target.media_type):
            return (self._target,)
        try:
            children = self._children(self._target).all
        except (_AbsentError, ContentError):  # nerdctl drops the error of its read() as well
            return ()
        skips = self._release.skips_attestations
        return (item for item in children if not (skips and _is_attestation(item)))

    def is_complete(self, platform: Platform, fetched: Container[Digest] = ()) -> bool:
        """Whether the image's config and layers are here, or among what is `fetched`, for a platform.

        Where a fetched document would have to be read, the answer is yes: it may be.
        Source: containerd core/images/image.go Check. Raises ContentError where that fails.
        """
        try:
            manifest = self._manifest_for(self._target, platform)
        except _AbsentError as error:
            return error.digest in fetched
        if manifest is None:
            return False
        return all(
            item.digest in fetched or self._look.present(item) for item in (manifest.config, *manifest.layers)
        )

    def _manifest_for(self, descriptor: Descriptor, platform: Platform) -> Manifest | None:
        """Choose the one manifest for a platform; of an index only its closest child is looked at.

        Source: containerd core/images/image.go Manifest.
        """
        if mediatypes.is_manifest(descriptor.media_type):
            manifest = self._manifest(descriptor)
            if descriptor.digest == self._target.digest or descriptor.platform is not None:
                return manifest
            return manifest if platforms.ordered(platform).match(self._config_platform(manifest)) else None
        if not mediatypes.is_index(descriptor.media_type):
            return None
        children = self._children(descriptor)
        closest = next(iter((*children.of(platform), *children.plain)), None)
        return self._manifest_for(closest, platform) if closest else None

    # --- what a fetch brings

    def absent_in_common(self) -> _Blobs:
        """List what is absent and comes with the fetch of any platform.

        Children without a platform pass every filter (containerd core/images/handlers.go FilterPlatforms).
        """
        return self._absent(self._common)

    def absent_of(self, platform: Platform) -> _Blobs:
        """List what is absent and comes with the fetch of a platform only."""
        roots = [child for item in self._indexes_in_common for child in self._below(item).of(platform)]

        def step(descriptor: Descriptor) -> Sequence[Descriptor]:
            if mediatypes.is_index(descriptor.media_type):
                children = self._below(descriptor)
                return (*children.of(platform), *children.plain)
            return self._pieces(descriptor)

        return self._absent(item for root in roots for item in graph.preorder(root, step))

    @cached_property
    def _common(self) -> list[Descriptor]:
        """The target, and what is below it without a platform on the way."""

        def step(descriptor: Descriptor) -> Sequence[Descriptor]:
            if mediatypes.is_index(descriptor.media_type):
                return self._below(descriptor).plain
            return self._pieces(descriptor)

        return list(graph.preorder(self._target, step))

    @cached_property
    def _indexes_in_common(self) -> list[Descriptor]:
        return [item for item in self._common if mediatypes.is_index(item.media_type)]

    def _absent(self, blobs: Iterable[Descriptor]) -> _Blobs:
        return {item.digest: item for item in blobs if not self._look.present(item)}

    def _below(self, index: Descriptor) -> _Children:
        """Return the children of an index; none where it is absent."""
        try:
            return self._children(index)
        except _AbsentError:
            return _Children((), features=False)

    def _pieces(self, descriptor: Descriptor) -> Sequence[Descriptor]:
        """Return config and layers of a manifest; none where it is absent."""
        if not mediatypes.is_manifest(descriptor.media_type):
            return ()
        try:
            manifest = self._manifest(descriptor)
        except _AbsentError:
            return ()
        return (manifest.config, *manifest.layers)

    # --- documents

    def _children(self, index: Descriptor) -> _Children:
        if index.digest not in self._indexes:
            children = Index.parse(self._read(index)).manifests
            self._indexes[index.digest] = _Children(children, features=self._release.features)
        return self._indexes[index.digest]

    def _manifest(self, descriptor: Descriptor) -> Manifest:
        if descriptor.digest not in self._manifests:
            self._manifests[descriptor.digest] = Manifest.parse(self._read(descriptor))
        return self._manifests[descriptor.digest]

    def _config_platform(self, manifest: Manifest) -> Platform:
        """Read the platform of a manifest's config, without os.version, which nerdctl loses here."""
        platform = ImageConfig.parse(self._read(manifest.config)).platform
        return platforms.normalize(msgspec.structs.replace(platform, os_version="", os_features=()))

    def _read(self, descriptor: Descriptor) -> bytes:
        """Read a document; like containerd's ReadBlob, from the descriptor itself where that carries it."""
        data = descriptor.data
        if (
            data
            and len(data) == descriptor.size
            and Digest.of(data, descriptor.digest.algorithm) == descriptor.digest
        ):
            return data
        try:
            return self._look.read(descriptor)
        except NotFound:
            raise _AbsentError(descriptor.digest) from None


class _Children:
    """The children of an index, found by platform."""

    def __init__(self, children: Sequence[Descriptor], *, features: bool) -> None:
        self.all = children
        self.plain = tuple(item for item in children if item.platform is None)
        self._features = features
        self._by_platform: dict[object, list[tuple[Platform, Descriptor]]] = {}
        for item in children:
            if item.platform is not None:
                platform = item.platform if features else platforms.without_features(item.platform)
                self._by_platform.setdefault(_key(platform), []).append((platform, item))

    def of(self, platform: Platform) -> list[Descriptor]:
        """List the children for a platform; those without one are not among them."""
        matcher = platforms.ordered(platform)
        return [item for own, item in self._by_platform.get(_key(platform), ()) if matcher.match(own)]


def _key(platform: Platform) -> object:
    normal = platforms.normalize(platform)
    return normal.os, normal.architecture, normal.variant


def _is_attestation(child: Descriptor) -> bool:
    return child.annotations.get(mediatypes.ATTESTATION_TYPE) == "attestation-manifest"


class _AbsentError(Exception):
    """A document is not here."""

    def __init__(self, digest: Digest) -> None:
        super().__init__(digest)
        self.digest = digest

"""Predict what `nerdctl save` would download before it exports, from local content only.

`nerdctl save` calls EnsureAllContent (nerdctl pkg/cmd/image/ensure.go), which checks every platform that
it can *read* locally, and fetches those that are incomplete:

* 2.0.0 - 2.0.3: every platform whose manifest and config are local. containerd 2.x stores these for all
  platforms at a pull, so all other platforms are downloaded (nerdctl issue 3866).
* 2.0.4 - 2.1.3: only those that match the selected platforms (nerdctl pull request 3920).
* 2.1.4 and later: attestation manifests are skipped. This only matters with --all-platforms, where their
  statements are no longer fetched, although the export needs them.
* 2.3.0 and later: a child whose descriptor has os.features no longer matches the platform without them.

This module does not use the network, and does not predict the export: a platform whose manifest or config is
absent is never fetched by any release, and then the export fails.
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
from pyctrd.steps.local import LocalImage

_Blobs: TypeAlias = Mapping[Digest, Descriptor]


class ContentView(Protocol):
    """Read access to content."""

    def is_present(self, descriptor: Descriptor) -> bool:
        """Whether the content of a descriptor is in the store."""

    def read(self, descriptor: Descriptor) -> bytes:
        """Return a document. Raises NotFound, ContentError."""


class Release(msgspec.Struct, frozen=True, kw_only=True):
    """How a release behaves.

    `filters`: it checks the selected platforms only. `skips_attestations`: it ignores attestations.
    `features`: it compares the os.features of platforms.
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

    `readable`: it finds a platform to check, and so parses the image's name as a reference. `platforms` are
    those that it fetches, one after the other, and `fetch` is what it downloads for them. `hidden` are the
    documents in `fetch`, whose unknown children are downloaded as well. `error` is the error with which it
    ends before the export. `certain` is false if the result depends on the random order of the platforms.
    """

    readable: bool = False
    platforms: tuple[Platform, ...] = ()
    fetch: tuple[Descriptor, ...] = ()
    hidden: tuple[Descriptor, ...] = ()
    error: str = ""
    certain: bool = True


def ensured_by_2_0_3(store: Store, image: ImageRecord) -> tuple[Platform, ...]:
    """Return the platforms that `nerdctl save` 2.0.0 - 2.0.3 would fetch."""
    return ensure(LocalImage(store, image.target), image.target, RELEASE_2_0_3, platforms.ALL).platforms


def ensure(content: ContentView, target: Descriptor, release: Release, targets: Matcher) -> Ensured:
    """Predict what a release of nerdctl does before it exports the `targets` of an image.

    Source: nerdctl pkg/cmd/image/ensure.go EnsureAllContent, ensureOne; pkg/cmd/image/list.go read.
    """
    image = _Image(content, target, release)
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
    """Whether a platform with content of its own would not be fetched if it came last.

    nerdctl iterates over a Go map, whose order is random, and earlier fetches may complete a platform.
    """
    if len(incomplete) < 2:
        return False
    times = Counter(digest for found in own for digest in found)
    for platform, found in zip(incomplete, own, strict=True):
        alone = {digest for digest in found if times[digest] == 1 and digest not in common}
        if alone and image.is_complete(platform, _FetchedBefore(common, times, alone)):
            return True
    return False


class _FetchedBefore:
    """The digests that are present once all other platforms have been fetched."""

    def __init__(self, common: _Blobs, times: Mapping[Digest, int], alone: set[Digest]) -> None:
        self._common = common
        self._times = times
        self._alone = alone

    def __contains__(self, digest: object) -> bool:
        return digest in self._common or (digest in self._times and digest not in self._alone)


class _Image:
    """An image as nerdctl reads it; parses each document once."""

    def __init__(self, content: ContentView, target: Descriptor, release: Release) -> None:
        self._content = content
        self._target = target
        self._release = release
        self._manifests: dict[Digest, Manifest] = {}
        self._indexes: dict[Digest, _Children] = {}

    def readable(self) -> list[Platform]:
        """Return the platforms of the readable configs, each once (nerdctl's key is FormatAll).

        Children whose manifest or config is absent are skipped, and so are nested indexes.
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
        """Whether a platform's config and layers are in the store, or in `fetched`.

        True if this depends on a fetched document, whose content is unknown.
        Source: containerd core/images/image.go Check. Raises ContentError if that fails.
        """
        try:
            manifest = self._manifest_for(self._target, platform)
        except _AbsentError as error:
            return error.digest in fetched
        if manifest is None:
            return False
        return all(
            item.digest in fetched or self._content.is_present(item)
            for item in (manifest.config, *manifest.layers)
        )

    def _manifest_for(self, descriptor: Descriptor, platform: Platform) -> Manifest | None:
        """Return the manifest for a platform; only the closest child of an index is considered.

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

    # --- what a fetch downloads

    def absent_in_common(self) -> _Blobs:
        """Return the absent content that the fetch of any platform downloads.

        Children without a platform pass every filter (containerd core/images/handlers.go FilterPlatforms).
        """
        return self._absent(self._common)

    def absent_of(self, platform: Platform) -> _Blobs:
        """Return the absent content that only the fetch of this platform downloads."""
        roots = [child for item in self._indexes_in_common for child in self._below(item).of(platform)]

        def step(descriptor: Descriptor) -> Sequence[Descriptor]:
            if mediatypes.is_index(descriptor.media_type):
                children = self._below(descriptor)
                return (*children.of(platform), *children.plain)
            return self._config_and_layers(descriptor)

        return self._absent(item for root in roots for item in graph.preorder(root, step))

    @cached_property
    def _common(self) -> list[Descriptor]:
        """The target, and the descriptors below it that have no platform on the path to them."""

        def step(descriptor: Descriptor) -> Sequence[Descriptor]:
            if mediatypes.is_index(descriptor.media_type):
                return self._below(descriptor).plain
            return self._config_and_layers(descriptor)

        return list(graph.preorder(self._target, step))

    @cached_property
    def _indexes_in_common(self) -> list[Descriptor]:
        return [item for item in self._common if mediatypes.is_index(item.media_type)]

    def _absent(self, blobs: Iterable[Descriptor]) -> _Blobs:
        return {item.digest: item for item in blobs if not self._content.is_present(item)}

    def _below(self, index: Descriptor) -> _Children:
        """Return the children of an index; none if it is absent."""
        try:
            return self._children(index)
        except _AbsentError:
            return _Children((), features=False)

    def _config_and_layers(self, descriptor: Descriptor) -> Sequence[Descriptor]:
        """Return the config and layers of a manifest; none if it is absent."""
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
        """Return the platform of a manifest's config, without os.version, which nerdctl drops here."""
        platform = ImageConfig.parse(self._read(manifest.config)).platform
        return platforms.normalize(msgspec.structs.replace(platform, os_version="", os_features=()))

    def _read(self, descriptor: Descriptor) -> bytes:
        """Read a document; like containerd's ReadBlob, from the descriptor if that contains it."""
        data = descriptor.data
        if (
            data
            and len(data) == descriptor.size
            and Digest.of(data, descriptor.digest.algorithm) == descriptor.digest
        ):
            return data
        try:
            return self._content.read(descriptor)
        except NotFound:
            raise _AbsentError(descriptor.digest) from None


class _Children:
    """The children of an index, by platform."""

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
        """Return the children for a platform, without those that have no platform."""
        matcher = platforms.ordered(platform)
        return [item for own, item in self._by_platform.get(_key(platform), ()) if matcher.match(own)]


def _key(platform: Platform) -> object:
    normal = platforms.normalize(platform)
    return normal.os, normal.architecture, normal.variant


def _is_attestation(child: Descriptor) -> bool:
    return child.annotations.get(mediatypes.ATTESTATION_TYPE) == "attestation-manifest"


class _AbsentError(Exception):
    """A document is absent."""

    def __init__(self, digest: Digest) -> None:
        super().__init__(digest)
        self.digest = digest

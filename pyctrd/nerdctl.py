"""What `nerdctl save` would download before it exports, told from local content alone.

`nerdctl save` calls EnsureAllContent (nerdctl pkg/cmd/image/ensure.go), which asks for every platform that
it can *read* here whether it is complete, and fetches those that are not:

* 2.0.0 - 2.0.3: every platform whose manifest and config are local. containerd 2.x stores these of all
  platforms at a pull, so everything foreign is downloaded (nerdctl issue 3866).
* 2.0.4 - 2.1.3: only those of them that match the chosen platforms (nerdctl pull request 3920).
* 2.1.4 and later: as before, but attestation manifests are passed over. With real platforms as targets that
  is no change; with --all-platforms their statements are not fetched any more, and the export wants them.

Nothing here touches the network. Whether a version that fetches nothing can export is another question: a
platform whose manifest or config is absent is never fetched by any of them, and then the export fails.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Final

import msgspec

from pyctrd import mediatypes, platforms, walk
from pyctrd.errors import ContentError, NotFound
from pyctrd.model import (
    Descriptor,
    ImageConfig,
    ImageRecord,
    Index,
    Manifest,
    Platform,
)
from pyctrd.platforms import Matcher
from pyctrd.ports import ContentStore, Store

_UNREADABLE: Final = (NotFound, ContentError)


def fetched_by_2_0_3(store: Store, image: ImageRecord) -> tuple[Descriptor, ...]:
    """List the blobs that `nerdctl save` 2.0.0 - 2.0.3 downloads for this image, in document order.

    Source: nerdctl v2.0.3 pkg/cmd/image/ensure.go EnsureAllContent, read, ensureOne.
    """
    return _fetched(store.content, image.target, ensured_by_2_0_3(store, image))


def fetched_by_2_0_4(store: Store, image: ImageRecord, targets: Matcher) -> tuple[Descriptor, ...]:
    """List the blobs that `nerdctl save` 2.0.4 - 2.1.3 downloads when `targets` are to be saved."""
    return _fetched(store.content, image.target, ensured_by_2_0_4(store, image, targets))


def fetched_by_2_1_4(store: Store, image: ImageRecord, targets: Matcher) -> tuple[Descriptor, ...]:
    """List the blobs that `nerdctl save` 2.1.4 and later downloads when `targets` are to be saved."""
    return _fetched(store.content, image.target, ensured_by_2_1_4(store, image, targets))


def ensured_by_2_0_3(store: Store, image: ImageRecord) -> tuple[Platform, ...]:
    """List the platforms (of the configs) that nerdctl up to 2.0.3 finds readable but incomplete.

    These are the ones for which it calls the registry, each with a fetch of its own.
    """
    return _incomplete(store.content, image, _direct_manifests(store.content, image.target))


def ensured_by_2_0_4(store: Store, image: ImageRecord, targets: Matcher) -> tuple[Platform, ...]:
    """List the platforms that nerdctl 2.0.4 - 2.1.3 fetches: of those of 2.0.3 the ones to be saved.

    Source: nerdctl v2.0.4 pkg/cmd/image/ensure.go EnsureAllContent (`platMC.Match`).
    """
    return tuple(item for item in ensured_by_2_0_3(store, image) if targets.match(item))


def ensured_by_2_1_4(store: Store, image: ImageRecord, targets: Matcher) -> tuple[Platform, ...]:
    """List the platforms that nerdctl 2.1.4 and later fetches: as 2.0.4, but attestations are not seen.

    Source: nerdctl v2.1.4 pkg/cmd/image/list.go readIndex, isAttestationManifestDescriptor.
    """
    children = _direct_manifests(store.content, image.target)
    seen = [item for item in children if item.digest == image.target.digest or not _is_attestation(item)]
    return tuple(item for item in _incomplete(store.content, image, seen) if targets.match(item))


def _incomplete(
    content: ContentStore, image: ImageRecord, manifests: Iterable[Descriptor]
) -> tuple[Platform, ...]:
    found = _readable_platforms(content, manifests)
    return tuple(item for item in found if not _is_available(content, image.target, platforms.ordered(item)))


def _is_attestation(child: Descriptor) -> bool:
    return child.annotations.get("vnd.docker.reference.type") == "attestation-manifest"


def _readable_platforms(content: ContentStore, manifests: Iterable[Descriptor]) -> list[Platform]:
    """Give the platforms of the configs that can be read, each once (nerdctl keys them by FormatAll).

    A child of which the manifest or the config is absent is passed over in silence, as is a nested index.
    """
    found: dict[str, Platform] = {}
    for manifest in manifests:
        platform = _config_platform(content, manifest)
        if platform is not None:
            found[platforms.format_all(platform)] = platform
    return list(found.values())


def _direct_manifests(content: ContentStore, target: Descriptor) -> Iterator[Descriptor]:
    if mediatypes.is_manifest(target.media_type):
        yield target
    elif mediatypes.is_index(target.media_type):
        try:
            index = Index.parse(_read(content, target))
        except _UNREADABLE:  # nerdctl drops the error of its read() as well
            return
        yield from (item for item in index.manifests if mediatypes.is_manifest(item.media_type))


def _config_platform(content: ContentStore, manifest: Descriptor) -> Platform | None:
    """Read a manifest's config, and give its platform without os.version, which nerdctl loses here."""
    try:
        config = Manifest.parse(_read(content, manifest)).config
        platform = ImageConfig.parse(_read(content, config)).platform
    except _UNREADABLE:
        return None
    return msgspec.structs.replace(platform, os_version="", os_features=())


def _is_available(content: ContentStore, target: Descriptor, matcher: Matcher) -> bool:
    """Tell whether the image's config and layers are here for a platform (containerd images.Check)."""
    try:
        manifest = _manifest_of(content, target, target, matcher)
    except _UNREADABLE:
        return False
    if manifest is None:
        return False
    return all(_is_present(content, item) for item in (manifest.config, *manifest.layers))


def _manifest_of(
    content: ContentStore, root: Descriptor, descriptor: Descriptor, matcher: Matcher
) -> Manifest | None:
    """Choose the one manifest for a platform; of an index only its closest child is looked at.

    Source: containerd core/images/image.go Manifest.
    """
    if mediatypes.is_manifest(descriptor.media_type):
        manifest = Manifest.parse(_read(content, descriptor))
        if descriptor.digest == root.digest or descriptor.platform is not None:
            return manifest
        platform = _config_platform(content, descriptor)
        return manifest if platform is not None and matcher.match(platform) else None
    if not mediatypes.is_index(descriptor.media_type):
        return None
    children = Index.parse(_read(content, descriptor)).manifests
    matching = [item for item in children if item.platform is None or matcher.match(item.platform)]
    closest = walk.closest(matching, matcher)[:1]
    return _manifest_of(content, root, closest[0], matcher) if closest else None


def _fetched(content: ContentStore, target: Descriptor, wanted: Sequence[Platform]) -> tuple[Descriptor, ...]:
    """List what is absent below the target when each platform is fetched without other metadata.

    Children without a platform pass every filter, so they are fetched as well (containerd
    core/images/handlers.go FilterPlatforms).
    """
    if not wanted:
        return ()
    read = walk.read_children(lambda descriptor: _read(content, descriptor))
    step = walk.tolerant(walk.only_platforms(read, platforms.any_of(*wanted)), lambda _absent: None, NotFound)
    absent = {item.digest: item for item in walk.preorder(target, step) if not _is_present(content, item)}
    return tuple(absent.values())


def _read(content: ContentStore, descriptor: Descriptor) -> bytes:
    return content.read_all(descriptor.digest, limit=walk.size_limit(descriptor))


def _is_present(content: ContentStore, descriptor: Descriptor) -> bool:
    try:
        content.info(descriptor.digest)
    except NotFound:
        return False
    return True

"""Check that an image has the requested platforms and all of their content."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from pyctrd.amounts import MOST_LISTED, count, listed, size
from pyctrd.errors import NoMatchingPlatform, Remedy
from pyctrd.oci import graph, mediatypes, platforms
from pyctrd.oci.errors import IncompleteContent
from pyctrd.oci.model import Descriptor, Digest, ImageRecord, Platform
from pyctrd.ports import Store
from pyctrd.steps.pin import pin


class PlatformCheck:
    """Collects the platforms of the manifests in a walk, and checks that the wanted ones are among them.

    A manifest without a platform counts for all platforms, as in containerd's filters.
    """

    def __init__(self, root: Descriptor, wanted: Sequence[Platform]) -> None:
        self._root = root.digest
        self._wanted = tuple(wanted)
        self._found: list[Platform] = []
        self._universal = not mediatypes.is_index(root.media_type)

    def watch(self, children: graph.Children) -> graph.Children:
        """Wrap a step, before any filter, so that filtered platforms do not count as absent."""

        def step(descriptor: Descriptor) -> Sequence[Descriptor]:
            found = children(descriptor)
            if mediatypes.is_index(descriptor.media_type):
                self._collect(found)
            return found

        return step

    def _collect(self, children: Sequence[Descriptor]) -> None:
        for child in children:
            if child.platform is not None:
                self._found.append(platforms.normalize(child.platform))
            elif not mediatypes.is_index(child.media_type):
                self._universal = True

    def before(self, generation: Sequence[Descriptor]) -> None:
        """Check as soon as the walk has read all indexes, before layers are fetched."""
        if not any(mediatypes.is_index(item.media_type) for item in generation):
            self.check()

    def check(self) -> None:
        """Raise NoMatchingPlatform, with the available platforms, if a wanted one is missing."""
        if self._universal:
            return
        absent = platforms.uncovered(self._wanted, self._found)
        if absent:
            raise no_match(self._root, absent, self._found)


def no_match(root: Digest, absent: Sequence[Platform], present: Sequence[Platform]) -> NoMatchingPlatform:
    """Return the error with the absent platforms, those that the image has, and a remedy."""
    # Attestations have the platform unknown/unknown, which cannot be selected.
    names = list(
        dict.fromkeys(platforms.format_all(item) for item in present if not platforms.is_unknown(item))
    )
    wanted = listed([platforms.format_all(platform) for platform in absent])
    return NoMatchingPlatform(
        f"no match for platform in manifest {root}: not found (no {wanted})",
        name=wanted,
        hint=f"it has {listed(names)}" if names else "it has no platform at all",
        remedy=Remedy(platforms=(names[0],)) if names else None,
    )


def incomplete(
    image: ImageRecord,
    absent: Sequence[Descriptor],
    owner: Mapping[Digest, Platform | None],
    *,
    remedy: Remedy,
    hint: str = "fetch what is missing",
) -> IncompleteContent:
    """Return the error for missing content: containerd's message for the first blob, then sums by platform.

    `owner` is the platform of each blob. If `remedy` has no platforms, the incomplete ones are added.
    """
    groups: dict[str, list[Descriptor]] = {}
    for item in absent:
        platform = owner.get(item.digest)
        groups.setdefault(platforms.to_string(platform) if platform else "", []).append(item)
    named = [name for name in groups if name]
    if not (remedy.all_platforms or remedy.platforms):
        some = len(named) <= MOST_LISTED
        remedy = replace(remedy, platforms=tuple(named) if some else (), all_platforms=not some)
    text = f"content digest {absent[0].digest}: not found"
    if len(absent) > 1:
        text += f", and {count(len(absent) - 1, 'more blob')} of {image.name}"
    shown = [f"{name}: {_amount(blobs)}" if name else _amount(blobs) for name, blobs in groups.items()]
    more = f" and {len(shown) - MOST_LISTED} more platforms" if len(shown) > MOST_LISTED else ""
    return IncompleteContent(
        f"{text} (missing: {'; '.join(shown[:MOST_LISTED])}{more})", missing=absent, hint=hint, remedy=remedy
    )


def _amount(blobs: Sequence[Descriptor]) -> str:
    return f"{count(len(blobs), 'blob')}, {size(sum(item.size for item in blobs))}"


def require_target(leased: Store, image: ImageRecord) -> None:
    """Add the target of an image, and with it all that its gc labels keep, to the current lease.

    Raises ImageNotFound if the image has just been deleted, IncompleteContent if only its target is missing.
    """
    if not pin(leased, [image.target]):
        return
    leased.images.get(image.name)
    raise incomplete(
        image,
        [image.target],
        {},
        remedy=Remedy(method="ensure", images=(image.name,), all_platforms=True),
    )


def nothing_to_save(image: str, wanted: str) -> str:
    """Return containerd's message for an image without the `wanted` platforms."""
    return f"no manifest found for platform: not found: {image} has no {wanted or 'complete platform'}"

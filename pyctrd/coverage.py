"""Whether an image has the platforms that were asked for."""

from __future__ import annotations

from collections.abc import Sequence

from pyctrd import mediatypes, platforms, walk
from pyctrd.errors import NoMatchingPlatform
from pyctrd.model import Descriptor, Digest, Platform


class Coverage:
    """Watches a walk for the platforms of the manifests in it.

    A manifest without a platform may be for any: it counts for all, as containerd's filters treat it.
    """

    def __init__(self, root: Descriptor, wanted: Sequence[Platform]) -> None:
        self._root = root.digest
        self._wanted = tuple(wanted)
        self._found: list[Platform] = []
        self._universal = not mediatypes.is_index(root.media_type)

    def watch(self, children: walk.Children) -> walk.Children:
        """Wrap a step, before any filter, so that absent platforms can be told from filtered ones."""

        def step(descriptor: Descriptor) -> Sequence[Descriptor]:
            found = children(descriptor)
            if mediatypes.is_index(descriptor.media_type):
                self._look_at(found)
            return found

        return step

    def _look_at(self, children: Sequence[Descriptor]) -> None:
        for child in children:
            if child.platform is not None:
                self._found.append(platforms.normalize(child.platform))
            elif not mediatypes.is_index(child.media_type):
                self._universal = True

    def before(self, generation: Sequence[Descriptor]) -> None:
        """Check as soon as the walk has read all indexes: better now than after the layers."""
        if not any(mediatypes.is_index(item.media_type) for item in generation):
            self.check()

    def check(self) -> None:
        """Raise NoMatchingPlatform, naming what there is, unless every wanted platform was seen."""
        if self._universal:
            return
        absent = [
            platform
            for platform in self._wanted
            if not any(map(platforms.only_strict(platform).match, self._found))
        ]
        if absent:
            raise no_match(self._root, absent, self._found)


def no_match(root: Digest, absent: Sequence[Platform], present: Sequence[Platform]) -> NoMatchingPlatform:
    """Make the error that names the absent platforms, those that the image has, and what to do."""
    # An attestation has the platform unknown/unknown, which nobody can ask for.
    names = list(dict.fromkeys(platforms.format_all(item) for item in present if item.os != "unknown"))
    wanted = ", ".join(platforms.format_all(platform) for platform in absent)
    return NoMatchingPlatform(
        f"no match for platform in manifest {root}: not found (no {wanted})",
        name=wanted,
        hint=f"it has {', '.join(names)}: --platform {names[0]}" if names else "it has no platform at all",
    )


def nothing_to_save(image: str, wanted: str) -> str:
    """Say that a save cannot be, in containerd's words: `wanted` are platforms that the image lacks."""
    return f"no manifest found for platform: not found: {image} has no {wanted or 'complete platform'}"

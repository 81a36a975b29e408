"""Which of an image's manifests are targets."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from pyctrd.oci import platforms
from pyctrd.oci.model import Platform
from pyctrd.oci.platforms import Matcher, Selection
from pyctrd.operations.diagnose.survey import Branch


class Targets(msgspec.Struct, frozen=True, kw_only=True):
    """A resolved selection: `wanted` are single platforms, `matcher` matches any of them.

    `chosen` is false if the platform is the host's by default. A manifest without a platform in the index
    passes all filters of containerd, so it is left out only if a platform was chosen and its config has
    another one.
    """

    wanted: tuple[Platform, ...]
    matcher: Matcher
    all: bool
    chosen: bool

    def includes(self, branch: Branch) -> bool:
        """Whether this manifest is a target."""
        if self.all:
            return True
        if not all(map(self.matcher.match, branch.through)):
            return False
        if branch.descriptor.platform is not None:
            return self.matcher.match(branch.descriptor.platform)
        return not self.chosen or branch.platform is None or self.matcher.match(branch.platform)

    def lacks(self, branches: Sequence[Branch]) -> Sequence[Platform]:
        """Return the wanted platforms that `pyctrd save` would not find among these manifests.

        A manifest without a platform in the index may be for any platform, whatever its config says.
        """
        if self.all:
            return ()
        listed = [item for item in branches if item.readable and all(map(self.matcher.match, item.through))]
        if any(item.descriptor.platform is None for item in listed):
            return ()
        have = [item.descriptor.platform for item in listed if item.descriptor.platform is not None]
        return platforms.uncovered(self.wanted, have)

    def absent(self, branches: Sequence[Branch]) -> tuple[Platform, ...]:
        """Return the wanted platforms that none of these manifests is for."""
        candidates = [branch for branch in branches if self.includes(branch)]
        if any(branch.platform is None for branch in candidates):
            return ()  # it could be any of them, and passes every filter
        if not self.chosen and any(branch.descriptor.platform is None for branch in candidates):
            return ()
        have = [branch.platform for branch in candidates if branch.platform is not None]
        return tuple(platforms.uncovered(self.wanted, have))


def resolve(selection: Selection, host: Platform, branches: Sequence[Branch]) -> Targets:
    """Resolve a selection; `local` becomes the platforms that are complete in the store."""
    if selection.all:
        return Targets(wanted=(), matcher=platforms.ALL, all=True, chosen=True)
    if selection.local:
        complete = [item for item in branches if item.kind == "image" and item.manifest and not item.missing]
        wanted = tuple(item.platform for item in complete if item.platform is not None)
    else:
        wanted = selection.platforms or (platforms.normalize(host),)
    return Targets(
        wanted=wanted,
        matcher=platforms.ordered(*wanted),
        all=False,
        chosen=bool(selection.platforms) or selection.local,
    )

"""Which of an image's manifests were asked for."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from pyctrd.oci import platforms
from pyctrd.oci.model import Platform
from pyctrd.oci.platforms import Matcher, Selection
from pyctrd.operations.diagnose.survey import Branch


class Targets(msgspec.Struct, frozen=True, kw_only=True):
    """A selection made definite: `wanted` are single platforms, `matcher` accepts any of them.

    `chosen` is false when nothing was asked for and the host's platform stands in. A manifest without a
    platform of its own passes every filter of containerd, so it is left out only when somebody chose a
    platform and its config names another one.
    """

    wanted: tuple[Platform, ...]
    matcher: Matcher
    all: bool
    chosen: bool

    def includes(self, branch: Branch) -> bool:
        """Whether this manifest was asked for."""
        if self.all:
            return True
        if not all(map(self.matcher.match, branch.through)):
            return False
        if branch.descriptor.platform is not None:
            return self.matcher.match(branch.descriptor.platform)
        return not self.chosen or branch.platform is None or self.matcher.match(branch.platform)

    def lacks(self, branches: Sequence[Branch]) -> Sequence[Platform]:
        """List the platforms asked for that `pyctrd save` would miss in an index of these manifests.

        A manifest that is listed without a platform may be for any, whatever its config says.
        """
        if self.all:
            return ()
        listed = [item for item in branches if item.readable and all(map(self.matcher.match, item.through))]
        if any(item.descriptor.platform is None for item in listed):
            return ()
        have = [item.descriptor.platform for item in listed if item.descriptor.platform is not None]
        return platforms.uncovered(self.wanted, have)

    def absent(self, branches: Sequence[Branch]) -> tuple[Platform, ...]:
        """List the platforms asked for that none of these manifests is for."""
        candidates = [branch for branch in branches if self.includes(branch)]
        if any(branch.platform is None for branch in candidates):
            return ()  # it could be any of them, and every filter lets it pass
        if not self.chosen and any(branch.descriptor.platform is None for branch in candidates):
            return ()
        have = [branch.platform for branch in candidates if branch.platform is not None]
        return tuple(platforms.uncovered(self.wanted, have))


def resolve(selection: Selection, host: Platform, branches: Sequence[Branch]) -> Targets:
    """Make a selection definite; `local` becomes the platforms that are complete here."""
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

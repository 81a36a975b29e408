"""Which of an image's manifests are targets."""

from __future__ import annotations

from collections.abc import Sequence

from pyctrd.oci.model import Platform
from pyctrd.oci.platforms import Targets
from pyctrd.operations.diagnose.survey import Branch


def complete_platforms(branches: Sequence[Branch]) -> tuple[Platform, ...]:
    """Return the platforms whose content is complete, which is what the platform `local` means."""
    complete = [item for item in branches if item.kind == "image" and item.manifest and not item.missing]
    return tuple(item.platform for item in complete if item.platform is not None)


def is_target(targets: Targets, branch: Branch) -> bool:
    """Whether a manifest is a target.

    A manifest without a platform in the index passes all filters of containerd, so it is left out only if a
    platform was selected and its config has another one.
    """
    if not all(map(targets.matcher.match, branch.through)):
        return False
    if branch.descriptor.platform is not None:
        return targets.matcher.match(branch.descriptor.platform)
    return _by_default(targets) or branch.platform is None or targets.matcher.match(branch.platform)


def lacks(targets: Targets, branches: Sequence[Branch]) -> Sequence[Platform]:
    """Return the platforms that `pyctrd save` would not find among these manifests.

    A manifest without a platform in the index may be for any platform, whatever its config says.
    """
    return targets.absent(
        item.descriptor.platform
        for item in branches
        if item.readable and all(map(targets.matcher.match, item.through))
    )


def absent_platforms(targets: Targets, branches: Sequence[Branch]) -> tuple[Platform, ...]:
    """Return the platforms that none of these manifests is for, according to the index or their configs."""
    found = [branch for branch in branches if is_target(targets, branch)]
    if _by_default(targets) and any(branch.descriptor.platform is None for branch in found):
        return ()
    return targets.absent(branch.platform for branch in found)


def _by_default(targets: Targets) -> bool:
    """Whether the platform is the host's because none was selected."""
    selection = targets.selection
    return not (selection.platforms or selection.all or selection.local)

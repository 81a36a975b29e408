"""Choose the manifests of an image to show."""

from __future__ import annotations

from pyctrd.errors import Unsupported
from pyctrd.oci import platforms
from pyctrd.oci.platforms import NO_MATCH, Selection
from pyctrd.operations.diagnose.survey import Branch, Survey
from pyctrd.operations.diagnose.targets import complete_platforms, is_target
from pyctrd.ports import Store
from pyctrd.steps.targets import no_match


def default_snapshotter(store: Store) -> str:
    """Return the default snapshotter; empty if it is not loaded, without which an image can be shown."""
    try:
        return store.default_snapshotter()
    except Unsupported:
        return ""


def selected(survey: Survey, selection: Selection) -> tuple[Branch, ...]:
    """Return the manifests of the selected platforms, in the order of preference.

    There are none if the index is absent, or if `local` was selected and no platform is complete.

    Without a selection, return the one for the host's platform, or if the image has none, a complete one, or
    else the first. Raises NoMatchingPlatform if a platform was selected that the image does not have.
    """
    branches = [item for item in survey.branches if item.kind != "attestation"] or list(survey.branches)
    targets = selection.resolve(lambda: complete_platforms(survey.branches))
    if not (selection.platforms or selection.all or selection.local):
        return tuple(
            sorted(branches, key=lambda item: (_rank(item, targets.matcher), _is_incomplete(item)))[:1]
        )
    found = [item for item in branches if is_target(targets, item)]
    if not found and targets.listed and not survey.unread:
        present = [item.platform for item in branches if item.platform is not None]
        raise no_match(survey.image.target.digest, targets.listed, present)
    return tuple(sorted(found, key=lambda item: _rank(item, targets.matcher)))


def _rank(branch: Branch, matcher: platforms.Matcher) -> int:
    return matcher.rank(branch.platform) if branch.platform is not None else NO_MATCH


def _is_incomplete(branch: Branch) -> bool:
    return branch.manifest is None or bool(branch.missing)

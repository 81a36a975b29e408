"""Content that is here, and that nothing of this image keeps: the gap of tomorrow."""

from __future__ import annotations

from collections.abc import Iterator

from pyctrd.oci.model import Descriptor
from pyctrd.operations.diagnose.causes.gap import command_for, count
from pyctrd.operations.diagnose.model import Cause
from pyctrd.operations.diagnose.survey import Branch, Survey

CODE = "unprotected"

_SHOWN = 3
_VALUE_SHOWN = 80


def find(survey: Survey, branch: Branch, label: str) -> Cause | None:
    """Warn of present content without a gc label on the manifest or index that names it.

    Another image or a lease may keep it for now (a garbage collection was, so far, either not due or
    prevented by that).
    """
    loose = list(_loose(survey, branch))
    if not loose:
        return None
    return Cause(
        code=CODE,
        platform=label,
        digest=str(branch.descriptor.digest),
        text=f"{count(len(loose), 'blob')} of {label} here, but not kept by this image: gone with the next "
        "garbage collection after whatever else holds them",
        certain=True,
        evidence=tuple(_lack(survey, parent, key) for parent, key in loose[:_SHOWN]),
        missing=(),
        remedy=command_for(survey, "pull", branch),
    )


def _lack(survey: Survey, parent: Descriptor, key: str) -> str:
    """Say how a label fails to keep what it should."""
    value = survey.labels(parent.digest).get(key)
    if value is None:
        return f"{parent.digest} has no {key}"
    return f"{parent.digest} has {key}={value[:_VALUE_SHOWN]}, which keeps something else"


def _loose(survey: Survey, branch: Branch) -> Iterator[tuple[Descriptor, str]]:
    """Give the parent, and the label that it ought to have, for each blob that is here without one."""
    if branch.parent is not None:
        family = survey.family(branch.parent)
        own = {branch.descriptor.digest} & family.unlabelled & family.here
        yield from ((branch.parent, key) for key in family.lost_keys(own))
    if branch.manifest is not None:
        family = survey.family(branch.descriptor)
        yield from ((branch.descriptor, key) for key in family.lost_keys(family.unlabelled & family.here))

"""Content in the store that has no gc label of this image, and may be garbage collected."""

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
    """Return a warning for content in the store without a gc label on its manifest or index.

    Another image or a lease may protect it, or the garbage collector has not run yet.
    """
    loose = list(_loose(survey, branch))
    if not loose:
        return None
    return Cause(
        code=CODE,
        platform=label,
        digest=str(branch.descriptor.digest),
        text=f"{count(len(loose), 'blob')} of {label} in the store, but not protected by this image: the "
        "next garbage collection removes them, unless something else protects them",
        certain=True,
        evidence=tuple(_lack(survey, parent, key) for parent, key in loose[:_SHOWN]),
        missing=(),
        remedy=command_for(survey, "pull", branch),
    )


def _lack(survey: Survey, parent: Descriptor, key: str) -> str:
    """Return what is wrong with a gc label."""
    value = survey.labels(parent.digest).get(key)
    if value is None:
        return f"{parent.digest} has no {key}"
    return f"{parent.digest} has {key}={value[:_VALUE_SHOWN]}, which protects something else"


def _loose(survey: Survey, branch: Branch) -> Iterator[tuple[Descriptor, str]]:
    """Yield the parent of each unprotected blob, and the gc label that it should have."""
    if branch.parent is not None:
        index = survey.parent_document(branch.parent)
        own = {branch.descriptor.digest} & index.unlabelled & index.present
        yield from ((branch.parent, key) for key in index.lost_keys(own))
    if branch.manifest is not None:
        manifest = survey.parent_document(branch.descriptor)
        loose = manifest.unlabelled & manifest.present
        yield from ((branch.descriptor, key) for key in manifest.lost_keys(loose))

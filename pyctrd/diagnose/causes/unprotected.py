"""Content that is here, and that nothing of this image keeps: the gap of tomorrow."""

from __future__ import annotations

from pyctrd.diagnose.causes.gap import command, count, lost_keys, unlabelled
from pyctrd.diagnose.model import Cause
from pyctrd.diagnose.survey import Branch, Survey

CODE = "unprotected"


def find(survey: Survey, branch: Branch, label: str) -> Cause | None:
    """Warn of present config and layers without a gc label on their manifest.

    Another image or a lease may keep them for now (a garbage collection was, so far, either not due or
    prevented by that).
    """
    if branch.manifest is None:
        return None
    children = [branch.manifest.config, *branch.manifest.layers]
    loose = unlabelled(survey.labels(branch.descriptor.digest), children)
    here = [child for child in children if survey.inspection.present(child)]
    digests = [child.digest for child in here if child.digest in loose]
    if not digests:
        return None
    keys = ", ".join(lost_keys(children, digests)[:3])
    return Cause(
        code=CODE,
        platform=label,
        digest=str(branch.descriptor.digest),
        text=f"{count(len(set(digests)), 'blob')} of {label} here, but not kept by this image: gone with the "
        "next garbage collection after whatever else holds them",
        certain=True,
        evidence=(f"manifest {branch.descriptor.digest} has no {keys}",),
        missing=(),
        remedy=command(survey, "pull", branch.descriptor.platform),
    )

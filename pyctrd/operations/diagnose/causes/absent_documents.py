"""Causes above the manifests: an absent target or index, or a platform that the image does not have."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from pyctrd.amounts import listed
from pyctrd.errors import Remedy
from pyctrd.oci import mediatypes, platforms
from pyctrd.oci.model import Descriptor, Platform
from pyctrd.operations.diagnose.causes.gap import command
from pyctrd.operations.diagnose.model import Cause
from pyctrd.operations.diagnose.survey import Survey

TARGET_GONE = "target_gone"
INDEX_GONE = "index_gone"
NO_SUCH_PLATFORM = "no_such_platform"


def target_gone(survey: Survey) -> Cause:
    """Return the cause for an image record whose target is absent."""
    target = survey.image.target
    return Cause(
        code=TARGET_GONE,
        platform="",
        digest=str(target.digest),
        text=f"the record {survey.image.name} points at {target.digest.short}, which is not in the store: "
        "the record was created by hand or restored, or the content was removed",
        certain=True,
        evidence=(f"content digest {target.digest}: not found",),
        missing=(str(target.digest),),
        remedy=command(survey, "ensure"),
    )


def indexes_gone(survey: Survey) -> Iterator[Cause]:
    """Yield the causes for absent nested indexes, whose platforms are unknown."""
    for index in survey.unread:
        if index.digest != survey.image.target.digest:
            yield Cause(
                code=INDEX_GONE,
                platform="",
                digest=str(index.digest),
                text=f"the nested index {index.digest.short} is missing, so its platforms are unknown",
                certain=True,
                evidence=(f"content digest {index.digest}: not found", *_lost_label(survey, index)),
                missing=(str(index.digest),),
                remedy=command(survey, "ensure"),
            )


def _lost_label(survey: Survey, index: Descriptor) -> Iterator[str]:
    """Yield the missing gc label of an index, which `ctr content prune references` may have removed."""
    parent = survey.parent_of(index)
    if parent is not None:
        document = survey.parent_document(parent)
        if index.digest in document.unlabelled:
            yield f"index {parent.digest} does not have {', '.join(document.lost_keys([index.digest]))}"


def no_such_platform(survey: Survey, absent: Sequence[Platform]) -> Iterator[Cause]:
    """Yield the causes for requested platforms that the image does not have."""
    have = [platforms.format_all(platform) for platform in _reachable(survey)]
    for platform in absent:
        name = platforms.format_all(platform)
        known = listed(list(dict.fromkeys(have))) or "no known platform"
        yield Cause(
            code=NO_SUCH_PLATFORM,
            platform=name,
            digest=None,
            text=f"the image has no {name}; it has {known}",
            certain=True,
            evidence=(f"{_kind(survey.image.target)} {survey.image.target.digest} has no such manifest",),
            missing=(),
            remedy=_other_platform(survey),
        )


def _kind(target: Descriptor) -> str:
    return "index" if mediatypes.is_index(target.media_type) else "manifest"


def _other_platform(survey: Survey) -> Remedy:
    platform = next(_reachable(survey), None)
    return command(survey, "ensure", platform) if platform else command(survey, "pull")


def _reachable(survey: Survey) -> Iterator[Platform]:
    """Yield the platforms that can be selected: one in a nested index of another platform cannot."""
    for branch in survey.branches:
        if branch.kind == "image" and branch.platform is not None:
            matcher = platforms.ordered(branch.platform)
            if all(map(matcher.match, branch.through)):
                yield branch.platform

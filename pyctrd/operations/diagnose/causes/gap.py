"""Gap: the missing content of one manifest, with what the checks need to explain it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, TypeAlias

import msgspec

from pyctrd.errors import Remedy
from pyctrd.oci import platforms
from pyctrd.oci.model import Descriptor, Digest, Platform
from pyctrd.operations.diagnose.inspection import Inspection
from pyctrd.operations.diagnose.model import Cause
from pyctrd.operations.diagnose.survey import Branch, Layer, Survey
from pyctrd.steps.kubelet import NAMESPACE


class Gap(msgspec.Struct, frozen=True, kw_only=True):
    """The missing content of one branch that is not explained yet.

    `others` are the daemon's other namespaces, `label` is the branch's name for people.
    """

    survey: Survey
    branch: Branch
    label: str
    missing: tuple[Descriptor, ...]
    others: Sequence[Inspection] = ()

    @property
    def missing_layers(self) -> tuple[Layer, ...]:
        """The layers in `missing`."""
        digests = {item.digest for item in self.missing}
        return tuple(layer for layer in self.branch.layers if layer.descriptor.digest in digests)

    @property
    def made_by_cri(self) -> tuple[str, ...]:
        """Evidence that a kubelet's container runtime manages this image; empty if there is none."""
        found = []
        if self.survey.image.labels.get("io.cri-containerd.image"):
            found.append("the image record has the label io.cri-containerd.image")
        if self.survey.inspection.store.namespace == NAMESPACE:
            found.append("the namespace is k8s.io, which the kubelet uses")
        return tuple(found)

    def unlabelled(self) -> frozenset[Digest]:
        """Return the children of the manifest that have no gc label."""
        if self.branch.manifest is None:
            return frozenset()
        return self.survey.parent_document(self.branch.descriptor).unlabelled

    def without(self, digests: Sequence[str]) -> Gap:
        """Return the gap without these digests."""
        explained = set(digests)
        left = tuple(item for item in self.missing if item.digest not in explained)
        return msgspec.structs.replace(self, missing=left)

    def cause(
        self, code: str, text: str, missing: Sequence[Digest], *evidence: str, certain: bool = False
    ) -> Cause:
        """Return a cause for part of this gap, with `ensure` as the remedy."""
        return Cause(
            code=code,
            platform=self.label,
            digest=str(self.branch.descriptor.digest),
            text=text,
            certain=certain,
            evidence=evidence,
            missing=tuple(map(str, dict.fromkeys(missing))),
            remedy=self.remedy,
        )

    @property
    def remedy(self) -> Remedy:
        """The call that fetches the missing content of this branch."""
        return command_for(self.survey, "ensure", self.branch)


Check: TypeAlias = Callable[[Gap], Cause | None]


def command_for(survey: Survey, method: Literal["ensure", "pull"], branch: Branch) -> Remedy:
    """Return a call for one branch; an attestation cannot be selected, except with all platforms."""
    is_image = branch.kind in ("image", "artifact")
    platform = branch.descriptor.platform if is_image else None
    return command(survey, method, platform, all_platforms=not is_image and branch.parent is not None)


def command(
    survey: Survey,
    method: Literal["ensure", "pull"],
    platform: Platform | None = None,
    *,
    all_platforms: bool = False,
) -> Remedy:
    """Return a call for the image."""
    chosen = (platforms.format_all(platform),) if platform is not None and not all_platforms else ()
    return Remedy(method=method, images=(survey.image.name,), platforms=chosen, all_platforms=all_platforms)


def count(number: int, noun: str) -> str:
    """Format a number with its noun."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"

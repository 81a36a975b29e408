"""The rows of a diagnosis: one for each manifest of the image."""

from __future__ import annotations

from collections.abc import Sequence

from pyctrd.oci.model import Digest
from pyctrd.oci.platforms import Targets
from pyctrd.operations.diagnose.model import Content, PlatformState
from pyctrd.operations.diagnose.survey import Branch
from pyctrd.operations.diagnose.targets import is_target


def rows(branches: Sequence[Branch], targets: Targets, snapshotter: str | None) -> tuple[PlatformState, ...]:
    """Return the rows, in the order of the image.

    `unpacked` means unpacked in `snapshotter`, or with None in any snapshotter.
    """
    platform_of = {branch.descriptor.digest: branch.platform_text for branch in branches}
    return tuple(_row(branch, targets, snapshotter, platform_of) for branch in branches)


def _row(
    branch: Branch, targets: Targets, snapshotter: str | None, platform_of: dict[Digest, str]
) -> PlatformState:
    known = branch.manifest is not None or not branch.readable
    missing = branch.missing
    attests = branch.attests
    return PlatformState(
        platform=branch.platform_text,
        digest=str(branch.descriptor.digest),
        kind=branch.kind,
        target=is_target(targets, branch),
        complete=not missing,
        manifest=branch.present,
        config=branch.config_present if branch.manifest else None,
        layers_present=sum(layer.present for layer in branch.layers) if known else None,
        layers_total=len(branch.layers) if known else None,
        missing=tuple(Content.of(item) for item in missing),
        missing_bytes=sum(item.size for item in missing),
        missing_known=known,
        unpacked=bool(branch.unpacked_in) if snapshotter is None else snapshotter in branch.unpacked_in,
        unpacked_in=branch.unpacked_in,
        attestation_for=(platform_of.get(attests) or attests.short) if attests else None,
    )

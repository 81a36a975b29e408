"""Platforms that nobody has pulled: nothing of theirs is here, or only the metadata."""

from __future__ import annotations

from pyctrd.operations.diagnose.causes.gap import Gap
from pyctrd.operations.diagnose.model import Cause

CODE = "never_pulled"


def find(gap: Gap) -> Cause | None:
    """Explain a branch of which no layer of its own is here and that is not unpacked."""
    if not gap.branch.present:
        return _without_metadata(gap)
    if not gap.missing_layers or gap.branch.unpacked_in or _own_layers(gap):
        return None
    if gap.branch.config_present:
        text = (
            f"only the metadata of {gap.label} is here: `ctr images pull` of containerd 2.x (before: with "
            "--all-metadata) stores it for every platform, and layers for the pulled ones only"
        )
        evidence = "manifest and config are here, no layer of its own is, and it is not unpacked"
    else:
        text = f"{gap.label} was never pulled: its manifest is here, but neither its config nor its layers"
        evidence = "neither the config nor a layer is here"
    return gap.cause(CODE, text, [item.digest for item in gap.missing], evidence)


def _without_metadata(gap: Gap) -> Cause | None:
    if gap.branch.parent is None:
        return None
    return gap.cause(
        CODE,
        f"{gap.label} was likely never pulled: not even its manifest is here, as after nerdctl, the kubelet, "
        "and `ctr images pull` of containerd 1.6 and 1.7",
        [item.digest for item in gap.missing],
        f"the index names {gap.branch.descriptor.digest.short}, which is not here",
    )


def _own_layers(gap: Gap) -> bool:
    """Tell whether a layer is here that no complete manifest of the image shares with this one."""
    shared = gap.survey.layers_of_complete
    return any(layer.present and layer.descriptor.digest not in shared for layer in gap.branch.layers)

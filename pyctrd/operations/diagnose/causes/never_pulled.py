"""Platforms that were never pulled: none of their content is in the store, or only the metadata."""

from __future__ import annotations

from pyctrd.operations.diagnose.causes.gap import Gap
from pyctrd.operations.diagnose.model import Cause

CODE = "never_pulled"


def find(gap: Gap) -> Cause | None:
    """Return the cause for a branch that is not unpacked and has none of its own layers in the store."""
    if not gap.branch.present:
        return _without_metadata(gap)
    if not gap.missing_layers or gap.branch.unpacked_in or _own_layers(gap):
        return None
    if gap.branch.config_present:
        text = (
            f"only the metadata of {gap.label} is in the store: `ctr images pull` stores it for every "
            "platform (before containerd 2.0: with --all-metadata), but layers only for the pulled ones"
        )
        evidence = "the manifest and the config exist, but no layer of its own, and it is not unpacked"
    else:
        text = f"{gap.label} was never pulled: it has a manifest, but neither a config nor layers"
        evidence = "neither the config nor a layer is in the store"
    return gap.cause(CODE, text, [item.digest for item in gap.missing], evidence)


def _without_metadata(gap: Gap) -> Cause | None:
    if gap.branch.parent is None:
        return None
    return gap.cause(
        CODE,
        f"{gap.label} was likely never pulled: not even its manifest is in the store, as after a pull by "
        "nerdctl, a kubelet, or `ctr images pull` of containerd 1.6 and 1.7",
        [item.digest for item in gap.missing],
        f"the index lists {gap.branch.descriptor.digest.short}, which is not in the store",
    )


def _own_layers(gap: Gap) -> bool:
    """Whether the store has a layer that this manifest does not share with a complete one."""
    shared = gap.survey.layers_of_complete
    return any(layer.present and layer.descriptor.digest not in shared for layer in gap.branch.layers)

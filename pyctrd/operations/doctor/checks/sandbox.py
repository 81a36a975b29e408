"""The sandbox image, without which the kubelet starts no pod: whether it may be removed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from pyctrd.oci.model import PINNED_LABEL
from pyctrd.operations.doctor import cri_config
from pyctrd.operations.doctor.examination import Examination
from pyctrd.operations.doctor.model import Advice, DoctorFinding, operands
from pyctrd.steps.kubelet import NAMESPACE

CODES: Final = ("sandbox-image-unpinned", "sandbox-image-absent")


def find(examination: Examination) -> Iterator[DoctorFinding]:
    """Find a sandbox image that is not pinned, or not there."""
    if not examination.has_cri:
        return
    images = {
        name: image
        for space in examination.spaces
        if space.namespace == NAMESPACE
        for name, image in examination.state(space).images.items()
    }
    configured, where = _configured(examination)
    if configured and configured not in images:
        yield DoctorFinding(
            code="sandbox-image-absent",
            severity="info",
            what=f"the sandbox image {configured} is not on this machine: the first pod has to download it",
            evidence=(where,),
            remedy=Advice(
                text="pull it; without a network, load it with `pyctrd load --cri`",
                commands=(("pyctrd", "-n", NAMESPACE, "pull", *operands(configured)),),
            ),
        )
    names = [configured] if configured else [name for name in images if _is_pause(name)]
    loose = [name for name in names if name in images and not images[name].is_pinned]
    for name in loose:
        yield DoctorFinding(
            code="sandbox-image-unpinned",
            severity="warning",
            what=f"the sandbox image {name} is not pinned: if the kubelet removes it, no pod starts until "
            "it is pulled again",
            evidence=(where or "its name is that of a sandbox image", f"it has no label {PINNED_LABEL}"),
            remedy=Advice(text="pin it", commands=(("pyctrd", "-n", NAMESPACE, "pin", *operands(name)),)),
        )


def _configured(examination: Examination) -> tuple[str, str]:
    """Return the sandbox image in containerd's configuration, and where it is; "" if it is not there."""
    try:
        config = examination.host.config()
    except (OSError, ValueError):
        return "", ""
    name = cri_config.read(config.settings).sandbox_image
    return name, f"{config.path} names it" if name else ""


def _is_pause(name: str) -> bool:
    """Whether this is a tag of an image named pause, as all known sandbox images are."""
    path, _, tag = name.rpartition(":")
    return bool(tag) and path.rpartition("/")[2] == "pause"

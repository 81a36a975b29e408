"""The kubelet's images: whether it sees all of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

from pyctrd.amounts import count
from pyctrd.errors import InvalidReference
from pyctrd.oci import graph, mediatypes
from pyctrd.oci.model import Digest, ImageRecord
from pyctrd.operations.doctor.examination import Examination
from pyctrd.operations.doctor.model import Advice, DoctorFinding, Severity, operands
from pyctrd.operations.load.names import kubelet_names
from pyctrd.ports import Containerd
from pyctrd.steps.kubelet import MANAGED, NAMESPACE

CODES: Final = ("kubelet-image-invisible", "kubelet-image-records")

_LABEL: Final = ",".join(f"{key}={value}" for key, value in MANAGED.items())
_SHOWN: Final = 20


def find(examination: Examination) -> Iterator[DoctorFinding]:
    """Find images of the kubelet's namespace without the label and the records that its runtime adds.

    The runtime sees every image that is recorded while it runs, but adds no record with the digest.
    Source: containerd internal/cri/server/images/image_pull.go (PullImage, UpdateImage).
    """
    for space in examination.spaces:
        if space.namespace != NAMESPACE:
            continue
        images = examination.state(space).images
        unlabelled, lacking = dict[str, str](), dict[str, str]()
        for name, image in sorted(images.items()):
            if name.startswith("sha256:") or "@" in name:
                continue
            absent = _absent(examination, space, image, images)
            if not MANAGED.items() <= image.labels.items():
                unlabelled[name] = f"{name} has no label {_LABEL}"
            elif absent:
                lacking[name] = f"{name} has no record of its {' and its '.join(absent)}"
        if unlabelled:
            yield _finding(
                CODES[0],
                "warning",
                f"{count(len(unlabelled), 'image')} that the kubelet may not see: it pulls what it does not "
                "see, and fails without a network",
                unlabelled,
            )
        if lacking:
            yield _finding(
                CODES[1],
                "info",
                f"{count(len(lacking), 'image')} without records that the kubelet's pulls add: a pod that "
                "names one by its digest pulls it again",
                lacking,
            )


def _finding(code: str, severity: Severity, what: str, images: Mapping[str, str]) -> DoctorFinding:
    more = [f"and {len(images) - _SHOWN} more"] if len(images) > _SHOWN else []
    return DoctorFinding(
        code=code,
        severity=severity,
        what=what,
        evidence=(*list(images.values())[:_SHOWN], *more),
        remedy=Advice(
            text="load them again from an archive of themselves, with the records that the kubelet needs",
            commands=(
                ("pyctrd", "-n", NAMESPACE, "save", "--platform", "local", *operands(*images)),
                ("pyctrd", "-n", NAMESPACE, "load", "--cri"),
            ),
        ),
    )


def _absent(
    examination: Examination, space: Containerd, image: ImageRecord, images: Mapping[str, ImageRecord]
) -> list[str]:
    """Return which of the image's records do not exist, those of its id and of its digest."""
    configs = [str(config) for config in _configs(examination, space, image)]
    if not configs:
        return []  # its id is unknown
    try:
        _, by_digest, _ = kubelet_names(image.name, image.target.digest, image.target.digest)
    except InvalidReference:
        return []  # the kubelet cannot use this name
    found = [] if any(config in images for config in configs) else ["id"]
    return [*found, *([] if by_digest in images else ["digest"])]


def _configs(examination: Examination, space: Containerd, image: ImageRecord) -> list[Digest]:
    """Return the configs of the image's manifests in the store; that of the host is the image's id."""
    content = examination.state(space).content
    manifests = graph.leaves_of(image.target, lambda item: examination.children(space, item))
    found = []
    for manifest in manifests:
        if mediatypes.is_manifest(manifest.media_type):
            config = next(iter(examination.children(space, manifest)), None)
            if config is not None and config.digest in content:
                found.append(config.digest)
    return found

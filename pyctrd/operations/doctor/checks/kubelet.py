"""The kubelet's images: whether it sees all of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

from pyctrd.errors import InvalidReference
from pyctrd.oci import graph, mediatypes
from pyctrd.oci.model import Digest, ImageRecord
from pyctrd.operations.doctor.examination import KUBELET_NAMESPACE, Examination
from pyctrd.operations.doctor.model import Advice, DoctorFinding
from pyctrd.operations.load.names import kubelet_names
from pyctrd.ports import Containerd

CODES: Final = ("kubelet-image-invisible",)

_LABEL: Final = "io.cri-containerd.image"


def find(examination: Examination) -> Iterator[DoctorFinding]:
    """Find images of the kubelet's namespace without the label and the records that its runtime adds.

    Source: containerd internal/cri/server/images/image_pull.go (createOrUpdateImageReference).
    """
    for space in examination.spaces:
        if space.namespace != KUBELET_NAMESPACE:
            continue
        images = examination.state(space).images
        for name, image in sorted(images.items()):
            if name.startswith("sha256:") or "@" in name:
                continue
            lacks = _lacks(examination, space, image, images)
            if lacks:
                yield DoctorFinding(
                    code="kubelet-image-invisible",
                    severity="warning",
                    what=f"the kubelet may not see {name}, and pull it again or fail without a network",
                    evidence=tuple(lacks),
                    remedy=Advice(
                        text="load it again from its own archive with the records that the kubelet needs",
                        commands=(
                            ("pyctrd", "-n", KUBELET_NAMESPACE, "save", "--platform", "local", name),
                            ("pyctrd", "-n", KUBELET_NAMESPACE, "load", "--cri"),
                        ),
                    ),
                )


def _lacks(
    examination: Examination, space: Containerd, image: ImageRecord, images: Mapping[str, ImageRecord]
) -> list[str]:
    found = [] if image.labels.get(_LABEL) == "managed" else [f"it has no label {_LABEL}=managed"]
    configs = _configs(examination, space, image)
    if not configs:
        return found  # its id is unknown
    try:
        wanted = {one for config in configs for one in kubelet_names(image.name, image.target.digest, config)}
    except InvalidReference:
        return []  # the kubelet cannot use this name
    ids = {str(config) for config in configs}
    if not ids & {name for name in images if images[name].target.digest == image.target.digest}:
        found.append(f"there is no record {min(ids)}")
    found += [f"there is no record {one}" for one in sorted(wanted - ids) if one not in images]
    return found


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

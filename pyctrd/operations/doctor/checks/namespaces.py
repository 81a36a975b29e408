"""Names that several namespaces have, for the same image or for different ones."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

from pyctrd.amounts import count, listed
from pyctrd.oci.model import ImageRecord
from pyctrd.operations.doctor.examination import Examination
from pyctrd.operations.doctor.model import Advice, DoctorFinding, operands
from pyctrd.steps.kubelet import NAMESPACE

CODES: Final = ("name-differs", "name-repeated")

_METADATA: Final = "io.containerd.metadata.v1"


def find(examination: Examination) -> Iterator[DoctorFinding]:
    """Find names that mean something else in another namespace, and images that are there twice."""
    names: dict[str, dict[str, ImageRecord]] = {}
    for space in examination.spaces:
        for name, image in examination.state(space).images.items():
            if not name.startswith("sha256:"):  # an id of the kubelet's, not a name
                names.setdefault(name, {})[space.namespace] = image
    shared = _sharing(examination)
    repeated: dict[tuple[str, ...], list[str]] = {}
    for name, images in sorted(names.items()):
        if len(images) < 2:
            continue
        if len({image.target.digest for image in images.values()}) > 1:
            yield _different(name, images, shared, examination.host.socket().path)
        else:
            repeated.setdefault(tuple(images), []).append(name)
    for spaces, same in repeated.items():
        yield _repeated(spaces, same, shared)


def _different(name: str, images: Mapping[str, ImageRecord], shared: str, address: str) -> DoctorFinding:
    # The record that was changed last is likely the current one.
    order = sorted(images, key=lambda space: _changed(images[space]))
    newest = order[-1]
    other = next(s for s in reversed(order) if images[s].target.digest != images[newest].target.digest)
    return DoctorFinding(
        code="name-differs",
        severity="warning",
        what=f"{name} is not the same image in every namespace: what runs depends on the namespace",
        evidence=(
            *(f"in {space} it is {image.target.digest}" for space, image in images.items()),
            shared,
        ),
        remedy=Advice(
            text=f"copy the one that is right over the other, e.g. that of {newest} to {other}",
            commands=(
                ("pyctrd", "-n", newest, "sync", *operands(name, f"unix://{address}?namespace={other}")),
            ),
        ),
    )


def _changed(image: ImageRecord) -> str:
    return image.updated_at.isoformat() if image.updated_at else ""


def _repeated(spaces: tuple[str, ...], names: list[str], shared: str) -> DoctorFinding:
    # The kubelet needs its own records; copies in other namespaces are mostly from debugging.
    spare = next((space for space in spaces if space != NAMESPACE), spaces[0])
    return DoctorFinding(
        code="name-repeated",
        severity="info",
        what=f"{count(len(names), 'image')} in several namespaces: {' and '.join(spaces)}",
        evidence=(listed(names), shared),
        remedy=Advice(
            text=f"remove them from a namespace where they are not used, e.g. from {spare}; what containers "
            "need is not removed",
            commands=(("pyctrd", "-n", spare, "rm", *operands(*names)),),
        ),
    )


def _sharing(examination: Examination) -> str:
    exports = [plugin.exports for plugin in examination.plugins if plugin.type == _METADATA]
    if any(found.get("policy") == "isolated" for found in exports):
        return (
            "content_sharing_policy is isolated: a namespace downloads what another one has already, but "
            "each blob is on the disk once"
        )
    return "namespaces share content: each blob is on the disk once, but every one has snapshots of its own"

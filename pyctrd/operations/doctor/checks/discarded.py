"""Layers that are unpacked, but no longer in the content store: such an image cannot be exported."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from pyctrd.amounts import count, size
from pyctrd.oci import graph, mediatypes
from pyctrd.oci.image_names import MANAGED_LABEL
from pyctrd.oci.model import Descriptor, ImageRecord
from pyctrd.operations.doctor import cri_config
from pyctrd.operations.doctor.examination import CannotCheck, Examination
from pyctrd.operations.doctor.model import Advice, DoctorFinding, operands
from pyctrd.ports import Containerd

CODES: Final = ("layers-discarded", "discard-unpacked-layers")

_SHOWN: Final = 20


def find(examination: Examination) -> Iterator[DoctorFinding]:
    """Find the setting that makes the kubelet's runtime discard layers, and layers that are gone."""
    yield from _layers(examination)
    if not examination.has_cri:
        return
    try:
        config = examination.host.config()
    except (OSError, ValueError) as error:
        raise CannotCheck(f"containerd's configuration cannot be read: {error}") from error
    cri = cri_config.read(config.settings)
    if cri.discard_unpacked_layers:
        yield DoctorFinding(
            code="discard-unpacked-layers",
            severity="warning",
            what="the kubelet's images lose their layers after they are unpacked: they run, but cannot be "
            "exported, pushed or converted",
            evidence=(f"{config.path} has discard_unpacked_layers = true in {cri.section}",),
            remedy=Advice(
                text=f"set discard_unpacked_layers = false in {cri.section} of {config.path}, and restart "
                "containerd"
            ),
        )


def _layers(examination: Examination) -> Iterator[DoctorFinding]:
    for space in examination.spaces:
        state = examination.state(space)
        unpacked = {name for _, name in state.snapshots}
        found = {
            name: gone
            for name, image in sorted(state.images.items())
            if not name.startswith("sha256:") and (gone := _gone(examination, space, image, unpacked))
        }
        if found:
            by_cri = any(state.images[name].labels.get(MANAGED_LABEL) for name in found)
            yield _finding(space.namespace, found, by_cri=by_cri)


def _gone(
    examination: Examination, space: Containerd, image: ImageRecord, unpacked: set[str]
) -> dict[str, Descriptor]:
    """Return the layers of an image that are absent, but unpacked."""
    content = examination.state(space).content
    found = {}
    for manifest in examination.descriptors(space, image):
        if not mediatypes.is_manifest(manifest.media_type):
            continue
        config, *layers = examination.children(space, manifest) or [manifest]
        if config.digest not in content or all(layer.digest in content for layer in layers):
            continue
        chains = graph.chain_ids(config, layers, lambda item: examination.read(space, item))
        for layer, chain in zip(layers, chains, strict=True):
            if layer.digest not in content and str(chain) in unpacked:
                found[str(layer.digest)] = layer
    return found


def _finding(namespace: str, found: dict[str, dict[str, Descriptor]], *, by_cri: bool) -> DoctorFinding:
    layers = {digest: layer for gone in found.values() for digest, layer in gone.items()}
    total = size(sum(layer.size for layer in layers.values()))
    names = list(found)
    more = [f"and {len(names) - _SHOWN} more images"] if len(names) > _SHOWN else []
    return DoctorFinding(
        code="layers-discarded",
        severity="warning",
        what=f"namespace {namespace}: {count(len(found), 'image')} without {count(len(layers), 'layer')} "
        f"({total}) that are unpacked: they run, but cannot be exported or pushed",
        evidence=(
            *(f"{name}: {count(len(found[name]), 'layer')} absent" for name in names[:_SHOWN]),
            *more,
            *(["the kubelet's runtime manages them"] if by_cri else []),
        ),
        remedy=Advice(
            text="fetch them again if the images are to be exported or pushed",
            commands=(
                ("pyctrd", "-n", namespace, "ensure", *(operands(*names) if len(names) == 1 else ["--all"])),
            ),
        ),
    )

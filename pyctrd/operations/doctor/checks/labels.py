"""Content that images need, but that no gc label protects."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import msgspec

from pyctrd.amounts import count, listed, size
from pyctrd.oci.model import ContentInfo, Descriptor, ImageRecord
from pyctrd.operations.doctor.examination import Examination
from pyctrd.operations.doctor.model import Advice, DoctorFinding, operands
from pyctrd.ports import Containerd
from pyctrd.steps.gc_graph import GcGraph, Rules
from pyctrd.steps.gc_nodes import Node

CODES: Final = ("gc-label-lost",)


def find(examination: Examination) -> Iterator[DoctorFinding]:
    """Find images with content in the store that the next garbage collection may remove."""
    rules = Rules.of(examination.version.version)
    for space in examination.spaces:
        state = examination.state(space)
        now = GcGraph(state, rules, examination.now)
        # Leases and unfinished writes protect content only for a time.
        lasting = msgspec.structs.replace(state, leases={}, ingests={})
        loose = {
            node.name
            for node in GcGraph(lasting, rules, examination.now).collected()
            if node.kind == "content"
        }
        if not loose:
            continue
        soon = {node.name for node in now.collected() if node.kind == "content"}
        for name, image in sorted(state.images.items()):
            if now.is_expired(image) or Node("content", str(image.target.digest)) not in now:
                continue
            lost = {
                str(item.digest): state.content[item.digest]
                for item in examination.descriptors(space, image)
                if str(item.digest) in loose
            }
            if lost:
                yield _finding(space, name, lost, soon, _parents(examination, space, image, lost))


def _finding(
    space: Containerd, name: str, lost: dict[str, ContentInfo], soon: set[str], parents: list[str]
) -> DoctorFinding:
    total = size(sum(info.size for info in lost.values()))
    kept = sum(digest not in soon for digest in lost)
    return DoctorFinding(
        code="gc-label-lost",
        severity="error",
        what=f"namespace {space.namespace}: {name} needs {count(len(lost), 'blob')} ({total}) that nothing "
        "but a lease protects"
        if kept == len(lost)
        else f"namespace {space.namespace}: {name} needs {count(len(lost), 'blob')} ({total}) that the next "
        "garbage collection removes",
        evidence=(
            f"without a gc label: {listed(list(lost))}",
            *parents,
            *([f"a lease still protects {kept} of them"] if kept else []),
        ),
        remedy=Advice(
            text="pull the image again: what is here is not downloaded, and gets its labels back",
            commands=(("pyctrd", "-n", space.namespace, "pull", *operands(name)),),
        ),
    )


def _parents(
    examination: Examination, space: Containerd, image: ImageRecord, lost: dict[str, ContentInfo]
) -> list[str]:
    """Return which documents do not refer to their children by labels."""
    found = []
    for item in examination.descriptors(space, image):
        labels = set(_labels(examination, space, item))
        missing = [
            child
            for child in examination.children(space, item)
            if str(child.digest) in lost and str(child.digest) not in labels
        ]
        if missing:
            found.append(
                f"{item.digest} has no gc labels for {count(len(missing), 'child')}".replace(
                    "childs", "children"
                )
            )
    return found


def _labels(examination: Examination, space: Containerd, descriptor: Descriptor) -> Iterator[str]:
    info = examination.state(space).content.get(descriptor.digest)
    if info is not None:
        yield from (value for key, value in info.labels.items() if key.startswith("containerd.io/gc.ref."))

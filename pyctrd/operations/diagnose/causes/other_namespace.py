"""Content in another namespace of the same daemon, which need not be downloaded."""

from __future__ import annotations

from pyctrd.oci.model import Digest
from pyctrd.operations.diagnose.causes.gap import Gap, count
from pyctrd.operations.diagnose.inspection import Inspection
from pyctrd.operations.diagnose.model import Cause

CODE = "in_other_namespace"


def find(gap: Gap) -> Cause | None:
    """Return the cause with the namespace that has most of the missing content."""
    found = [(other.store.namespace, _present(gap, other)) for other in gap.others]
    name, digests = max(found, key=lambda item: len(item[1]), default=("", []))
    if not digests:
        return None
    return gap.cause(
        CODE,
        f"{count(len(digests), 'missing blob')} of {gap.label} in the namespace {name}: containerd shares "
        "content between namespaces, so this needs no download",
        digests,
        f"content in the namespace {name}",
        certain=True,
    )


def _present(gap: Gap, other: Inspection) -> list[Digest]:
    return [item.digest for item in gap.missing if other.is_present(item)]

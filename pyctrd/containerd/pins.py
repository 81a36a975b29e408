"""Protect what exists from the garbage collector, as long as a lease.

Each entry of a lease is a write that the daemon syncs to disk, so many objects are protected by one blob
whose gc labels refer to them. `ctr content prune references` does not remove labels of this form.

Source: containerd core/metadata/leases.go AddResource, core/metadata/gc.go,
cmd/ctr/commands/content/prune.go.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Final

from pyctrd.containerd.content import ContentService
from pyctrd.containerd.leases import LeaseService
from pyctrd.errors import DaemonError, PyctrdError
from pyctrd.oci.mediatypes import GC_REF, GC_REF_SNAPSHOT
from pyctrd.oci.model import Digest
from pyctrd.oci.resources import LeaseResource

# Up to here, entries are faster than a blob.
_FEW: Final = 6
# The labels of a blob have to fit into a message of 16 MiB.
_MOST: Final = 50_000
_NAME: Final = "pyctrd"


class Pins:
    """What a lease protects, besides what is written under it. `content` is the content under that lease."""

    def __init__(self, content: ContentService, leases: LeaseService, lease: str) -> None:
        self._content = content
        self._leases = leases
        self._lease = lease
        self._blobs: list[Digest] = []

    def add(self, resources: Sequence[LeaseResource]) -> None:
        """Protect blobs and snapshots; those that do not exist as soon as they do."""
        if len(resources) <= _FEW:
            self._leases.add_all(self._lease, resources)
            return
        for start in range(0, len(resources), _MOST):
            part = resources[start : start + _MOST]
            try:
                self._write(_labels(part))
            except DaemonError:  # the content store is full or read-only; what it has can still be read
                self._leases.add_all(self._lease, part)

    def _write(self, labels: Mapping[str, str]) -> None:
        name = f"{_NAME}-pins-{secrets.token_hex(8)}"
        data = f"The gc labels of this blob protect what lease {self._lease} is for. {name}\n".encode()
        digest = Digest.of(data)
        self._blobs.append(digest)
        with self._content.open_ingest(name, digest=digest, size=len(data)) as ingest:
            ingest.write(data)
            ingest.commit(labels=labels)

    def remove(self) -> None:
        """Remove what was written for this; never raises, since the collector would remove it as well."""
        for digest in self._blobs:
            with suppress(PyctrdError):
                self._content.delete(digest)


def _labels(resources: Sequence[LeaseResource]) -> dict[str, str]:
    return {_label(resource, number): resource.id for number, resource in enumerate(resources)}


def _label(resource: LeaseResource, number: int) -> str:
    kind, _, snapshotter = resource.type.partition("/")
    if kind == "snapshots":
        return f"{GC_REF_SNAPSHOT}{snapshotter}/{_NAME}.{number}"
    return f"{GC_REF}{_NAME}.{number}"

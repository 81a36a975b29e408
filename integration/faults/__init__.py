"""The table of faults of registries, with the expected results of `pyctrd pull`."""

from __future__ import annotations

from integration.faults.case import Case
from integration.faults.documents import MANIFESTS
from integration.faults.layers import BLOBS
from integration.faults.network import AUTHENTICATION, CONNECTIONS, REDIRECTS, WAITING

__all__ = ["FAULTS", "Case"]

FAULTS = (*CONNECTIONS, *WAITING, *AUTHENTICATION, *REDIRECTS, *MANIFESTS, *BLOBS)

"""Clients of OCI registries: resolve, fetch, list and upload."""

from __future__ import annotations

from pyctrd.registry.client import RegistryClient, RegistryOptions
from pyctrd.registry.config.certs_d import SearchedDirectory
from pyctrd.registry.config.explain import ExplainedHost, Explanation, ProxyUse
from pyctrd.registry.listing import ReferrerList, TagList

__all__ = [
    "ExplainedHost",
    "Explanation",
    "ProxyUse",
    "ReferrerList",
    "RegistryClient",
    "RegistryOptions",
    "SearchedDirectory",
    "TagList",
]

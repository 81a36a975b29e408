"""Clients of OCI registries: resolve, fetch, list and upload."""

from __future__ import annotations

from pyctrd.registry.client import RegistryClient, RegistryOptions
from pyctrd.registry.config.explain import ConfigurationDirectory, ExplainedHost, Explanation, ProxyUse
from pyctrd.registry.listing import ReferrerList, TagList

__all__ = [
    "ConfigurationDirectory",
    "ExplainedHost",
    "Explanation",
    "ProxyUse",
    "ReferrerList",
    "RegistryClient",
    "RegistryOptions",
    "TagList",
]

"""Clients of OCI registries: resolve, fetch, list and upload.

What a pull does not need is imported on first use.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, Final

from pyctrd.registry.client import RegistryClient, RegistryOptions

if TYPE_CHECKING:
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

_HOME_OF: Final = {
    "ExplainedHost": "config.explain",
    "Explanation": "config.explain",
    "ProxyUse": "config.explain",
    "ReferrerList": "listing",
    "SearchedDirectory": "config.certs_d",
    "TagList": "listing",
}


if not TYPE_CHECKING:  # type checkers use the imports above, and report names that do not exist

    def __getattr__(name: str) -> Any:
        """Import a public name on first use (PEP 562)."""
        if name not in _HOME_OF:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = getattr(importlib.import_module(f"{__name__}.{_HOME_OF[name]}"), name)
        globals()[name] = value
        return value

"""The registry side: which hosts to ask, who we are there, and the bytes of a descriptor from an offset."""

from __future__ import annotations

from pyctrd.registry.client import RegistryClient, RegistryOptions

__all__ = ["RegistryClient", "RegistryOptions"]

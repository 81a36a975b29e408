"""Scopes of tokens: merge those that a request needs with those that a registry requires. No IO.

Source: distribution's "Token Scope Documentation" (docs/spec/auth/scope.md): `type:name:action,action`, where
the name may contain colons, too; several scopes are separated by spaces.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

# Limits for hostile challenges: all scopes become part of the URL of a token server.
_MAX_SCOPES: Final = 32
_MAX_CHARACTERS: Final = 512


def pull(repository: str) -> str:
    """Return the scope for reading a repository."""
    return f"repository:{repository}:pull"


def push(repository: str) -> str:
    """Return the scope for writing to a repository, which includes reading."""
    return f"repository:{repository}:pull,push"


def merge(*texts: str) -> tuple[str, ...]:
    """Return a sorted list of scopes, with each resource once and all of its actions."""
    merged: dict[str, set[str]] = {}
    for scope in " ".join(texts).split():
        resource, actions = _split(scope)
        if len(scope) <= _MAX_CHARACTERS and (resource in merged or len(merged) < _MAX_SCOPES):
            merged.setdefault(resource, set()).update(actions)
    return tuple(sorted(_join(resource, actions) for resource, actions in merged.items()))


def repository_of(scopes: Iterable[str]) -> str:
    """Return the repository of the first scope; "" if it is for something else."""
    for scope in scopes:
        resource, _ = _split(scope)
        kind, _, name = resource.partition(":")
        return name if kind == "repository" else ""
    return ""


def _split(scope: str) -> tuple[str, tuple[str, ...]]:
    """Split into resource and actions; a scope without three parts is a resource without actions."""
    resource, colon, actions = scope.rpartition(":")
    named = tuple(action for action in actions.split(",") if action)
    return (resource, named) if colon and ":" in resource and named else (scope, ())


def _join(resource: str, actions: Iterable[str]) -> str:
    listed = ",".join(sorted(actions))
    return f"{resource}:{listed}" if listed else resource

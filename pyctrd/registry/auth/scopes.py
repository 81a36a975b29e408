"""Scopes of tokens: what a request needs and what a registry asks for, as one list. Pure.

Source: distribution's "Token Scope Documentation" (docs/spec/auth/scope.md): `type:name:action,action`, where
the name may hold colons, too; several are separated by spaces.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

# What a hostile challenge may add; a token server's URL has to carry all of it.
_MAX_SCOPES: Final = 32
_MAX_CHARACTERS: Final = 512


def pull(repository: str) -> str:
    """Give the scope for reading a repository."""
    return f"repository:{repository}:pull"


def push(repository: str) -> str:
    """Give the scope for writing to a repository (which always includes reading)."""
    return f"repository:{repository}:pull,push"


def merge(*texts: str) -> tuple[str, ...]:
    """Make one sorted list of scopes, each resource once, with the actions of all its mentions."""
    merged: dict[str, set[str]] = {}
    for scope in " ".join(texts).split():
        resource, actions = _split(scope)
        if len(scope) <= _MAX_CHARACTERS and (resource in merged or len(merged) < _MAX_SCOPES):
            merged.setdefault(resource, set()).update(actions)
    return tuple(sorted(_join(resource, actions) for resource, actions in merged.items()))


def repository_of(scopes: Iterable[str]) -> str:
    """Give the repository that the first scope is about, "" when it is about none."""
    for scope in scopes:
        resource, _ = _split(scope)
        kind, _, name = resource.partition(":")
        return name if kind == "repository" else ""
    return ""


def _split(scope: str) -> tuple[str, tuple[str, ...]]:
    """Split into resource and actions; what does not have three parts is a resource of its own."""
    resource, colon, actions = scope.rpartition(":")
    named = tuple(action for action in actions.split(",") if action)
    return (resource, named) if colon and ":" in resource and named else (scope, ())


def _join(resource: str, actions: Iterable[str]) -> str:
    listed = ",".join(sorted(actions))
    return f"{resource}:{listed}" if listed else resource

"""Labels on the command line: `K=V` sets one, `K-` removes one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import click

_F = TypeVar("_F", bound=Callable[..., Any])


def _changes(_context: click.Context, _parameter: click.Parameter, words: tuple[str, ...]) -> dict[str, str]:
    changes: dict[str, str] = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not equals and key.endswith("-"):
            key = key[:-1]
        elif not equals:
            raise click.BadParameter(f"{word!r} is neither KEY=VALUE nor KEY-, which removes the label")
        if not key:
            raise click.BadParameter(f"{word!r} has no key")
        if changes.get(key, value) != value:
            raise click.BadParameter(f"{key!r} is given twice, with different values")
        changes[key] = value
    return changes


def changes_argument(command: _F) -> _F:
    """Add the argument for changes of labels; an empty value removes a label."""
    return click.argument("changes", nargs=-1, required=True, metavar="K=V|K-...", callback=_changes)(command)


def labels_text(labels: Mapping[str, str]) -> str:
    """Return labels for a cell of a table."""
    return ",".join(f"{key}={value}" for key, value in sorted(labels.items()))

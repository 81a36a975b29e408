"""containerd's filters as the client uses them: conditions joined by commas, any of several filters."""

from __future__ import annotations

import re
from collections.abc import Sequence

_CONDITION = re.compile(r'(name|target\.digest)(==|~=)(?:"([^"\\]*)"|([^",\\]*))')


def is_chosen(filters: Sequence[str], name: str, digest: str) -> bool:
    """Whether an image of this name and target is matched by any of the filters; without any, it is."""
    return not filters or any(all(_holds(part, name, digest) for part in one.split(",")) for one in filters)


def _holds(condition: str, name: str, digest: str) -> bool:
    found = _CONDITION.fullmatch(condition)
    assert found, f"filters are containerd's: {condition}"
    field, operator, quoted, bare = found.groups()
    value, pattern = {"name": name, "target.digest": digest}[field], quoted if quoted is not None else bare
    return value == pattern if operator == "==" else re.search(pattern, value) is not None

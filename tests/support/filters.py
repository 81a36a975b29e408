"""containerd's filters as the client uses them: conditions joined by commas, any of several filters."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

_CONDITION = re.compile(
    r'(name|digest|target\.digest|labels\."(?:[^"\\]*)")(==|~=)(?:"([^"\\]*)"|([^",\\]*))'
)


def image_is_chosen(filters: Sequence[str], image: Any) -> bool:
    """Whether an image record, ours or containerd's message, is matched."""
    return is_chosen(filters, {"name": image.name, "target.digest": image.target.digest}, image.labels)


def is_chosen(filters: Sequence[str], fields: Mapping[str, str], labels: Mapping[str, str]) -> bool:
    """Whether an object with these fields and labels is matched by any of the filters, or there is none."""
    found = {**fields, **{f'labels."{key}"': value for key, value in labels.items()}}
    return not filters or any(all(_holds(part, found) for part in one.split(",")) for one in filters)


def _holds(condition: str, fields: Mapping[str, str]) -> bool:
    found = _CONDITION.fullmatch(condition)
    assert found, f"no filter that the client uses: {condition}"
    field, operator, quoted, bare = found.groups()
    value, pattern = fields.get(field), quoted if quoted is not None else bare
    if value is None:
        return False
    return value == pattern if operator == "==" else re.search(pattern, value) is not None

"""Patterns of names match as Go's path.Match does, which docker uses."""

from __future__ import annotations

from typing import Any

import pytest

from pyctrd.errors import InvalidInput
from pyctrd.operations.images.patterns import matcher
from tests.vectors import rows


@pytest.mark.parametrize("row", rows("path_match"), ids=lambda row: f"{row['pattern']} {row['name']}")
def test_as_go_does(row: dict[str, Any]) -> None:
    if row["matches"] is None:
        with pytest.raises(InvalidInput, match="syntax error in pattern"):
            matcher(row["pattern"])
    else:
        assert matcher(row["pattern"])(row["name"]) is row["matches"]

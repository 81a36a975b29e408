"""The error that carries descriptors; all others are in pyctrd.errors."""

from __future__ import annotations

from collections.abc import Sequence

from pyctrd.errors import PyctrdError, Remedy
from pyctrd.oci.model import Descriptor


class IncompleteContent(PyctrdError):
    """An image of which some content is not in the store; `missing` are the descriptors of that content."""

    exit_code = 4

    def __init__(
        self,
        message: str,
        *,
        missing: Sequence[Descriptor],
        hint: str | None = None,
        remedy: Remedy | None = None,
    ) -> None:
        super().__init__(message, hint=hint, remedy=remedy)
        self.missing = tuple(missing)

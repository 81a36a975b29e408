"""The one error that carries descriptors; all others are in pyctrd.errors."""

from __future__ import annotations

from collections.abc import Sequence

from pyctrd.errors import PyctrdError, Remedy
from pyctrd.oci.model import Descriptor


class IncompleteContent(PyctrdError):
    """Some content of an image is missing from the store; `missing` are its descriptors."""

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

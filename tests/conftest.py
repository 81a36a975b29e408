"""What all unit tests share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import settings

from pyctrd import redact

# Two busy cores make single examples slow now and then; that is no defect.
settings.register_profile("pyctrd", deadline=None)
settings.load_profile("pyctrd")


@pytest.fixture(autouse=True)
def _no_secrets_of_other_tests() -> Iterator[None]:
    """Forget after each test what it had struck out of all texts: `password` is a word elsewhere."""
    yield
    redact.forget()

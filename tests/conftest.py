"""Fixtures for all unit tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import settings

from pyctrd import redact
from tests.support.signals import ctrl_c_is_not_ignored as ctrl_c_is_not_ignored

# Tests are deterministic; scripts/fuzz searches for new cases, with many more examples. There is no deadline,
# since a busy machine makes single examples slow.
settings.register_profile("pyctrd", deadline=None, derandomize=True, max_examples=50)
settings.register_profile("fuzz", deadline=None, max_examples=1000, print_blob=True)
settings.load_profile("pyctrd")

pytest.register_assert_rewrite("tests.support.contract")


@pytest.fixture(autouse=True)
def _no_secrets_of_other_tests() -> Iterator[None]:
    """Forget remembered secrets after each test: `password` is an ordinary word elsewhere."""
    yield
    redact.forget()

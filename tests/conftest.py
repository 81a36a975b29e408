"""What all unit tests share."""

from __future__ import annotations

import pytest
from hypothesis import settings

from pyctrd import redact

# Two busy cores make single examples slow now and then; that is no defect.
settings.register_profile("pyctrd", deadline=None)
settings.load_profile("pyctrd")


@pytest.fixture(autouse=True)
def _no_secrets_of_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forget what other tests called a secret: "password" would be struck out of every message."""
    monkeypatch.setattr(redact, "_forms", type(redact._forms)())

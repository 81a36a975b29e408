"""What all unit tests share."""

from __future__ import annotations

from hypothesis import settings

# Two busy cores make single examples slow now and then; that is no defect.
settings.register_profile("pyctrd", deadline=None)
settings.load_profile("pyctrd")

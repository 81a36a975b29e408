"""The directories that configure registries (hosts.toml)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from pyctrd.operations.doctor.examination import Examination
from pyctrd.operations.doctor.model import Advice, DoctorFinding

CODES: Final = (
    "hosts-dir-absent",
    "hosts-unreadable",
    "hosts-folder-name",
    "hosts-folder-empty",
    "hosts-toml-invalid",
    "hosts-toml-ignored",
    "hosts-file-absent",
    "hosts-certificates-ignored",
    "hosts-no-scheme",
)


def find(examination: Examination) -> Iterator[DoctorFinding]:
    """Find settings that are wrong or have no effect."""
    for pitfall in examination.host.pitfalls():
        yield DoctorFinding(
            code=pitfall.code,
            severity=pitfall.severity,
            what=pitfall.text,
            evidence=(pitfall.where,),
            remedy=Advice(text=pitfall.advice),
        )

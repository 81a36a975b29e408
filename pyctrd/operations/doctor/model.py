"""The result of `doctor`, whose JSON encoding is documented in docs/json.md."""

from __future__ import annotations

from typing import Literal, TypeAlias

import msgspec

Severity: TypeAlias = Literal["error", "warning", "info"]


class Advice(msgspec.Struct, frozen=True, kw_only=True):
    """What helps: a sentence, and the command that does it, if there is one.

    `commands` are the words of a command line; several of them are a pipeline. `pyctrd` means pyctrd with the
    address of the client.
    """

    text: str
    commands: tuple[tuple[str, ...], ...] = ()


def operands(*names: str) -> tuple[str, ...]:
    """Return names as the last words of a command, so that none is taken for an option."""
    return ("--", *names) if any(name.startswith("-") for name in names) else names


class DoctorFinding(msgspec.Struct, frozen=True, kw_only=True):
    """Something wrong with a machine's containerd, or worth knowing about it.

    `code` is stable, `what` one sentence, `evidence` what was found.
    """

    code: str
    severity: Severity
    what: str
    evidence: tuple[str, ...]
    remedy: Advice


class SkippedCheck(msgspec.Struct, frozen=True, kw_only=True):
    """A check that could not be made, or not completely, and why."""

    check: str
    reason: str


class DoctorReport(msgspec.Struct, frozen=True, kw_only=True):
    """The findings, errors first; the names of the checks that were made, and those that could not be."""

    findings: tuple[DoctorFinding, ...]
    checks: tuple[str, ...]
    skipped: tuple[SkippedCheck, ...]

    @property
    def has_errors(self) -> bool:
        """Whether a finding is an error."""
        return any(finding.severity == "error" for finding in self.findings)


class BugReportFile(msgspec.Struct, frozen=True, kw_only=True):
    """A file of a bug report; `about` says what is in it."""

    name: str
    size: int
    about: str


class BugReport(msgspec.Struct, frozen=True, kw_only=True):
    """A bug report that was written, and what `doctor` found."""

    path: str
    files: tuple[BugReportFile, ...]
    doctor: DoctorReport

"""Doctor: find out what is wrong with a machine's containerd, and what helps."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from typing import Final

from pyctrd.errors import DaemonUnreachable, InvalidInput, PyctrdError, is_interrupt
from pyctrd.operations.doctor.checks import CHECKS
from pyctrd.operations.doctor.examination import CannotCheck, Examination
from pyctrd.operations.doctor.host import Host
from pyctrd.operations.doctor.model import DoctorFinding, DoctorReport, SkippedCheck
from pyctrd.ports import Containerd

__all__ = ["doctor", "known_codes"]

_ORDER: Final = {"error": 0, "warning": 1, "info": 2}


def known_codes() -> tuple[str, ...]:
    """Return the names of the checks and the codes of their findings."""
    codes = [code for check in CHECKS.values() for code in check.codes]
    return tuple(dict.fromkeys([*CHECKS, *codes]))


def doctor(
    containerd: Containerd | None,
    host: Host,
    *,
    now: dt.datetime,
    unreachable: DaemonUnreachable | None = None,
    only: Sequence[str] = (),
    skip: Sequence[str] = (),
) -> DoctorReport:
    """Make the checks, and return their findings.

    `containerd` is None if it does not answer; `unreachable` says why. `only` and `skip` are names of checks
    or codes of findings. A check that fails does not stop the others. Raises InvalidInput for an unknown
    code.
    """
    for code in (*only, *skip):
        if code not in known_codes():
            raise InvalidInput(f"unknown check {code!r}", hint=f"the checks are {', '.join(CHECKS)}")
    examination = Examination(containerd, host, now, unreachable)
    findings: list[DoctorFinding] = []
    made: list[str] = []
    skipped: list[SkippedCheck] = []
    for name, check in CHECKS.items():
        wanted = [code for code in check.codes if _is_wanted(name, code, only, skip)]
        if not wanted:
            continue
        made.append(name)
        try:
            for finding in check.find(examination):
                if finding.code in wanted:
                    findings.append(finding)  # noqa: PERF401 - what was found before an error is kept
        except CannotCheck as reason:
            made.pop()
            skipped.append(SkippedCheck(check=name, reason=str(reason)))
        except Exception as error:
            if is_interrupt(error):
                raise
            made.pop()
            skipped.append(SkippedCheck(check=name, reason=_reason(error)))
    findings.sort(key=lambda item: _ORDER[item.severity])
    return DoctorReport(findings=tuple(findings), checks=tuple(made), skipped=tuple(skipped))


def _is_wanted(name: str, code: str, only: Sequence[str], skip: Sequence[str]) -> bool:
    names = {name, code}
    return (not only or bool(names & set(only))) and not names & set(skip)


def _reason(error: Exception) -> str:
    return error.message if isinstance(error, PyctrdError) else f"{type(error).__name__}: {error}"

"""Print the findings of `pyctrd doctor`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pyctrd.cli import commandline
from pyctrd.cli.page import Page, Tone
from pyctrd.cli.settings import Settings
from pyctrd.cli.text import count

if TYPE_CHECKING:
    from pyctrd import DoctorFinding, DoctorReport
    from pyctrd.cli.documents import space

_TONES: Final[dict[str, Tone]] = {"error": "bad", "warning": "warn", "info": ""}


def render(report: DoctorReport, page: Page, settings: Settings) -> None:
    """Print a block for each finding, and what was checked."""
    for finding in report.findings:
        page.line(f"{finding.severity}: {finding.code}", _TONES[finding.severity])
        page.line(finding.what, indent=2)
        for text in finding.evidence:
            page.line(f"- {text}", "dim", indent=2)
        page.line(f"{_capital(commandline.with_options(finding.remedy.text))}.", indent=2)
        if finding.remedy.commands:
            page.command(_command(finding, settings))
        page.line("")
    page.line(_verdict(report), "" if report.findings else "good")
    reasons: dict[str, list[str]] = {}
    for skipped in report.skipped:
        reasons.setdefault(skipped.reason, []).append(skipped.check)
    for reason, checks in reasons.items():
        page.line(f"Not checked: {', '.join(checks)}: {reason}", "dim")


def document(finding: DoctorFinding, settings: Settings) -> space.DoctorFinding:
    """Return the JSON object of a finding; its remedy is a command if there is one."""
    return {
        "code": finding.code,
        "severity": finding.severity,
        "what": finding.what,
        "evidence": list(finding.evidence),
        "remedy": _command(finding, settings) or commandline.with_options(finding.remedy.text),
    }


def _verdict(report: DoctorReport) -> str:
    made = count(len(report.checks), "check")
    if not report.findings:
        return f"Nothing found by {made}."
    kinds = [finding.severity for finding in report.findings]
    parts = (
        (kinds.count("error"), "error"),
        (kinds.count("warning"), "warning"),
        (kinds.count("info"), "note"),
    )
    return f"{made}: {', '.join(count(number, noun) for number, noun in parts if number)}."


def _command(finding: DoctorFinding, settings: Settings) -> str:
    return " | ".join(commandline.complete(words, settings) for words in finding.remedy.commands)


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]

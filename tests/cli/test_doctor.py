"""`pyctrd doctor`: output, exit codes, and commands that can be pasted."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path

import pytest
from rich.console import Console

from pyctrd import Advice, DoctorFinding, DoctorReport, SkippedCheck
from pyctrd.cli import checkup
from pyctrd.cli.settings import Settings
from pyctrd.cli.terminal import TerminalPage
from pyctrd.errors import InvalidInput
from pyctrd.operations.doctor.checks import CHECKS
from tests.cli.stub import run, with_outcome

NAME = "registry.example/team/app:1"
ERROR = DoctorFinding(
    code="gc-label-lost",
    severity="error",
    what=f"namespace k8s.io: {NAME} needs 2 blobs (3.0 MiB) that the next garbage collection removes",
    evidence=("sha256:" + 64 * "0" + " has no gc labels for 2 children",),
    remedy=Advice(
        text="pull the image again: what is here is not downloaded, and gets its labels back",
        commands=(("pyctrd", "-n", "k8s.io", "pull", NAME),),
    ),
)
PIPELINE = DoctorFinding(
    code="kubelet-image-invisible",
    severity="warning",
    what="w",
    evidence=(),
    remedy=Advice(text="t", commands=(("pyctrd", "-n", "a", "save", "x y"), ("pyctrd", "-n", "a", "load"))),
)
NOTE = DoctorFinding(
    code="slow-decompression",
    severity="info",
    what="slow",
    evidence=("e",),
    remedy=Advice(text="pass its socket as `address`"),
)


def report(*findings: DoctorFinding, skipped: tuple[SkippedCheck, ...] = ()) -> DoctorReport:
    return DoctorReport(findings=findings, checks=("a", "b"), skipped=skipped)


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("CONTAINERD_ADDRESS", "CONTAINERD_NAMESPACE"):
        monkeypatch.delenv(name, raising=False)


def test_one_line_if_there_is_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    with_outcome(monkeypatch, report())
    assert run("doctor") == (0, "Nothing found by 2 checks.\n", "")


def test_a_block_for_each_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    skipped = (SkippedCheck(check="c", reason="why"), SkippedCheck(check="d", reason="why"))
    with_outcome(monkeypatch, report(ERROR, NOTE, skipped=skipped))
    result = run("doctor")
    assert result.exit_code == 1
    assert result.stdout == (
        "error: gc-label-lost\n"
        f"  {ERROR.what}\n"
        f"  - {ERROR.evidence[0]}\n"
        "  Pull the image again: what is here is not downloaded, and gets its labels back.\n"
        f"   $ pyctrd -n k8s.io pull {NAME}\n"
        "\n"
        "info: slow-decompression\n"
        "  slow\n"
        "  - e\n"
        "  Pass its socket as --address.\n"
        "\n"
        "2 checks: 1 error, 1 note.\n"
        "Not checked: c, d: why\n"
    )


def test_warnings_are_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    with_outcome(monkeypatch, report(PIPELINE))
    assert run("doctor").exit_code == 0


def test_json(monkeypatch: pytest.MonkeyPatch) -> None:
    with_outcome(monkeypatch, report(ERROR, PIPELINE, NOTE, skipped=(SkippedCheck(check="c", reason="why"),)))
    result = run("-a", "/run/x.sock", "doctor", "--format", "json")
    document = json.loads(result.stdout)
    assert result.exit_code == 1
    first, second, third = document["findings"]
    assert first == {
        "code": "gc-label-lost",
        "severity": "error",
        "what": ERROR.what,
        "evidence": list(ERROR.evidence),
        "remedy": f"pyctrd -a /run/x.sock -n k8s.io pull {NAME}",
    }
    assert second["remedy"] == ("pyctrd -a /run/x.sock -n a save 'x y' | pyctrd -a /run/x.sock -n a load")
    assert third["remedy"] == "pass its socket as --address"
    assert (document["checks"], document["skipped"]) == (["a", "b"], [{"check": "c", "reason": "why"}])


def test_json_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    with_outcome(monkeypatch, report(PIPELINE, NOTE))
    lines = run("doctor", "--format", "jsonl").stdout.splitlines()
    assert [json.loads(line)["code"] for line in lines] == ["kubelet-image-invisible", "slow-decompression"]


def test_options(monkeypatch: pytest.MonkeyPatch) -> None:
    opened = with_outcome(monkeypatch, report())
    run("doctor", "--check", "disk", "--check", "leases", "--skip", "disk-low", "--hosts-dir", "/c")
    opened.return_value.doctor.assert_called_once()
    named = opened.return_value.doctor.call_args.kwargs
    assert (named["check"], named["skip"], str(named["hosts_dir"])) == (
        ("disk", "leases"),
        ("disk-low",),
        "/c",
    )


def test_an_unknown_check_is_a_usage_error(monkeypatch: pytest.MonkeyPatch) -> None:
    with_outcome(monkeypatch, InvalidInput("unknown check 'x'", hint="the checks are socket"))
    result = run("doctor", "--check", "x")
    assert (result.exit_code, result.stdout) == (2, "")
    assert "hint: the checks are socket" in result.stderr


def test_names_are_not_broken_in_two_on_a_narrow_terminal() -> None:
    output = io.StringIO()
    console = Console(file=output, width=80, highlight=False, emoji=False, markup=False)
    checkup.render(report(ERROR), TerminalPage(console), Settings())
    lines = output.getvalue().splitlines()
    assert any(NAME in line for line in lines)
    assert any("sha256:" + 64 * "0" in line for line in lines)
    assert f"   $ pyctrd -n k8s.io pull {NAME}" in lines


def test_codes_are_documented() -> None:
    text = (Path(__file__).parent.parent.parent / "docs" / "json.md").read_text()
    rows = dict(re.findall(r"^\| `([a-z-]+)` \| (`.*`) \|$", text, re.MULTILINE))
    assert {name: re.findall("`([a-z-]+)`", codes) for name, codes in rows.items()} == {
        name: list(check.codes) for name, check in CHECKS.items()
    }


def test_without_a_containerd(tmp_path: object) -> None:
    result = run("-a", f"{tmp_path}/none", "doctor", "--format", "json", "--skip", "hosts")
    document = json.loads(result.stdout)
    assert (result.exit_code, result.stderr) == (1, "")
    assert [item["code"] for item in document["findings"]] == ["socket-unreachable"]
    assert document["checks"] == ["socket"]

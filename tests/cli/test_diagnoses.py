"""`pyctrd diagnose` without REF: a row for each image, in every format."""

from __future__ import annotations

import json

import msgspec
import pytest

from pyctrd.cli.terminal import TerminalPage
from pyctrd.errors import REPAIR, ContentError, Remedy
from pyctrd.operations.diagnose import Cause, Content, DiagnosisSummary
from tests.cli.stub import run, with_outcome

TARGET = Content(media_type="application/vnd.oci.image.index.v1+json", digest="sha256:" + 64 * "0", size=9)
FIX = "pyctrd -n k8s.io ensure registry.example/b:1"


def cause(code: str, platform: str = "linux/amd64") -> Cause:
    return Cause(
        code=code,
        platform=platform,
        digest=None,
        text="a text",
        certain=True,
        evidence=(),
        missing=(),
        remedy=Remedy(method="ensure", images=("x",)),
    )


def summary(image: str, **how: object) -> DiagnosisSummary:
    found = DiagnosisSummary(image=image, namespace="k8s.io", target=TARGET, complete=True)
    return msgspec.structs.replace(found, **how)


def broken(image: str, **how: object) -> DiagnosisSummary:
    return summary(
        image,
        **{
            "complete": False,
            "missing_blobs": 2,
            "missing_bytes": 3 << 20,
            "cause": cause("never_pulled"),
            "remedy": Remedy(method="ensure", images=(image,)),
            **how,
        },
    )


FOUND = (
    summary("registry.example/a:1"),
    broken("registry.example/b:1"),
    broken("registry.example/b@sha256:1", alias_of="registry.example/b:1"),
    broken("registry.example/c:1", missing_known=False, cause=cause("target_gone")),
    broken(
        "registry.example/d:1",
        missing_blobs=0,
        missing_bytes=0,
        cause=cause("no_such_platform"),
        remedy=None,
    ),
    broken(
        "registry.example/e:1",
        missing_blobs=0,
        missing_bytes=0,
        cause=None,
        error=ContentError("content sha256:0 is not JSON", remedy=REPAIR),
        remedy=Remedy(method="verify", images=("registry.example/e:1",), repair=True),
    ),
)


@pytest.fixture(autouse=True)
def _found(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("CONTAINERD_ADDRESS", "CONTAINERD_NAMESPACE"):
        monkeypatch.delenv(name, raising=False)
    with_outcome(monkeypatch, FOUND)


def test_the_table_has_a_row_for_each_image() -> None:
    result = run("-n", "k8s.io", "diagnose")
    assert result.exit_code == 4
    rows = [[cell for cell in line.split("  ") if cell] for line in result.stdout.splitlines()]
    assert [[cell.strip() for cell in row] for row in rows] == [
        ["IMAGE", "STATUS", "MISSING", "CAUSE", "FIX"],
        ["registry.example/a:1", "complete", "-"],
        ["registry.example/b:1 (+1 name)", "incomplete", "3.0 MiB", "never pulled", FIX],
        [
            *("registry.example/c:1", "incomplete", "> 3.0 MiB", "target is gone"),
            "pyctrd -n k8s.io ensure registry.example/c:1",
        ],
        ["registry.example/d:1", "no platform", "-", "no linux/amd64 in it"],
        [
            *("registry.example/e:1", "unreadable", "?", "content sha256:0 is not JSON"),
            "pyctrd -n k8s.io verify --repair registry.example/e:1",
        ],
        [],
        ["4 of 5 images incomplete; this fetches what they lack:"],
        ["$ pyctrd -n k8s.io ensure --all"],
        ["$ pyctrd -n k8s.io verify --repair registry.example/e:1"],
    ]


def test_json_is_the_contract() -> None:
    result = run("-n", "k8s.io", "diagnose", "--format", "json")
    assert result.exit_code == 4
    images = json.loads(result.stdout)["images"]
    assert [list(item) for item in images] == 6 * [
        ["image", "namespace", "complete", "missing_bytes", "cause", "remedy"]
    ]
    assert images[0] == {
        "image": "registry.example/a:1",
        "namespace": "k8s.io",
        "complete": True,
        "missing_bytes": 0,
        "cause": None,
        "remedy": None,
    }
    assert images[1] == {
        "image": "registry.example/b:1",
        "namespace": "k8s.io",
        "complete": False,
        "missing_bytes": 3 << 20,
        "cause": "never_pulled",
        "remedy": FIX,
    }
    assert [item["cause"] for item in images[3:]] == ["target_gone", "no_such_platform", "unreadable"]
    lines = run("-n", "k8s.io", "diagnose", "--format", "jsonl").stdout.splitlines()
    assert list(map(json.loads, lines)) == images


def test_quiet_prints_the_incomplete_names() -> None:
    result = run("diagnose", "-q")
    assert result.exit_code == 4
    assert result.stdout.splitlines() == [item.image for item in FOUND[1:]]


def test_a_complete_namespace(monkeypatch: pytest.MonkeyPatch) -> None:
    with_outcome(monkeypatch, FOUND[:1])
    result = run("diagnose")
    assert result.exit_code == 0
    assert result.stdout.splitlines()[-1] == "1 image, all complete"
    with_outcome(monkeypatch, ())
    result = run("diagnose")
    assert (result.exit_code, result.stdout.splitlines()[-1]) == (0, "no images")


def test_all_namespaces_and_platforms_are_in_the_command() -> None:
    result = run("diagnose", "-A", "--platform", "linux/arm64")
    lines = result.stdout.splitlines()
    assert lines[0].split() == ["NAMESPACE", "IMAGE", "STATUS", "MISSING", "CAUSE", "FIX"]
    assert "   $ pyctrd ensure --all -A --platform linux/arm64" in lines


def test_filters_reach_the_client(monkeypatch: pytest.MonkeyPatch) -> None:
    client = with_outcome(monkeypatch, ()).return_value
    run("diagnose", "-f", "reference=app*", "--filter", "in-use=true")
    client.images.diagnose_all.assert_called_once_with(
        ("reference=app*", "in-use=true"), platforms=None, all_namespaces=False
    )


def test_with_a_filter_each_image_has_its_own_command(monkeypatch: pytest.MonkeyPatch) -> None:
    """Since `ensure --all` would fetch what other images lack, too."""
    shown = run("diagnose", "-f", "name~=.").stdout
    assert "ensure --all" not in shown
    to_ensure = [item for item in FOUND if item.remedy and item.remedy.method == "ensure"]
    named = [item.image for item in to_ensure if not item.alias_of]
    assert len(named) > 1
    assert [line.split()[-1] for line in shown.splitlines() if "$" in line and "ensure" in line] == named
    with_outcome(monkeypatch, ())
    assert run("diagnose", "-f", "name~=x").stdout.splitlines()[-1] == "no images match"


def test_markdown_has_a_table() -> None:
    result = run("diagnose", "--format", "markdown")
    assert result.stdout.startswith("| Image | Status | Missing | Cause | Fix |\n|---|---|---:|---|---|\n")


@pytest.mark.parametrize("words", [("--all-tools",), ("-A", "pause"), ("-f", "name~=x", "pause")])
def test_options_of_the_other_form_are_refused(words: tuple[str, ...]) -> None:
    assert run("diagnose", *words).exit_code == 2


def test_names_and_commands_are_whole_on_a_narrow_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    long = "registry.example/" + 8 * "a-long-name/" + "app:1"
    with_outcome(monkeypatch, (broken(long), summary("b:1")))
    monkeypatch.setattr("pyctrd.cli.diagnoses.open_page", TerminalPage)
    monkeypatch.setattr("pyctrd.cli.lists.open_page", TerminalPage)
    lines = [line.rstrip() for line in run("diagnose").stdout.splitlines()]
    assert lines[:2] == ["IMAGE", "    STATUS      MISSING  CAUSE"]
    assert lines[2:6] == [long, "    incomplete  3.0 MiB  never pulled", "b:1", "    complete          -"]
    assert lines[-1] == "   $ pyctrd ensure --all"
    monkeypatch.setenv("COLUMNS", "160")
    with_outcome(monkeypatch, FOUND[:2])
    lines = [line.rstrip() for line in run("-n", "k8s.io", "diagnose").stdout.splitlines()]
    assert lines[2] == f"registry.example/b:1  incomplete  3.0 MiB  never pulled  {FIX}"

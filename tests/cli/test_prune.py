"""`pyctrd prune`: options, questions and output."""

from __future__ import annotations

import datetime as dt
import json
from pathlib import Path
from typing import Any

import pytest

from pyctrd.cli import screen
from pyctrd.oci.model import Digest
from pyctrd.steps.removal import RemovedBlob, RemovedSnapshot, RemoveResult
from tests.cli.stub import run, with_outcome

MIB = 1 << 20
BLOB = Digest.of(b"x")
RESULT = RemoveResult(
    images=("registry.example/a:1",),
    blobs=(RemovedBlob(digest=BLOB, size=3 * MIB),),
    snapshots=(RemovedSnapshot(snapshotter="overlayfs", key="s", bytes=MIB),),
    leases=("l",),
    bytes_missing=5 * MIB,
)


@pytest.fixture
def prune(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return the stub of client.images.prune."""
    return with_outcome(monkeypatch, RESULT).return_value.images.prune


@pytest.fixture
def _terminal(monkeypatch: pytest.MonkeyPatch, prune: Any) -> None:
    monkeypatch.setattr(screen, "is_interactive", lambda: True)

    def asking(**named: Any) -> RemoveResult:
        return RESULT if named["confirm"](RESULT) else RemoveResult()

    prune.side_effect = asking


def test_each_policy_is_passed_on(prune: Any) -> None:
    run(
        *("prune", "--dangling", "--unused", "--older-than", "7d", "--keep-last", "3", "--until-free", "15%"),
        *("--keep", "a", "--keep", "b", "--expired", "--leftovers", "--dry-run"),
    )
    assert prune.call_args.kwargs == {
        "dangling": True,
        "unused": True,
        "older_than": dt.timedelta(days=7),
        "keep_last": 3,
        "until_free": "15%",
        "keep": ("a", "b"),
        "expired": True,
        "leftovers": True,
        "dry_run": True,
        "confirm": None,
    }


@pytest.mark.parametrize("arguments", [(), ("--keep", "x"), ("--force",), ("--dry-run",)])
def test_without_a_policy_nothing_is_removed(prune: Any, arguments: tuple[str, ...]) -> None:
    result = run("prune", *arguments)
    assert result.exit_code == 2
    assert "nothing is removed without a policy: --dangling, --unused" in result.stderr
    assert not prune.called


@pytest.mark.parametrize(
    "arguments", [("--keep-last", "1", "--expired"), ("--older-than", "1h", "--leftovers")]
)
def test_limits_for_images_need_images(arguments: tuple[str, ...], tmp_path: Path) -> None:
    """Refused by the library before it connects, in the words of the command line."""
    absent = ("-a", str(tmp_path / "c.sock"))
    result = run("prune", *absent, *arguments, "-f")
    assert result.exit_code == 2
    assert "add --dangling, --unused or --until-free" in result.stderr
    assert run("prune", *absent, *arguments, "--all", "-f").exit_code == 6


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--until-free", "20Q"), "--until-free: '20Q' is not a size like 20G, or a percentage"),
        (("--unused", "--keep", "("), "--keep: '(' is not a regular expression"),
    ],
)
def test_values_that_the_library_refuses(arguments: tuple[str, ...], words: str, tmp_path: Path) -> None:
    result = run("prune", "-a", str(tmp_path / "c.sock"), *arguments, "-f")
    assert (result.exit_code, result.stdout) == (2, "")
    assert words in result.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--older-than", "soon"), "'soon' is not a time like 90s"),
        (("--keep-last", "0"), "0 is not in the range x>=1"),
    ],
)
def test_malformed_values_are_usage_errors(prune: Any, arguments: tuple[str, ...], words: str) -> None:
    result = run("prune", *arguments, "-f")
    assert (result.exit_code, prune.called) == (2, False)
    assert words in result.stderr


def test_without_a_terminal_force_is_required(prune: Any) -> None:
    result = run("prune", "--unused")
    assert (result.exit_code, prune.called) == (2, False)
    assert "use --force, or --dry-run" in result.stderr
    assert run("prune", "--unused", "-y").exit_code == 0


def test_what_is_gone_is_printed(prune: Any) -> None:
    result = run("prune", "--until-free", "20G", "-f")
    assert result.stdout.splitlines() == [
        "removed registry.example/a:1",
        "removed lease l",
        "freed 4.0 MiB: 1 blob and 1 snapshot",
        "5.0 MiB more would have to become free: all other images are in use, pinned or kept",
    ]
    assert prune.call_args.kwargs["until_free"] == "20G"
    assert run("prune", "--unused", "-f", "-q").stdout == "registry.example/a:1\n"


@pytest.mark.usefixtures("prune")
def test_json_has_the_fields_of_the_contract() -> None:
    found = json.loads(run("prune", "--unused", "--dry-run", "--format", "json").stdout)
    assert found["images"] == ["registry.example/a:1"]
    assert found["blobs"] == [{"digest": BLOB, "size": 3 * MIB, "shared": False}]
    assert found["snapshots"] == [{"snapshotter": "overlayfs", "key": "s", "bytes": MIB}]
    assert (found["bytes"], found["bytes_missing"], found["leases"]) == (4 * MIB, 5 * MIB, ["l"])


@pytest.mark.usefixtures("_terminal")
def test_on_a_terminal_the_plan_is_shown_before_the_question() -> None:
    result = run("prune", "--unused", stdin="y\n")
    assert result.stderr == "Remove 1 image name, and free 4.0 MiB? [y/N] "
    lines = result.stdout.splitlines()
    assert lines[0] == "would remove registry.example/a:1"
    assert "would free 4.0 MiB: 1 blob and 1 snapshot" in lines
    assert "removed registry.example/a:1" not in lines
    assert "freed 4.0 MiB: 1 blob and 1 snapshot" in lines


@pytest.mark.usefixtures("_terminal")
@pytest.mark.parametrize("answer", ["n\n", "\n", ""])
def test_another_answer_removes_nothing(answer: str) -> None:
    result = run("prune", "--unused", stdin=answer)
    assert result.exit_code == 1
    assert result.stderr.endswith("nothing was removed\n")
    assert "freed" not in result.stdout


@pytest.mark.usefixtures("_terminal")
def test_the_question_does_not_spoil_json() -> None:
    result = run("prune", "--unused", "--format", "json", stdin="yes\n")
    assert json.loads(result.stdout)["bytes"] == 4 * MIB


def test_there_is_no_question_if_nothing_would_go(monkeypatch: pytest.MonkeyPatch, prune: Any) -> None:
    monkeypatch.setattr(screen, "is_interactive", lambda: True)
    prune.side_effect = lambda **named: named["confirm"](RemoveResult()) and RemoveResult()
    assert run("prune", "--unused").stdout.splitlines()[-1] == "freed nothing"

"""What tag, pin, unpin, label, unpack and pull --ttl print, and which arguments they refuse."""

from __future__ import annotations

import datetime as dt
import json
from typing import Any

import pytest

from pyctrd.errors import AlreadyExists, InvalidInput, PyctrdError, Remedy
from pyctrd.oci.expiry import EXPIRE_LABEL
from pyctrd.oci.mediatypes import OCI_INDEX
from pyctrd.oci.model import PINNED, PINNED_LABEL, Descriptor, Digest, ImageRecord
from pyctrd.oci.platforms import parse
from pyctrd.operations.pin import PinResult
from pyctrd.operations.pull import PullResult
from pyctrd.operations.tag import TagResult
from pyctrd.operations.unpack import UnpackResult
from tests.cli.stub import run, with_outcome

NAME = "registry.example/app:1"
TARGET = Descriptor(media_type=OCI_INDEX, digest=Digest.of(b"x"), size=9)
CONTENT = {"mediaType": OCI_INDEX, "digest": str(TARGET.digest), "size": 9}
LATE = {EXPIRE_LABEL: "2099-01-01T00:00:00Z"}


def record(name: str = NAME, **labels: str) -> ImageRecord:
    return ImageRecord(name=name, target=TARGET, labels=labels)


def calls(opened: Any, method: str) -> Any:
    """Return the arguments of the only call of a method."""
    (call,) = getattr(opened.return_value.images, method).call_args_list
    return call


# --- tag --------------------------------------------------------------------------------------------------


def test_tag_prints_the_names_and_the_expiry(monkeypatch: pytest.MonkeyPatch) -> None:
    outcome = TagResult(image=record(), tagged=(record("a:1", **LATE), record("b:1", **LATE)))
    opened = with_outcome(monkeypatch, outcome)
    result = run("tag", "--ttl", "2w", NAME, "a:1", "b:1")
    assert result.stdout.splitlines() == [
        *("a:1", "b:1", f"digest: {TARGET.digest}", "expires: 2099-01-01T00:00:00Z")
    ]
    call = calls(opened, "tag")
    assert (call.args, call.kwargs) == (
        (NAME, ("a:1", "b:1")),
        {"force": False, "ttl": dt.timedelta(weeks=2)},
    )
    assert run("tag", "-q", NAME, "a:1", "b:1").stdout == "a:1\nb:1\n"
    assert json.loads(run("tag", "--format", "json", NAME, "a:1").stdout) == {
        "image": NAME,
        "target": CONTENT,
        "tagged": ["a:1", "b:1"],
        "expires_at": "2099-01-01T00:00:00Z",
    }


def test_tag_refuses_a_malformed_name(monkeypatch: pytest.MonkeyPatch) -> None:
    opened = with_outcome(monkeypatch, None)
    result = run("tag", NAME, "ok:1", "UPPER:1")
    assert (result.exit_code, opened.called) == (2, False)
    assert "must be lowercase" in result.stderr


@pytest.mark.parametrize(
    ("remedy", "hint"),
    [
        (
            Remedy(method="tag", images=(NAME, "a:1"), force=True),
            f"hint: to move the name: pyctrd tag --force {NAME} a:1\n",
        ),
        (Remedy(force=True), "hint: to move the name: --force\n"),
        (Remedy(method="unpin", images=("a:1",)), "hint: to move the name: pyctrd unpin a:1\n"),
    ],
)
def test_a_refusal_has_the_command(monkeypatch: pytest.MonkeyPatch, remedy: Remedy, hint: str) -> None:
    with_outcome(monkeypatch, AlreadyExists("already exists", hint="to move the name", remedy=remedy))
    result = run("tag", NAME, "a:1")
    assert (result.exit_code, result.stderr) == (1, f"pyctrd: already exists\n{hint}")


# --- times ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90s", 90), ("30m", 1800), ("12h", 43200), ("7d", 604_800), ("2w", 1_209_600)],
)
def test_times_have_a_unit(monkeypatch: pytest.MonkeyPatch, text: str, seconds: int) -> None:
    outcome = PullResult(image=record(**LATE), fetched=(), bytes_fetched=0, unpacked=())
    opened = with_outcome(monkeypatch, outcome)
    result = run("pull", "--ttl", text, NAME)
    assert result.exit_code == 0
    assert result.stdout.splitlines()[-1] == "expires: 2099-01-01T00:00:00Z"
    assert calls(opened, "pull").kwargs["ttl"] == dt.timedelta(seconds=seconds)
    document = json.loads(run("pull", "--format", "json", NAME).stdout)
    assert document["expires_at"] == "2099-01-01T00:00:00Z"


def test_a_pull_without_expiry_prints_none(monkeypatch: pytest.MonkeyPatch) -> None:
    with_outcome(monkeypatch, PullResult(image=record(), fetched=(), bytes_fetched=0, unpacked=()))
    assert "expires" not in run("pull", NAME).stdout
    assert json.loads(run("pull", "--format", "json", NAME).stdout)["expires_at"] == ""


@pytest.mark.parametrize("command", [("pull", NAME), ("tag", NAME, "a:1")])
@pytest.mark.parametrize(
    ("text", "message"),
    [
        *(
            (text, "is not a time like 90s, 30m, 12h, 7d or 2w")
            for text in ("7", "7x", "-1d", "1.5h", "", "7 d")
        ),
        *((text, "more than 0, and at most 100 years") for text in ("0s", "0w", "101000d")),
        *((text, "is too long") for text in ("9" * 30 + "w", "9" * 5000 + "s")),
    ],
)
def test_a_malformed_time_is_a_usage_error(
    monkeypatch: pytest.MonkeyPatch, command: tuple[str, ...], text: str, message: str
) -> None:
    opened = with_outcome(monkeypatch, None)
    result = run(*command, "--ttl", text)
    assert (result.exit_code, opened.called) == (2, False)
    assert message in result.stderr
    assert "--ttl" in result.stderr


# --- pin, unpin -------------------------------------------------------------------------------------------

PINNED_RECORD, OTHER = record("a:1", **{PINNED_LABEL: PINNED}), record("b:1")


@pytest.mark.parametrize(
    ("command", "changed", "words"),
    [
        ("pin", ("a:1", "b:1"), ["pinned", "unpinned again"]),
        ("pin", (), ["already pinned", "unpinned again"]),
        ("unpin", ("a:1", "b:1"), ["pinned again", "unpinned"]),
        ("unpin", (), ["pinned again", "was not pinned"]),
    ],
)
def test_pin_and_unpin_print_each_record(
    monkeypatch: pytest.MonkeyPatch, command: str, changed: tuple[str, ...], words: list[str]
) -> None:
    opened = with_outcome(monkeypatch, PinResult(images=(PINNED_RECORD, OTHER), changed=changed))
    rows = run(command, "a:1", "c:1").stdout.splitlines()
    assert [row.split("  ", 1)[-1].strip() for row in rows[1:]] == words
    assert calls(opened, command).args == (("a:1", "c:1"),)
    assert run(command, "-q", "a:1").stdout == "a:1\nb:1\n"
    assert json.loads(run(command, "--format", "json", "a:1").stdout) == {
        "images": [
            {"name": "a:1", "target": CONTENT, "pinned": True, "changed": "a:1" in changed},
            {"name": "b:1", "target": CONTENT, "pinned": False, "changed": "b:1" in changed},
        ]
    }


# --- label ------------------------------------------------------------------------------------------------


def test_labels_are_set_and_removed(monkeypatch: pytest.MonkeyPatch) -> None:
    opened = with_outcome(monkeypatch, record(b="2", a="1=x"))
    result = run("label", NAME, "a=1=x", "gone-", "empty=", "dash-=x")
    assert result.stdout.splitlines() == [NAME, "  a=1=x", "  b=2"]
    changes = {"a": "1=x", "gone": "", "empty": "", "dash-": "x"}
    call = calls(opened, "label")
    assert (call.args, call.kwargs) == ((NAME, changes), {"force": False})
    assert run("label", "-q", NAME, "a=1").stdout == f"{NAME}\n"
    assert json.loads(run("label", "--format", "json", NAME, "a=1").stdout) == {
        "image": NAME,
        "target": CONTENT,
        "labels": {"a": "1=x", "b": "2"},
    }


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["a"], "'a' is neither KEY=VALUE nor KEY-"),
        (["=x"], "has no key"),
        (["--", "-"], "has no key"),
        (["a=1", "a-"], "'a' is given twice"),
        ([], "Missing argument"),
    ],
)
def test_malformed_labels_are_a_usage_error(
    monkeypatch: pytest.MonkeyPatch, words: list[str], message: str
) -> None:
    opened = with_outcome(monkeypatch, None)
    result = run("label", NAME, *words)
    assert (result.exit_code, opened.called) == (2, False)
    assert message in result.stderr


def test_a_refused_label_has_the_option(monkeypatch: pytest.MonkeyPatch) -> None:
    error: PyctrdError = InvalidInput("label x: why", hint="set it anyway", remedy=Remedy(force=True))
    with_outcome(monkeypatch, error)
    assert run("label", NAME, "x=1") == (2, "", "pyctrd: label x: why\nhint: set it anyway: --force\n")


# --- unpack -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("layers", "words"), [(2, "2 layers"), (0, "nothing, already unpacked")])
def test_unpack_prints_the_snapshots(monkeypatch: pytest.MonkeyPatch, layers: int, words: str) -> None:
    top = Digest.of(b"top")
    outcome = UnpackResult(
        image=record(),
        snapshotter="native",
        snapshots={parse("linux/amd64"): top, parse("linux/arm64"): None},
        layers=layers,
    )
    opened = with_outcome(monkeypatch, outcome)
    lines = run("unpack", "--snapshotter", "native", "--platform", "amd64,arm64", NAME).stdout.splitlines()
    assert lines[:3] == [NAME, "snapshotter: native", f"unpacked: {words}"]
    assert [line.split() for line in lines[4:]] == [*(["linux/amd64", top], ["linux/arm64", "no", "layers"])]
    assert opened.call_args.kwargs["snapshotter"] == "native"
    assert calls(opened, "unpack").kwargs["platforms"] == ("amd64,arm64",)
    assert run("unpack", "-q", NAME).stdout == f"{top}\n"
    assert json.loads(run("unpack", "--format", "json", NAME).stdout) == {
        "image": NAME,
        "target": CONTENT,
        "snapshotter": "native",
        "snapshots": [
            {"platform": "linux/amd64", "snapshot": top},
            {"platform": "linux/arm64", "snapshot": ""},
        ],
        "layers": layers,
    }


def test_an_image_without_layers_has_nothing_to_unpack(monkeypatch: pytest.MonkeyPatch) -> None:
    with_outcome(monkeypatch, UnpackResult(image=record(), snapshotter="native", snapshots={}, layers=0))
    assert run("unpack", NAME).stdout.splitlines() == [
        *(NAME, "snapshotter: native", "unpacked: nothing, it has no layers to unpack")
    ]

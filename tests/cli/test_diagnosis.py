"""Output of a diagnosis: every row and tool, and each cause once, those of the target first."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest

from pyctrd.cli.diagnosis import render
from pyctrd.cli.installed import Installed, installed
from pyctrd.cli.page import PlainPage
from pyctrd.cli.settings import Settings
from pyctrd.errors import Remedy
from pyctrd.oci.model import Digest
from pyctrd.operations.diagnose import (
    Cause,
    Content,
    Diagnosis,
    ExportForecast,
    PlatformState,
    SaveForecast,
    Tools,
)
from tests.cli.stub import run, with_outcome

NAME = "docker.io/library/pause:3.10"
DIGESTS = [Digest.of(bytes([number])) for number in range(8)]
LAYER = Content(
    media_type="application/vnd.oci.image.layer.v1.tar+gzip", digest=Digest.of(b"layer"), size=3 << 20
)
NO_MANIFEST = "no manifest found for platform: not found"


def state(number: int, platform: str, **how: object) -> PlatformState:
    here = PlatformState(
        platform=platform,
        digest=DIGESTS[number],
        kind="image",
        target=False,
        complete=True,
        manifest=True,
        config=True,
        layers_present=2,
        layers_total=2,
        missing=(),
        missing_bytes=0,
        missing_known=True,
        unpacked=True,
        unpacked_in=("overlayfs",),
        attestation_for=None,
    )
    return msgspec.structs.replace(here, **how)


LACKING = {
    "complete": False,
    "layers_present": 1,
    "missing": (LAYER,),
    "missing_bytes": 3 << 20,
    "unpacked": False,
    "unpacked_in": (),
}


def cause(number: int, platform: str, *, certain: bool = True) -> Cause:
    return Cause(
        code="never_pulled",
        platform=platform,
        digest=DIGESTS[number],
        text=f"nobody pulled {platform}",
        certain=certain,
        evidence=(f"no layer of {platform} is here",),
        missing=(LAYER.digest,),
        remedy=Remedy(method="ensure", images=(NAME,), platforms=(platform,)),
    )


def diagnosis(**how: object) -> Diagnosis:
    nothing = SaveForecast(fetch=(), bytes=0, network=False, ok=True)
    found = Diagnosis(
        image=NAME,
        namespace="k8s.io",
        target=Content(media_type="application/vnd.oci.image.index.v1+json", digest=DIGESTS[7], size=2048),
        snapshotter="overlayfs",
        targets=("linux/arm64",),
        complete=False,
        absent_platforms=(),
        platforms=(
            state(0, "linux/amd64"),
            state(1, "linux/arm64", target=True, **LACKING),
            state(2, "linux/s390x", **LACKING),
            state(3, "linux/ppc64le", **LACKING),
            state(4, "unknown/unknown", kind="attestation", attestation_for="linux/amd64"),
            state(
                5,
                "linux/386",
                complete=False,
                manifest=False,
                config=None,
                layers_present=None,
                layers_total=None,
                missing=(LAYER,),
                missing_bytes=500,
                missing_known=False,
            ),
        ),
        unread=(),
        tools=Tools(
            ctr_export=ExportForecast(ok=False, error="content digest x: not found", exit_code=1),
            nerdctl_save_2_0_3=SaveForecast(
                fetch=tuple(DIGESTS), bytes=5 << 20, network=True, ok=True, note="asks for the tag"
            ),
            nerdctl_save_2_0_4=SaveForecast(fetch=(), bytes=0, network=False, ok=False, error=NO_MANIFEST),
            nerdctl_save_2_1_4=nothing,
            nerdctl_save_2_3_0=nothing,
            pyctrd_save=nothing,
        ),
        causes=(
            cause(2, "linux/s390x", certain=False),
            cause(1, "linux/arm64"),
            cause(3, "linux/ppc64le", certain=False),
        ),
    )
    return msgspec.structs.replace(found, **how)


@pytest.fixture
def lines(capsys: pytest.CaptureFixture[str]) -> list[str]:
    render(diagnosis(), PlainPage(), Settings())
    return capsys.readouterr().out.splitlines()


def test_the_table_has_a_row_for_each_manifest(lines: list[str]) -> None:
    start = next(number for number, line in enumerate(lines) if line.startswith("PLATFORM"))
    rows = [line.split("  ") for line in lines[start : start + 7]]
    assert [[cell.strip() for cell in row if cell.strip()] for row in rows] == [
        ["PLATFORM", "MANIFEST", "CONFIG", "LAYERS", "MISSING", "UNPACKED", "NOTE", "DIGEST"],
        ["linux/amd64", "here", "here", "2/2", "-", "overlayfs", "complete", DIGESTS[0]],
        ["linux/arm64", "here", "here", "1/2", "3.0 MiB", "no", "target, incomplete", DIGESTS[1]],
        ["linux/s390x", "here", "here", "1/2", "3.0 MiB", "no", "incomplete", DIGESTS[2]],
        ["linux/ppc64le", "here", "here", "1/2", "3.0 MiB", "no", "incomplete", DIGESTS[3]],
        ["linux/386", "missing", "?", "?", "> 500 B", "overlayfs", "incomplete", DIGESTS[5]],
        ["1 attestation: complete"],
    ]


FIX = f"pyctrd ensure --platform linux/arm64 {NAME}"


def test_the_verdict_is_the_first_line(capsys: pytest.CaptureFixture[str]) -> None:
    fix = Remedy(method="ensure", images=(NAME,), platforms=("linux/arm64",))
    for how, expected in (
        (
            {"remedy": fix},
            ["incomplete: linux/arm64 lacks 1 blob, 3.0 MiB; this fetches it:", f"   $ {FIX}"],
        ),
        ({"complete": True}, ["complete: linux/arm64"]),
        (
            {"platforms": (), "absent_platforms": ("linux/riscv64",)},
            ["incomplete: the image has no linux/riscv64"],
        ),
    ):
        render(diagnosis(**how), PlainPage(), Settings())
        assert capsys.readouterr().out.splitlines()[: len(expected) + 1] == [*expected, NAME]


def test_attestations_are_summed_up(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [
        state(number, "unknown/unknown", kind="attestation", attestation_for="linux/amd64", **how)
        for number, how in enumerate(({}, LACKING, LACKING))
    ]
    render(diagnosis(platforms=tuple(rows)), PlainPage(), Settings())
    assert "3 attestations: 2 incomplete, 1 blob, 3.0 MiB missing\n" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("here", "expected"),
    [
        (Installed(), ["pyctrd save"]),
        (Installed(ctr=True), ["ctr images export", "pyctrd save"]),
        (Installed(nerdctl=(1, 7, 7)), ["pyctrd save"]),
        (Installed(nerdctl=(2, 0, 3)), ["nerdctl save 2.0.3", "pyctrd save"]),
        (Installed(ctr=True, nerdctl=(2, 2, 1)), ["ctr images export", "nerdctl save 2.2.1", "pyctrd save"]),
    ],
)
def test_installed_tools_are_shown(
    capsys: pytest.CaptureFixture[str], here: Installed, expected: list[str]
) -> None:
    render(diagnosis(), PlainPage(), Settings(), here)
    lines = capsys.readouterr().out.splitlines()
    start = lines.index("Predicted results for linux/arm64") + 1
    end = lines.index("--all-tools shows those that are not installed here, too")
    assert [line.partition(":")[0] for line in lines[start:end] if not line.startswith(" ")] == expected


def test_tools_are_found_on_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert installed() == Installed()
    for name, script in (("ctr", "exit 1"), ("nerdctl", "echo nerdctl version 2.1.6-rc.1")):
        program = tmp_path / name
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(0o755)
    assert installed() == Installed(ctr=True, nerdctl=(2, 1, 6))
    (tmp_path / "nerdctl").write_text("not a program")
    assert installed() == Installed(ctr=True)


def test_each_tool_is_shown(lines: list[str]) -> None:
    start = lines.index("Predicted results for linux/arm64")
    assert lines[start + 1 : start + 8] == [
        "ctr images export: fails: content digest x: not found",
        "nerdctl save 2.0.0 - 2.0.3: works, downloads 8 blobs, 5.0 MiB",
        "  asks for the tag",
        f"nerdctl save 2.0.4 - 2.1.3: downloads nothing, then fails: {NO_MANIFEST}",
        "nerdctl save 2.1.4 - 2.2: works, downloads nothing",
        "nerdctl save 2.3+: works, downloads nothing",
        "pyctrd save: works, downloads nothing",
    ]


def test_causes_are_shown_once_and_those_of_the_target_first(lines: list[str]) -> None:
    start = lines.index("Causes and fixes")
    assert lines[start + 1 :] == [
        "1. nobody pulled linux/arm64",
        "   - no layer of linux/arm64 is here",
        f"   $ pyctrd ensure --platform linux/arm64 {NAME}",
        "2. nobody pulled linux/s390x, linux/ppc64le (likely)",
        "   - no layer of linux/s390x, linux/ppc64le is here",
        f"   $ pyctrd ensure --platform linux/s390x,linux/ppc64le {NAME}",
    ]


def test_absent_platforms_and_unread_indexes_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    index = Content(media_type="application/vnd.oci.image.index.v1+json", digest=DIGESTS[6], size=9)
    render(diagnosis(absent_platforms=("linux/riscv64",), unread=(index,)), PlainPage(), Settings())
    text = capsys.readouterr().out
    assert "The image has no linux/riscv64." in text
    assert f"The index {DIGESTS[6]} is missing, and its children are unknown." in text


@pytest.mark.parametrize(("complete", "code"), [(True, 0), (False, 4)])
@pytest.mark.parametrize("form", ["table", "json", "markdown"])
def test_the_exit_code_follows_completeness_in_every_format(
    monkeypatch: pytest.MonkeyPatch, form: str, complete: bool, code: int
) -> None:
    with_outcome(monkeypatch, diagnosis(complete=complete))
    assert run("diagnose", "--format", form, "pause").exit_code == code


def test_json_is_as_documented(monkeypatch: pytest.MonkeyPatch) -> None:
    with_outcome(monkeypatch, diagnosis(image="na\x1b\x9bme"))
    result = run("diagnose", "--format", "json", "pause")
    assert not set(result.stdout) & set("\x1b\x9b")
    document = json.loads(result.stdout)
    assert document["image"] == "na\x1b\x9bme"
    assert document["target"] == {
        "mediaType": "application/vnd.oci.image.index.v1+json",
        "digest": DIGESTS[7],
        "size": 2048,
    }
    assert document["platforms"][1]["missing"] == [
        {"mediaType": LAYER.media_type, "digest": LAYER.digest, "size": LAYER.size}
    ]
    assert document["tools"]["nerdctl_save_2_0_3"]["bytes"] == 5 << 20
    assert document["causes"][0]["remedy"] == f"pyctrd ensure --platform linux/s390x {NAME}"

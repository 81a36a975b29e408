"""Progress: lines for logs, JSON lines for programs, bars for people; nothing of it on stdout."""

from __future__ import annotations

import io
import json
import threading

import pytest
from rich.console import Console

from pyctrd.cli.bars import Bars
from pyctrd.cli.progress import reporting
from pyctrd.mediatypes import OCI_LAYER_GZIP
from pyctrd.model import Descriptor, Digest
from pyctrd.ports import Action, Progress, no_progress

MIB = 1 << 20
LAYERS = [
    Descriptor(media_type=OCI_LAYER_GZIP, digest=Digest.of(bytes([number])), size=8 * MIB)
    for number in range(60)
]


def event(
    action: Action, layer: Descriptor = LAYERS[0], offset: int = 0, detail: str = "", *, resumed: int = 0
) -> Progress:
    return Progress(
        action=action, descriptor=layer, offset=offset, total=layer.size, resumed=resumed, detail=detail
    )


def download(layer: Descriptor = LAYERS[0]) -> list[Progress]:
    """The events of one download, a MiB at a time."""
    chunks = [event("downloading", layer, offset) for offset in range(0, layer.size + 1, MIB)]
    return [*chunks, event("downloaded", layer, layer.size)]


def test_plain_is_a_line_for_each_change_of_state(capsys: pytest.CaptureFixture[str]) -> None:
    with reporting("plain") as sink:
        for step in (*download(), event("unpacking"), event("unpacked")):
            sink(step)
    name = f"layer {LAYERS[0].digest.short}"
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.splitlines() == [
        f"{name}: downloading, 8.0 MiB",
        f"{name}: downloaded, 8.0 MiB",
        f"{name}: unpacking",
        f"{name}: unpacked",
    ]


def test_plain_tells_a_resume_and_every_retry(capsys: pytest.CaptureFixture[str]) -> None:
    with reporting("plain") as sink:
        sink(event("downloading", offset=3 * MIB, resumed=3 * MIB))
        sink(event("downloading", offset=5 * MIB, resumed=3 * MIB))
        sink(event("retrying", detail="cut off"))
        sink(event("downloading"))
        sink(event("downloaded", LAYERS[1], 8 * MIB, resumed=8 * MIB))
        sink(event("done", LAYERS[2], resumed=11 * MIB))
    assert [line.partition(": ")[2] for line in capsys.readouterr().err.splitlines()] == [
        "downloading, 8.0 MiB, resumed at 3.0 MiB",
        "retrying, cut off",
        "downloading, 8.0 MiB",
        "downloaded, 8.0 MiB, of which resumed 8.0 MiB",
        "done, resumed 11.0 MiB",
    ]


def test_json_lines_have_every_change_and_few_of_the_bytes(capsys: pytest.CaptureFixture[str]) -> None:
    with reporting("json") as sink:
        for step in download():
            sink(step)
    captured = capsys.readouterr()
    lines = [json.loads(line) for line in captured.err.splitlines()]
    assert captured.out == ""
    assert [line["action"] for line in lines] == ["downloading", "downloading", "downloaded"]
    assert lines[-1] == {
        "action": "downloaded",
        "offset": 8 * MIB,
        "total": 8 * MIB,
        "mediaType": OCI_LAYER_GZIP,
        "digest": LAYERS[0].digest,
    }


def test_json_lines_from_many_threads_are_whole(capsys: pytest.CaptureFixture[str]) -> None:
    with reporting("json") as sink:
        threads = [
            threading.Thread(target=lambda layer=layer: [*map(sink, download(layer))]) for layer in LAYERS
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert sum(line["action"] == "downloaded" for line in lines) == len(LAYERS)


@pytest.mark.parametrize(
    ("mode", "quiet", "silent"),
    [("none", False, True), ("auto", True, True), ("auto", False, False), ("plain", True, False)],
)
def test_quiet_silences_what_was_not_asked_for(mode: str, quiet: bool, silent: bool) -> None:
    with reporting(mode, quiet=quiet) as sink:
        assert (sink is no_progress) == silent


def test_control_characters_of_details_are_escaped(capsys: pytest.CaptureFixture[str]) -> None:
    with reporting("plain") as sink:
        sink(event("resolved", detail="na\x1b[2Jme"))
    assert "na\\x1b[2Jme" in capsys.readouterr().err


def screen(height: int = 24) -> tuple[Bars, Console]:
    console = Console(file=io.StringIO(), force_terminal=True, width=80, height=height, color_system=None)
    return Bars(console), console


def test_bars_show_blobs_and_their_sum() -> None:
    bars, console = screen()
    with bars:
        bars.show(event("exists", LAYERS[9]))
        for layer in LAYERS[:2]:
            for step in download(layer):
                bars.show(step)
        bars.show(event("downloading", LAYERS[2], MIB))
        bars.show(event("unpacking", LAYERS[0]))
        drawn = console.file
    text = drawn.getvalue() if isinstance(drawn, io.StringIO) else ""
    assert f"layer {LAYERS[2].digest.short}" in text
    assert "1.0 MiB / 8.0 MiB" in text
    assert "fetched 2/3 blobs, 1 here" in text
    assert "17.0 MiB / 24.0 MiB" in text
    assert "unpacked 0/1 layer" in text
    assert LAYERS[9].digest.short not in text


def test_uploads_are_told_in_lines_and_bars(capsys: pytest.CaptureFixture[str]) -> None:
    events = [
        event("present", LAYERS[1]),
        event("mounted", LAYERS[2]),
        event("uploading"),
        event("uploading", offset=4 * MIB),
        event("uploaded", offset=8 * MIB),
    ]
    bars, console = screen()
    with bars, reporting("plain") as sink:
        for step in events:
            sink(step)
            bars.show(step)
    name = f"layer {LAYERS[0].digest.short}"
    assert capsys.readouterr().err.splitlines()[-2:] == [
        f"{name}: uploading, 8.0 MiB",
        f"{name}: uploaded, 8.0 MiB",
    ]
    assert isinstance(console.file, io.StringIO)
    assert "uploaded 1/1 blob, 2 there" in console.file.getvalue()


def test_bars_stay_within_the_screen() -> None:
    bars, console = screen(height=12)
    with bars:
        for layer in LAYERS:
            for step in download(layer):
                bars.show(step)
        assert sum(task.visible for task in bars._blobs.tasks) <= 12
    assert isinstance(console.file, io.StringIO)
    assert "fetched 60/60 blobs" in console.file.getvalue()


def test_json_lines_tell_what_was_resumed(capsys: pytest.CaptureFixture[str]) -> None:
    with reporting("json") as sink:
        sink(event("downloading", offset=3 * MIB, resumed=3 * MIB))
        sink(event("downloading", LAYERS[1]))
    first, second = map(json.loads, capsys.readouterr().err.splitlines())
    assert first["resumed"] == 3 * MIB
    assert "resumed" not in second


def test_bars_tell_what_was_resumed_in_sum() -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=120, height=20)
    with Bars(console) as bars:
        bars.show(event("downloading", offset=3 * MIB, resumed=3 * MIB))
        bars.show(event("downloaded", offset=8 * MIB, resumed=3 * MIB))
        bars.show(event("downloaded", LAYERS[1], 8 * MIB, resumed=8 * MIB))
    assert isinstance(console.file, io.StringIO)
    assert "fetched 2/2 blobs, 11.0 MiB resumed" in console.file.getvalue()

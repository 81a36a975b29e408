"""Progress as lines, JSON lines and bars; nothing is written to stdout."""

from __future__ import annotations

import io
import json
import threading
import time
from collections.abc import Callable

import pytest
from rich.console import Console

from pyctrd.cli.bars import Bars
from pyctrd.cli.progress import PlainLines, reporting
from pyctrd.oci.mediatypes import OCI_LAYER_GZIP, OCI_MANIFEST
from pyctrd.oci.model import Descriptor, Digest
from pyctrd.progress import Action, Progress, no_progress

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


def test_plain_prints_a_line_for_each_change_of_state(capsys: pytest.CaptureFixture[str]) -> None:
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


def test_plain_shows_a_resume_and_every_retry(capsys: pytest.CaptureFixture[str]) -> None:
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


def test_json_lines_have_every_state_and_only_some_byte_counts(capsys: pytest.CaptureFixture[str]) -> None:
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


def test_json_lines_from_many_threads_are_not_mixed(capsys: pytest.CaptureFixture[str]) -> None:
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
def test_quiet_turns_off_progress_that_was_not_requested(mode: str, quiet: bool, silent: bool) -> None:
    with reporting(mode, quiet=quiet) as sink:
        assert (sink is no_progress) == silent


def test_control_characters_of_details_are_escaped(capsys: pytest.CaptureFixture[str]) -> None:
    with reporting("plain") as sink:
        sink(event("resolved", detail="na\x1b[2Jme"))
    assert "na\\x1b[2Jme" in capsys.readouterr().err


def screen(
    height: int = 24, width: int = 80, clock: Callable[[], float] = time.monotonic
) -> tuple[Bars, Console]:
    console = Console(file=io.StringIO(), force_terminal=True, width=width, height=height, color_system=None)
    return Bars(console, clock), console


def test_bars_show_blobs_and_their_total() -> None:
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


def test_uploads_are_shown_in_lines_and_bars(capsys: pytest.CaptureFixture[str]) -> None:
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
        lines = drawn(console)
        assert len(lines) < 12
        assert LAYERS[-1].digest.short in lines[-2], "the oldest ones make room"
    assert isinstance(console.file, io.StringIO)
    assert "fetched 60/60 blobs" in console.file.getvalue()


def test_json_lines_have_resumed_bytes(capsys: pytest.CaptureFixture[str]) -> None:
    with reporting("json") as sink:
        sink(event("downloading", offset=3 * MIB, resumed=3 * MIB))
        sink(event("downloading", LAYERS[1]))
    first, second = map(json.loads, capsys.readouterr().err.splitlines())
    assert first["resumed"] == 3 * MIB
    assert "resumed" not in second


def test_bars_show_resumed_bytes_in_total() -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=120, height=20)
    clock = Clock()
    with Bars(console, clock) as bars:
        bars.show(event("downloading", offset=3 * MIB, resumed=3 * MIB))
        clock.now += 2.5
        bars.show(event("downloaded", offset=8 * MIB, resumed=3 * MIB))
        bars.show(event("downloaded", LAYERS[1], 8 * MIB, resumed=8 * MIB))
    assert isinstance(console.file, io.StringIO)
    assert "fetched 2/2 blobs, 16.0 MiB in 2.5 s, 2.0 MiB/s, 11.0 MiB resumed\n" in console.file.getvalue()


def planned(layers: list[Descriptor]) -> list[Progress]:
    return [event("planned", layer, detail="download") for layer in layers]


def drawn(console: Console) -> list[str]:
    """Return the lines of the bars as drawn now: printing above them draws them again."""
    with console.capture() as capture:
        console.print("printed above")
    return capture.get().partition("printed above\n")[2].splitlines()


def share(line: str) -> float:
    """Return the filled share of the bar in a line; without colors the rest is not drawn."""
    return line.count("━") + line.count("╸") / 2


def test_the_total_includes_planned_blobs_and_never_decreases() -> None:
    manifest = Descriptor(media_type=OCI_MANIFEST, digest=Digest.of(b"m"), size=500)
    bars, console = screen(width=160)
    with bars:
        bars.show(event("planned", manifest, detail="download"))
        bars.show(event("downloading", manifest, 250))
        assert share(drawn(console)[-1]) == 60, "it pulses, since the total is unknown"
        bars.show(event("downloaded", manifest, 500))
        for step in planned(LAYERS[:4]):
            bars.show(step)
        shares: list[float] = []
        for layer in LAYERS[:4]:
            for step in download(layer):
                bars.show(step)
                shares.append(share(drawn(console)[-1]))
            if layer is LAYERS[2]:  # a nested index lists more
                assert "fetched 4/5 blobs" in drawn(console)[-1]
                for step in planned(LAYERS[4:6]):
                    bars.show(step)
        assert shares == sorted(shares)
        assert shares[0] < 1
        assert shares[-1] == 45, "three of four"
        assert "fetched 5/7 blobs" in drawn(console)[-1]
        assert "32.0 MiB / 48.0 MiB" in drawn(console)[-1]


@pytest.mark.parametrize(("width", "bar"), [(80, 10), (160, 60), (40, 8)])
def test_bars_use_the_width_of_the_terminal(width: int, bar: int) -> None:
    bars, console = screen(width=width)
    with bars:
        bars.show(event("downloaded", LAYERS[0]))
        if width > 40:
            assert share(drawn(console)[-1]) == bar
        assert all(len(line) <= width for line in drawn(console))


def test_the_total_shows_rate_and_time_left() -> None:
    clock = Clock()
    bars, console = screen(clock=clock)
    with bars:
        for step in planned(LAYERS):
            bars.show(step)
        for step in download():
            bars.show(step)
            clock.now += 1
        text = drawn(console)[-1]
    assert text.startswith("fetched 1/60 blobs ")
    assert "8.0 MiB / 480.0 MiB 910.2 KiB/s 8:51" in text
    assert len(text.rstrip()) <= 80


def test_the_last_line_of_a_large_pull_fits_80_columns() -> None:
    clock = Clock()
    console = Console(file=io.StringIO(), force_terminal=True, width=80, height=24, color_system=None)
    with Bars(console, clock) as bars:
        bars.show(event("exists", LAYERS[59]))
        for layer in LAYERS[:12]:
            bars.show(event("downloading", layer, 4 * MIB, resumed=4 * MIB))
            clock.now += 17
            bars.show(event("downloaded", layer, layer.size, resumed=4 * MIB))
    assert isinstance(console.file, io.StringIO)
    last = "\nfetched 12/12 blobs, 1 here, 96.0 MiB in 3:24, 240.9 KiB/s, 48.0 MiB resumed\n"
    assert last in console.file.getvalue()


def test_bars_of_a_load_count_what_is_there_as_not_written() -> None:
    bars, console = screen()
    with bars:
        for layer in LAYERS[:2]:
            bars.show(event("planned", layer, detail="write"))
        bars.show(event("exists", LAYERS[0]))
        bars.show(event("writing", LAYERS[1], LAYERS[1].size))
        assert drawn(console)[-1].startswith("written 1/1 blob, 1 here")


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_plain_reports_progress_every_ten_seconds(capsys: pytest.CaptureFixture[str]) -> None:
    clock = Clock()
    lines = PlainLines(clock)
    lines.show(event("downloading", offset=2 * MIB, resumed=2 * MIB))
    lines.show(event("unpacking", LAYERS[1]))
    for second in range(25):
        clock.now += 1
        lines.show(event("downloading", offset=min(2 + second // 5, 8) * MIB, resumed=2 * MIB))
        lines.tick()
    lines.show(event("downloaded", offset=8 * MIB, resumed=2 * MIB))
    lines.show(event("unpacked", LAYERS[1], 8 * MIB))
    clock.now += 100
    lines.tick()
    one, two = (f"layer {layer.digest.short}" for layer in LAYERS[:2])
    assert capsys.readouterr().err.splitlines() == [
        f"{one}: downloading, 8.0 MiB, resumed at 2.0 MiB",
        f"{two}: unpacking",
        f"{one}: downloading, 3.0 MiB / 8.0 MiB, 102.4 KiB/s, 50 s left",
        f"{two}: unpacking, 8.0 MiB, for 10 s",
        f"{one}: downloading, 5.0 MiB / 8.0 MiB, 204.8 KiB/s, 15 s left",
        f"{two}: unpacking, 8.0 MiB, for 20 s",
        f"{one}: downloaded, 8.0 MiB, of which resumed 2.0 MiB",
        f"{two}: unpacked",
    ]


def test_plain_reports_a_stall(capsys: pytest.CaptureFixture[str]) -> None:
    clock = Clock()
    lines = PlainLines(clock)
    lines.show(event("uploading", offset=2 * MIB))
    clock.now += 10
    lines.tick()
    assert capsys.readouterr().err.splitlines()[-1].endswith(": uploading, 2.0 MiB / 8.0 MiB, 0 B/s")


class WatchedClock(Clock):
    """A clock that notes when a thread that is not the test's reads it."""

    def __init__(self) -> None:
        super().__init__()
        self.was_read = threading.Event()

    def __call__(self) -> float:
        if threading.current_thread() is not threading.main_thread():
            self.was_read.set()
        return super().__call__()


def test_plain_progress_ticks_without_events(capsys: pytest.CaptureFixture[str]) -> None:
    clock = WatchedClock()
    before = set(threading.enumerate())
    with reporting("plain", clock=clock) as sink:
        sink(event("uploading", offset=2 * MIB))
        clock.now += 10
        clock.was_read.clear()
        assert clock.was_read.wait(60)
    assert capsys.readouterr().err.splitlines()[1].endswith(": uploading, 2.0 MiB / 8.0 MiB, 0 B/s")
    assert set(threading.enumerate()) <= before

"""Questions on the terminal, and the log that --debug shows."""

from __future__ import annotations

import io
import logging
import re
import threading

import pytest

from pyctrd import redact
from pyctrd.cli import logs, screen
from pyctrd.errors import PyctrdError
from tests.cli.stub import run, with_outcome


class Drawing:
    def __init__(self) -> None:
        self.done: list[str] = []

    def start(self) -> None:
        self.done.append("start")

    def stop(self) -> None:
        self.done.append("stop")


@pytest.mark.parametrize(
    ("answer", "yes"),
    [("y\n", True), ("YES\n", True), ("n\n", False), ("\n", False), ("", False), ("yo\n", False)],
)
def test_confirm_reads_an_answer_and_pauses_the_bars(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], answer: str, yes: bool
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(answer))
    drawing = Drawing()
    screen.begin(drawing)
    assert screen.confirm("Really \x1b[2J?", threading.Event()) is yes
    screen.end(drawing)
    assert drawing.done == ["start", "stop", "start", "stop"]
    # stdout may be an archive.
    assert capsys.readouterr() == ("", "Really \\x1b[2J? [y/N] ")


def test_a_process_without_a_terminal_is_not_interactive(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO())
    assert not screen.is_interactive()


def test_debug_shows_the_log_of_pyctrd_only(capsys: pytest.CaptureFixture[str]) -> None:
    log, foreign = (
        logging.getLogger("pyctrd.registry"),
        logging.getLogger("urllib3.connectionpool"),
    )
    with logs.shown():
        log.debug("not yet")
        log.warning("careful \x07")
        assert capsys.readouterr().err == "pyctrd: warning: careful \\x07\n"
        logs.show_everything()
        log.debug("GET x: %d", 200)
        foreign.debug("with headers")
        shown = capsys.readouterr().err
        assert re.fullmatch(r"\[ *\d+\.\d{3}\] GET x: 200\n", shown)
        assert shown.count("\n") == 1
    log.warning("nobody")
    assert capsys.readouterr().err == ""
    assert logging.getLogger("pyctrd").level == logging.NOTSET


def lines_of(capsys: pytest.CaptureFixture[str], **fields: object) -> str:
    """Log a call with these fields, and return its line without the time since the start."""
    with logs.shown():
        logs.show_everything()
        logging.getLogger("pyctrd.registry").debug("the message", extra=fields)
    return capsys.readouterr().err.partition("]")[2]


def test_debug_has_columns_for_calls_and_requests(capsys: pytest.CaptureFixture[str]) -> None:
    method = "containerd.services.images.v1.Images/Get"
    assert lines_of(capsys, method=method, subject="app:v1", code="OK", seconds=0.0012) == (
        "    1.2 ms OK  Images.Get app:v1\n"
    )
    url = f"https://registry.example/v2/app/blobs/sha256:{64 * '0'}"
    assert lines_of(capsys, method="GET", url=url, status=200, bytes=2048, seconds=12.5) == (
        "   12.5 s  200 GET registry.example/v2/app/blobs/sha256:000000000000 (2.0 KiB)\n"
    )
    assert lines_of(capsys, method="GET", url="http://x/v2/", error="TimeoutError", seconds=0.1) == (
        "  100.0 ms TimeoutError GET http://x/v2/\n"
    )


def test_debug_lines_fit_on_a_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    url = f"http://registry.example/v2/{'folder/' * 20}manifests/v1"
    assert "…" not in lines_of(capsys, method="GET", url=url, status=200, seconds=0.1)
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    shown = lines_of(capsys, method="GET", url=url, status=200, seconds=0.1)
    assert shown.startswith("  100.0 ms 200 GET http://registry.example")
    assert shown.endswith("manifests/v1\n")
    assert len("[  0.123]" + shown) - 1 == 80


def test_no_output_contains_a_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also not in an error of another library, or in its traceback."""
    redact.remember("the-secret")
    for error in (
        PyctrdError("the-secret", hint="the-secret"),
        ValueError("the-secret"),
        OSError("the-secret"),
    ):
        with_outcome(monkeypatch, error)
        result = run("--debug", "images")
        assert "***" in result.stderr
        assert "the-secret" not in result.stderr

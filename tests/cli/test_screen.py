"""Questions on the terminal, and the log that --debug shows."""

from __future__ import annotations

import io
import logging
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
        logging.getLogger("pyctrd.registry.http.transport"),
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
        assert shown.startswith("debug: ")
        assert shown.endswith(" transport: GET x: 200\n")
        assert shown.count("\n") == 1
    log.warning("nobody")
    assert capsys.readouterr().err == ""
    assert logging.getLogger("pyctrd").level == logging.NOTSET


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

"""Running the command line in this process, with a client whose outcome is scripted."""

from __future__ import annotations

import io
from contextlib import redirect_stderr, redirect_stdout
from types import TracebackType
from typing import Any, NamedTuple, Self

import pytest

from pyctrd.cli.app import app


class StubClient:
    """Answers every call with the same outcome: an exception is raised, anything else given."""

    def __init__(self, outcome: object) -> None:
        self.outcome = outcome
        self.opened: list[tuple[tuple[Any, ...], dict[str, Any]]] = []
        self.calls: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = []

    def __call__(self, *arguments: Any, **named: Any) -> Self:
        self.opened.append((arguments, named))
        return self

    @property
    def images(self) -> Self:
        return self

    content = leases = namespaces = snapshots = images

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass

    def __getattr__(self, name: str) -> Any:
        def call(*arguments: Any, **named: Any) -> object:
            self.calls.append((name, arguments, named))
            if isinstance(self.outcome, BaseException):
                raise self.outcome
            return self.outcome

        return call


class Result(NamedTuple):
    """How a command line ended."""

    exit_code: int
    stdout: str
    stderr: str


def run(*arguments: str, stdin: str = "") -> Result:
    """Run a command line in this process (click's own runner keeps the streams apart only from 8.2 on)."""
    stdout, stderr = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(stdout), redirect_stderr(stderr):
        patch.setattr("sys.stdin", io.StringIO(stdin))
        with pytest.raises(SystemExit) as leaving:
            app.main(list(arguments), prog_name="pyctrd")
    assert isinstance(leaving.value.code, int)
    return Result(leaving.value.code, stdout.getvalue(), stderr.getvalue())


def with_outcome(monkeypatch: pytest.MonkeyPatch, outcome: object) -> StubClient:
    """Put a scripted client in the place of the real one."""
    stub = StubClient(outcome)
    monkeypatch.setattr("pyctrd.client.Client", stub)
    return stub

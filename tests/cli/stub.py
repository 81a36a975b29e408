"""Running the command line in this process, with a client whose outcome is scripted."""

from __future__ import annotations

from types import TracebackType
from typing import Any, Self

import pytest
from click.testing import CliRunner, Result

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


def run(*arguments: str, stdin: str | None = None) -> Result:
    """Run a command line; its streams and exit code are in the result."""
    return CliRunner().invoke(app, list(arguments), input=stdin)


def with_outcome(monkeypatch: pytest.MonkeyPatch, outcome: object) -> StubClient:
    """Put a scripted client in the place of the real one."""
    stub = StubClient(outcome)
    monkeypatch.setattr("pyctrd.client.Client", stub)
    return stub

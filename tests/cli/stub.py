"""Running the command line in this process, with a client whose outcome is scripted."""

from __future__ import annotations

import inspect
import io
from contextlib import redirect_stderr, redirect_stdout
from typing import Any, NamedTuple
from unittest import mock

import pytest

from pyctrd.cli.app import app
from pyctrd.client import Client, ContentStore, Leases, Namespaces, Snapshots
from pyctrd.images import Images


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


PARTS: dict[str, type] = {
    "images": Images,
    "content": ContentStore,
    "leases": Leases,
    "namespaces": Namespaces,
    "snapshots": Snapshots,
}


def _script(stub: Any, kind: type, outcome: object) -> Any:
    """Have every method of a stand-in end in the outcome."""
    for name, _method in inspect.getmembers(kind, inspect.isfunction):
        if not name.startswith("_") and name not in ("close", "cancel"):
            raised = outcome if isinstance(outcome, BaseException) else None
            getattr(stub, name).configure_mock(side_effect=raised, return_value=outcome)
    return stub


def with_outcome(monkeypatch: pytest.MonkeyPatch, outcome: object, kind: type = Client) -> Any:
    """Put a stand-in for Client or Registry in its place; what it does always ends in this outcome.

    An exception is raised, anything else is given. The stand-in, which is returned, takes only calls that the
    real class has the methods and parameters for. `.call_args` are the arguments it was opened with,
    `.return_value` is the client.
    """
    opened = mock.create_autospec(kind)
    client = opened.return_value
    client.__enter__.return_value = client
    _script(client, kind, outcome)
    for name, part in PARTS.items() if kind is Client else ():
        setattr(client, name, _script(mock.create_autospec(part, instance=True), part, outcome))
    monkeypatch.setattr(f"{kind.__module__}.{kind.__name__}", opened)
    return opened

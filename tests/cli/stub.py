"""Run the command line in this process, with a client that returns scripted results."""

from __future__ import annotations

import inspect
import io
from contextlib import redirect_stderr, redirect_stdout
from typing import Any, NamedTuple
from unittest import mock

import pytest

from pyctrd.cli.app import app
from pyctrd.client import Client
from pyctrd.images import Images
from pyctrd.services.content import ContentStore
from pyctrd.services.events import Events
from pyctrd.services.leases import Leases
from pyctrd.services.namespaces import Namespaces
from pyctrd.services.snapshots import Snapshots
from tests.support import schemas


class Result(NamedTuple):
    """The result of a command line."""

    exit_code: int
    stdout: str
    stderr: str


def run(*arguments: str, stdin: str = "") -> Result:
    """Run a command line in this process (click's own runner keeps the streams apart only from 8.2 on).

    JSON that it prints must match the schema of the command.
    """
    stdout, stderr = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(stdout), redirect_stderr(stderr):
        patch.setattr("sys.stdin", io.StringIO(stdin))
        with pytest.raises(SystemExit) as leaving:
            app.main(list(arguments), prog_name="pyctrd")
    assert isinstance(leaving.value.code, int)
    schemas.check_output(arguments, stdout.getvalue())
    return Result(leaving.value.code, stdout.getvalue(), stderr.getvalue())


PARTS: dict[str, type] = {
    "images": Images,
    "content": ContentStore,
    "leases": Leases,
    "namespaces": Namespaces,
    "snapshots": Snapshots,
    "events": Events,
}


def _script(stub: Any, kind: type, outcome: object) -> Any:
    """Make every method of a stub return or raise the outcome."""
    for name, _method in inspect.getmembers(kind, inspect.isfunction):
        if not name.startswith("_") and name not in ("close", "cancel"):
            raised = outcome if isinstance(outcome, BaseException) else None
            getattr(stub, name).configure_mock(side_effect=raised, return_value=outcome)
    return stub


def with_outcome(monkeypatch: pytest.MonkeyPatch, outcome: object, kind: type = Client) -> Any:
    """Replace Client or Registry by a stub whose methods always return or raise the outcome.

    An exception is raised, anything else is returned. The stub, which is returned, accepts only calls that
    match the methods and parameters of the real class. `.call_args` are the arguments it was opened with,
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

"""The options of save and ensure that name other archives."""

from __future__ import annotations

import pytest

from pyctrd.errors import InvalidInput
from tests.cli.stub import run, with_outcome
from tests.cli.test_resumed import ENSURED, SAVED


def test_archives_are_passed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    client = with_outcome(monkeypatch, SAVED).return_value
    flags = ("--since", "1.tar", "--since", "2.tar", "--from", "-")
    for more in ((), ("--dry-run",)):
        assert run("save", *flags, "-o", "x.tar", *more, "example.com/a:1").exit_code == 0
        given = client.images.save.call_args.kwargs
        assert given["since"] == ("1.tar", "2.tar")
        assert given["source"] == "-"
    assert run("save", "-o", "x.tar", "example.com/a:1").exit_code == 0
    assert client.images.save.call_args.kwargs["since"] == ()
    assert client.images.save.call_args.kwargs["source"] is None
    client = with_outcome(monkeypatch, ENSURED).return_value
    assert run("ensure", "--from", "old.tar", "example.com/a:1").exit_code == 0
    assert client.images.ensure.call_args.kwargs["source"] == "old.tar"


def test_a_printed_command_has_them(monkeypatch: pytest.MonkeyPatch) -> None:
    with_outcome(monkeypatch, SAVED)
    told = run(
        "save", "--since", "1.tar", "--since", "2.tar", "--from", "a b", "-o", "x.tar.xz", "b:1"
    ).stderr
    assert "pyctrd save --since 1.tar --since 2.tar --from 'a b' -- b:1 | xz > x.tar.xz" in told


def test_arguments_have_the_names_of_options_in_messages(monkeypatch: pytest.MonkeyPatch) -> None:
    with_outcome(monkeypatch, InvalidInput("only one of `have`, `since` and `source`"))
    done = run("save", "-o", "x.tar", "b:1")
    assert done.exit_code == 2
    assert "only one of --have, --since and --from" in done.stderr

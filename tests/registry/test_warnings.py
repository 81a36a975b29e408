"""Warning headers: each is logged once."""

from __future__ import annotations

import logging
import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pyctrd.registry.http.warnings import MAX_CHARACTERS, MAX_WARNINGS, WarningLog, texts_of
from tests.registry.conftest import RemoteMaker
from tests.registry.samples import HEADERS, MANIFEST, TAG
from tests.registry.server import Answer, ScriptedServer


def test_a_warning_is_logged_once(
    server: ScriptedServer, remote: RemoteMaker, caplog: pytest.LogCaptureFixture
) -> None:
    warned = {**HEADERS, "Warning": '299 - "This image is \\"old\\"."'}
    server.once("HEAD", TAG, Answer(200, MANIFEST, warned), Answer(200, MANIFEST, warned))
    asked = remote()
    with caplog.at_level(logging.WARNING, "pyctrd"):
        assert asked.resolve() == asked.resolve()
    assert caplog.messages == [f'{server.host} says: This image is "old".']


def test_a_warning_of_an_error_is_logged(
    server: ScriptedServer, remote: RemoteMaker, caplog: pytest.LogCaptureFixture
) -> None:
    server.always("HEAD", TAG, Answer(404, b"", {"Warning": '299 - "It moved."'}))
    with caplog.at_level(logging.WARNING, "pyctrd"), pytest.raises(Exception, match="not found"):
        remote().resolve()
    assert caplog.messages == [f"{server.host} says: It moved."]


@pytest.mark.parametrize(
    ("value", "texts"),
    [
        ('299 - "one"', ["one"]),
        (' 299 - "one", 299 - "two, \\"quoted\\"" ', ["one", 'two, "quoted"']),
        ('299 - "one\\\\"', ["one\\"]),
        ('299 - ""', []),
    ],
)
def test_the_texts_of_warnings(value: str, texts: list[str]) -> None:
    assert texts_of([value]) == texts
    assert texts_of([value, '299 - "next"']) == [*texts, "next"]


@pytest.mark.parametrize(
    "value",
    [
        "",
        "one",
        '299 - "one',
        '299 - "one" two',
        '299 - one"',
        '299 - "one\\"',
        '199 - "one"',
        '2990 - "one"',
        '299 registry.example "one"',
        '299 - "one", 199 - "two"',
        '299 - "one" "Wed, 25 Nov 2026 12:00:00 GMT"',
        f'299 - "{"x" * MAX_CHARACTERS}"',
        '299 - "' + '\\"' * 2000,
    ],
)
def test_invalid_warnings(value: str) -> None:
    assert texts_of([value]) == []


def test_the_number_of_warnings_is_limited(caplog: pytest.LogCaptureFixture) -> None:
    log = WarningLog()
    with caplog.at_level(logging.WARNING, "pyctrd"):
        for number in range(1000):
            log.log("registry.example", [f'299 - "number {number}"'])
    assert len(caplog.messages) == MAX_WARNINGS


@given(st.lists(st.text(max_size=60) | st.text(st.sampled_from('299 -",\\ab\t'), max_size=60), max_size=3))
@example(['299 - "a\\"'])
@example(['299 - "' + "\\" * 4000 + '"'])
def test_any_warning_can_be_parsed(values: list[str]) -> None:
    assert all(text.strip() for text in texts_of(values))


@given(st.lists(st.text(st.characters(codec="latin-1", exclude_categories=["Cc"]), max_size=50), max_size=4))
def test_written_warnings_are_read_back(texts: list[str]) -> None:
    line = ", ".join('299 - "' + re.sub(r'(["\\])', r"\\\1", text) + '"' for text in texts)
    assert texts_of([line]) == [text for text in texts if text.strip()]

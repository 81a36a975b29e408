"""The WWW-Authenticate header, and the error bodies of registries."""

from __future__ import annotations

import json

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pyctrd.registry.auth import challenge
from pyctrd.registry.auth.authorizer import reason_in
from pyctrd.registry.auth.challenge import Challenge


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ('Bearer realm="https://a/t",service=s', [("bearer", {"realm": "https://a/t", "service": "s"})]),
        (
            'bearer REALM = "x" , scope="a:b:pull,push c"',
            [("bearer", {"realm": "x", "scope": "a:b:pull,push c"})],
        ),
        (
            'Basic realm="a \\"b\\" \\\\", charset="UTF-8"',
            [("basic", {"realm": 'a "b" \\', "charset": "UTF-8"})],
        ),
        ('Basic realm="a", Bearer realm="b"', [("basic", {"realm": "a"}), ("bearer", {"realm": "b"})]),
        ("Negotiate, Basic", [("negotiate", {}), ("basic", {})]),
        ('Basic realm="1",realm="2"', [("basic", {"realm": "1"})]),
        ("", []),
        ('=,"', []),
    ],
)
def test_challenges(header: str, expected: list[tuple[str, dict[str, str]]]) -> None:
    assert [(one.scheme, dict(one.parameters)) for one in challenge.parse([header])] == expected


VALUES = st.text(st.characters(codec="latin-1", exclude_categories=["Cc"]))


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["bearer", "basic", "negotiate", "digest"]),
            st.dictionaries(st.from_regex(r"[a-z]{1,8}", fullmatch=True), VALUES, min_size=1),
        ),
        min_size=1,
        max_size=3,
    )
)
def test_written_challenges_are_read_back(written: list[tuple[str, dict[str, str]]]) -> None:
    def quoted(value: str) -> str:
        return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'

    line = ", ".join(
        f"{scheme} {', '.join(f'{name}={quoted(value)}' for name, value in fields.items())}"
        for scheme, fields in written
    )
    assert [(one.scheme, dict(one.parameters)) for one in challenge.parse([line])] == written


@given(st.lists(st.text(max_size=300), max_size=3))
@example(['Bearer realm="' + "\\" * 5000])
def test_any_header_can_be_parsed(headers: list[str]) -> None:
    for one in challenge.parse(headers):
        assert one.scheme == one.scheme.lower()


@given(st.permutations(["bearer", "basic", "negotiate"]))
def test_bearer_is_chosen_before_basic(schemes: list[str]) -> None:
    chosen = challenge.choose([Challenge(scheme, {"realm": "x"}) for scheme in schemes])
    assert chosen == Challenge("bearer", {"realm": "x"})
    assert challenge.choose([Challenge("negotiate")]) is None


def test_basic_is_chosen_before_bearer_without_a_token_server() -> None:
    bearer, basic = Challenge("bearer", {"service": "x"}), Challenge("basic")
    assert challenge.choose([bearer, basic]) == basic
    assert challenge.choose([bearer]) == bearer


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ({"errors": [{"code": "DENIED", "message": "no"}, {"code": "X"}]}, "DENIED: no, X"),
        ({"errors": [{"code": str(number)} for number in range(5)]}, "0, 1, 2"),
        ({"errors": {"code": "DENIED", "message": "no"}}, "DENIED: no"),
        ({"errors": {"manifest": "unknown"}}, ""),
        ({"errors": "DENIED"}, ""),
        ({"errors": None, "message": "no"}, ""),
        ({"error": "invalid_grant", "error_description": "expired"}, "invalid_grant: expired"),
        ({"details": "no such user"}, "no such user"),
        (["errors"], ""),
        (7, ""),
    ],
)
def test_the_reason_in_an_error_body(body: object, reason: str) -> None:
    assert reason_in(json.dumps(body).encode()) == reason


@given(
    st.binary(max_size=200)
    | st.recursive(
        st.none() | st.integers() | st.text(max_size=5),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(st.sampled_from(["errors", "code", "message", "detail"]), inner)
        ),
    ).map(lambda value: json.dumps(value).encode())
)
def test_any_error_body_can_be_parsed(body: bytes) -> None:
    assert reason_in(body).isprintable()

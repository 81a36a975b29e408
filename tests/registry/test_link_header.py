"""The Link header, by RFC 8288."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyctrd.registry.http.link_header import next_of


@pytest.mark.parametrize(
    ("values", "target"),
    [
        ([], None),
        ([""], None),
        ([" , ,"], None),
        (['</v2/a/tags/list?n=2&last=b>; rel="next"'], "/v2/a/tags/list?n=2&last=b"),
        (["<https://h/x>;rel=next"], "https://h/x"),
        (["< ?last=b > ; REL = NEXT ; title=x"], "?last=b"),
        (['<a>; rel="prev", <b>; rel="next"'], "b"),
        (['<a>; rel="prev"', '<b>; rel="next"'], "b"),
        (['<a>; rel="last next"'], "a"),
        (['<a,b;c>; title="x, <y>; rel=\\"next\\""; rel=next'], "a,b;c"),
        (['<a>; title="rel=next"'], None),
        (["<a>; rel=prev; rel=next"], None),
        (['<a>; rel="nextpage"'], None),
        (["<a>; rel"], None),
        (["<a>"], None),
        (['<a>; rel=next; anchor="/elsewhere"'], None),
        (['<a>; rel="next";'], "a"),
        (["<>; rel=next"], ""),
        (["<a>; rel=next, <b>; rel=next"], "a"),
    ],
)
def test_the_next_page(values: list[str], target: str | None) -> None:
    assert next_of(values) == target


@pytest.mark.parametrize(
    "value", ["/v2/a; rel=next", "<a", "x<a>; rel=next", '<b>; rel="next', "<a> rel=next"]
)
def test_invalid_link_headers(value: str) -> None:
    with pytest.raises(ValueError, match="not a list of links"):
        next_of([value])


@given(st.text(st.sampled_from('<>;,="\\ \tnextrel*'), max_size=60) | st.text())
def test_any_header_can_be_parsed(value: str) -> None:
    with suppress(ValueError):
        next_of([value])


def test_a_long_header_takes_no_time() -> None:
    for piece in ("<", "<a>;", '<a>; rel="\\', " ,", "<a>; rel=x, ", "<a> ", ';="'):
        with suppress(ValueError):
            next_of([piece * 20_000])


TOKENS = st.from_regex(r"[a-z]{1,8}", fullmatch=True)
LINKS = st.tuples(
    st.text(st.characters(codec="latin-1", exclude_characters="<>", exclude_categories=["Cc"])).map(
        str.strip
    ),
    st.dictionaries(TOKENS, st.text(st.characters(codec="latin-1", exclude_categories=["Cc"])), max_size=3),
)


@given(st.lists(LINKS, max_size=4))
def test_written_links_are_read_back(written: list[tuple[str, dict[str, str]]]) -> None:
    def quoted(value: str) -> str:
        return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'

    line = ", ".join(
        f"<{target}>" + "".join(f"; {name}={quoted(value)}" for name, value in parameters.items())
        for target, parameters in written
    )
    wanted = [
        target
        for target, parameters in written
        if "next" in parameters.get("rel", "").lower().split() and "anchor" not in parameters
    ]
    assert next_of([line]) == (wanted[0] if wanted else None)
    assert next_of([*([line] * bool(written)), '<last>; rel="next"']) == (wanted[0] if wanted else "last")

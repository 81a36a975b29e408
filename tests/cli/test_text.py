"""Formatting of sizes and times, and escaping of text."""

from __future__ import annotations

import datetime as dt

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from pyctrd.cli.text import count, is_visible, moment, sanitize, short, size

# Controls the terminal, changes the direction of the text, or has no width.
HARMFUL = "\x00\x1b\x7f\x9b\xad\u0600\u061c\u180e\u200b\u200d\u200e\u202e\u2028\u2060\u2066\ufeff\ufff9\ud800"
# Blank, although not a control or format character by category.
BLANK = "\u034f\u115f\u17b4\u180b\u2800\u3164\ufe0f\uffa0\U000e0100"


@given(st.text())
@example(HARMFUL + BLANK + "\U000e0001\U000e0041\U0001d173\ue000\xa0\u2003\u3000")
def test_sanitized_text_is_visible(text: str) -> None:
    clean = sanitize(text)
    assert clean.isprintable()
    assert not set(clean) & set(BLANK)


@pytest.mark.parametrize("char", HARMFUL + BLANK + "\U000e0041\xa0\u2003")
def test_invisible_characters_are_escaped(char: str) -> None:
    shown = sanitize(f"al{char}pine")
    assert shown not in ("alpine", f"al{char}pine")
    assert shown.encode("ascii").decode("unicode_escape") == f"al{char}pine"


@given(st.text(st.characters(categories=["L", "N", "P", "S"], exclude_characters=BLANK)))
@example("Ünï日本語한국어עבריתไทย✓")
def test_ordinary_text_of_any_script_is_unchanged(text: str) -> None:
    assume(all(map(is_visible, text)))
    assert sanitize(text) == text


@pytest.mark.parametrize(
    ("raw", "shown"),
    [
        ("\x1b[31mred", r"\x1b[31mred"),
        ("a\nb", r"a\x0ab"),
        ("\x9b2J", r"\x9b2J"),
        ("abc\u202egpj", r"abc\u202egpj"),
        ("\u2028", r"\u2028"),
        ("a\U000e0041b", r"a\U000e0041b"),
        ("é ✓ 日本", "é ✓ 日本"),
    ],
)
def test_escapes_are_readable(raw: str, shown: str) -> None:
    assert sanitize(raw) == shown


def test_a_traceback_keeps_its_lines() -> None:
    assert sanitize("a\n\x1bb\n", keep="\n") == "a\n\\x1bb\n"


@pytest.mark.parametrize(
    ("number", "shown"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (1536, "1.5 KiB"),
        (1024**2 - 1, "1.0 MiB"),
        (1024**2, "1.0 MiB"),
        (5 * 1024**3, "5.0 GiB"),
        (1024**6, "1024.0 PiB"),
    ],
)
def test_sizes(number: int, shown: str) -> None:
    assert size(number) == shown


@given(st.integers(0, 2**63 - 1))
def test_sizes_are_short(number: int) -> None:
    assert len(size(number)) <= 10


def test_times_are_in_utc() -> None:
    zone = dt.timezone(dt.timedelta(hours=2))
    assert moment(dt.datetime(2026, 11, 24, 4, 32, 34, 999, zone)) == "2026-11-24T02:32:34Z"
    assert moment(None) == ""


def test_counts_have_plurals_and_digests_are_shortened() -> None:
    assert [count(number, "blob") for number in (0, 1, 2)] == ["0 blobs", "1 blob", "2 blobs"]
    assert short("sha256:" + "ab" * 32) == "sha256:abababababab"

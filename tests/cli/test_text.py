"""Sizes, times, and text that can't steer a terminal."""

from __future__ import annotations

import datetime as dt
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyctrd.cli.text import count, moment, sanitize, short, size


@given(st.text())
def test_no_control_character_survives(text: str) -> None:
    clean = sanitize(text)
    assert not [char for char in clean if unicodedata.category(char) in ("Cc", "Cs", "Zl", "Zp")]


@given(st.text(st.characters(categories=["L", "N", "P", "S"])))
def test_ordinary_text_of_any_script_stays(text: str) -> None:
    assert sanitize(text) == text


@pytest.mark.parametrize(
    ("raw", "shown"),
    [
        ("\x1b[31mred", r"\x1b[31mred"),
        ("a\nb", r"a\x0ab"),
        ("\x9b2J", r"\x9b2J"),
        ("abc\u202egpj", r"abc\u202egpj"),
        ("\u2028", r"\u2028"),
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


def test_moments_are_utc() -> None:
    zone = dt.timezone(dt.timedelta(hours=2))
    assert moment(dt.datetime(2026, 11, 24, 4, 32, 34, 999, zone)) == "2026-11-24T02:32:34Z"
    assert moment(None) == ""


def test_small_words() -> None:
    assert [count(number, "blob") for number in (0, 1, 2)] == ["0 blobs", "1 blob", "2 blobs"]
    assert short("sha256:" + "ab" * 32) == "sha256:abababababab"

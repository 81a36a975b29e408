"""Remembered secrets are removed from texts in every spelling."""

from __future__ import annotations

import base64
import html
import json
import logging
from collections.abc import Callable, Iterator
from urllib.parse import quote, quote_plus

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyctrd import redact

# Long enough to be found in base64, and not part of the words around it.
SECRETS = st.text(min_size=8, max_size=40).map(lambda text: f"§{text}§{text[::-1]}")
WRITERS: list[Callable[[str], str]] = [
    str,
    quote,
    quote_plus,
    lambda text: quote(text, safe=""),
    json.dumps,
    lambda text: json.dumps(text, ensure_ascii=False),
    html.escape,
    repr,
]


@given(SECRETS, st.sampled_from(WRITERS))
def test_every_spelling_is_redacted(secret: str, write: Callable[[str], str]) -> None:
    redact.remember(secret)
    struck = redact.strike(f"before {write(secret)} after")
    assert write(secret).strip("'\"") not in struck
    assert secret not in struck
    assert struck.startswith("before ")
    assert struck.endswith(" after")


@given(st.binary(max_size=7), SECRETS, st.binary(max_size=7))
def test_base64_of_a_longer_text_is_redacted(before: bytes, secret: str, after: bytes) -> None:
    redact.remember(secret)
    whole = before + secret.encode() + after
    for encode in (base64.b64encode, base64.urlsafe_b64encode):
        struck = redact.strike(encode(whole).decode())
        # What remains encodes the surrounding bytes, and characters that share a base64 digit with them.
        assert len(struck) <= (len(before) + len(after)) * 4 // 3 + 12


def test_lower_case_percent_encoding_is_redacted() -> None:
    redact.remember("pa:ss+wörd&x")
    assert redact.strike("?password=pa%3ass%2bw%c3%b6rd%26x") == "?password=***"


def test_longer_secrets_are_redacted_first() -> None:
    redact.remember("hush", "hush-hush")
    assert redact.strike("hush-hush hush") == "*** ***"


def test_secrets_that_are_too_short_are_not_redacted() -> None:
    redact.remember("", "a", "abc")
    assert redact.strike("abc") == "abc"


def test_the_number_of_remembered_secrets_is_limited_to_the_recently_used() -> None:
    redact.remember("password")
    for number in range(1000):
        redact.remember(f"token-{number}", "password")
    assert redact.strike("password token-0 token-999") == "*** token-0 ***"


def test_a_truncated_secret_is_redacted() -> None:
    redact.remember("opaque-token-0123456789-0123456789")
    assert (
        redact.strike("sent 'opaque-token-0123456789-0' twice: opaque-token-012") == "sent '***' twice: ***"
    )
    assert redact.strike("opaque-token-01") == "opaque-token-01"


@given(SECRETS, st.integers(16, 80))
def test_no_long_prefix_of_a_secret_remains(secret: str, length: int) -> None:
    redact.remember(secret)
    assert secret[:16] not in redact.strike(f"<{secret[:length]}>") or len(secret) < 16


def test_an_excerpt_is_redacted_before_it_is_shortened() -> None:
    redact.remember("0123456789")
    assert redact.excerpt("xx\n0123456789 yy", 8) == "xx *** y"


@pytest.fixture
def records() -> Iterator[list[logging.LogRecord]]:
    """Records that an application's handler on the root logger gets, at every level."""
    found: list[logging.LogRecord] = []

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            found.append(record)

    handler, root = Handler(), logging.getLogger()
    level = root.level
    root.addHandler(handler)
    root.setLevel(logging.NOTSET)
    yield found
    root.removeHandler(handler)
    root.setLevel(level)


def test_log_handlers_get_no_secrets(records: list[logging.LogRecord]) -> None:
    redact.remember("the-secret")
    log = redact.logger("pyctrd.test")
    log.warning("%s and %s", "the-secret", ["the-secret"])
    try:
        raise ValueError("the-secret")
    except ValueError:
        log.exception("the-secret")
    text = "".join(logging.Formatter().format(record) + repr(vars(record)) for record in records)
    assert len(records) == 2
    assert "Traceback" in text
    assert "the-secret" not in text
    assert redact.logger("pyctrd.test").filters == log.filters
    assert len(log.filters) == 1


def test_surrogates_are_redacted() -> None:
    redact.remember("\udcff\ud800 xyz")
    assert redact.strike("a \udcff\ud800 xyz b") == "a *** b"

"""Proxies from the environment, and the pauses between attempts."""

from __future__ import annotations

import email.utils

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyctrd.registry.config.proxy import choose, without_secrets
from pyctrd.registry.http.retry import LONGEST_PAUSE_SECONDS, parse_retry_after, seconds_to_wait


@pytest.mark.parametrize(
    ("host", "direct"),
    [
        ("example.org", False),
        ("localhost:5000", True),
        ("127.0.0.2", True),
        ("[::1]:5000", True),
        ("corp.example", True),
        ("a.corp.example:443", True),
        ("notcorp.example", False),
        ("10.1.2.3:5000", True),
        ("11.1.2.3", False),
        ("one.example:81", True),
        ("one.example:82", False),
        ("dot.example", False),
        ("a.dot.example", True),
        ("dot.star.example", True),
        ("star.example", False),
        ("standard.example", True),
        ("standard.example:443", True),
        ("standard.example:444", False),
        ("[fd00::1]:5000", True),
        ("[fd00::2]", False),
        ("12.0.0.1:5000", True),
        ("12.0.0.1:5001", False),
    ],
)
def test_proxies(monkeypatch: pytest.MonkeyPatch, host: str, direct: bool) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "proxy:3128")
    monkeypatch.setenv(
        "NO_PROXY",
        " corp.example, 10.0.0.0/8 ,one.example:81,.dot.example,,bad/99, *.star.example,:5000,"
        "standard.example:443,fd00::1,12.0.0.1:5000",
    )
    assert choose("https", host).url == (None if direct else "http://proxy:3128")
    assert choose("http", host).url is None
    monkeypatch.setenv("NO_PROXY", "*")
    assert choose("https", host).url is None


def test_a_proxy_has_the_variable_that_it_comes_from() -> None:
    environ = {"https_proxy": "http://low:1", "HTTPS_PROXY": "http://high:1", "no_proxy": "a.org,10.0.0.0/8"}
    found = choose("https", "x.org", environ)
    assert (found.url, found.variable, found.excluded_by) == ("http://high:1", "HTTPS_PROXY", "")
    found = choose("https", "10.1.1.1:5000", environ)
    assert (found.url, found.variable, found.excluded_by) == (None, "HTTPS_PROXY", "no_proxy: 10.0.0.0/8")
    assert choose("https", "localhost:5000", environ).excluded_by == "loopback"
    assert choose("http", "x.org", environ) == choose("https", "x.org", {})
    assert choose("http", "x.org", {"HTTP_PROXY": "p:1", "REQUEST_METHOD": "GET"}).url is None


@given(st.text(max_size=30), st.text(max_size=30))
def test_any_value_of_a_variable_is_accepted(no_proxy: str, proxy: str) -> None:
    choose("https", "example.org:5000", {"HTTPS_PROXY": proxy, "NO_PROXY": no_proxy})


def test_urls_are_shown_without_secrets() -> None:
    assert without_secrets("https://me:pw@x:1/a?sig=1#f") == "https://x:1/a"


# --- pauses -----------------------------------------------------------------------------------------------


def test_retry_after() -> None:
    now = 1_700_000_000.0
    assert parse_retry_after(" 7 ", now=now) == 7
    assert parse_retry_after(email.utils.formatdate(now + 30, usegmt=True), now=now) == 30
    assert parse_retry_after(email.utils.formatdate(now - 30, usegmt=True), now=now) == 0


@given(st.text(max_size=40))
def test_any_retry_after_can_be_parsed(text: str) -> None:
    found = parse_retry_after(text, now=1.7e9)
    assert found is None or found >= 0


@given(st.integers(1, 10_000))
def test_backoff_grows_and_is_bounded(attempt: int) -> None:
    waited = seconds_to_wait(attempt)
    assert 0 < waited <= min(LONGEST_PAUSE_SECONDS, 2.0 ** min(attempt - 2, 10))

"""The endpoints of a registry without configuration."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyctrd.registry.config.endpoints import Tls, plan, split_port
from pyctrd.registry.config.hosts_toml import ALL_CAPABILITIES


@pytest.mark.parametrize(
    ("domain", "url"),
    [
        ("docker.io", "https://registry-1.docker.io/v2/a/b"),
        ("example.org", "https://example.org/v2/a/b"),
        ("example.org:5000", "https://example.org:5000/v2/a/b"),
        ("localhost", "http://localhost/v2/a/b"),
        ("localhost:5000", "http://localhost:5000/v2/a/b"),
        ("127.0.0.1:5000", "http://127.0.0.1:5000/v2/a/b"),
        ("127.9.9.9:80", "http://127.9.9.9:80/v2/a/b"),
        ("[::1]:5000", "http://[::1]:5000/v2/a/b"),
        ("localhost:443", "https://localhost:443/v2/a/b"),
        ("[fd00::1]:5000", "https://[fd00::1]:5000/v2/a/b"),
        ("128.0.0.1", "https://128.0.0.1/v2/a/b"),
        ("localhost.example", "https://localhost.example/v2/a/b"),
    ],
)
def test_defaults(domain: str, url: str) -> None:
    (found,) = plan(domain).endpoints
    assert found.url("a/b") == url
    assert found.account == domain
    assert found.is_own
    assert not found.is_mirror
    assert found.capabilities == ALL_CAPABILITIES
    (plain,) = plan(domain, plain_http=True).endpoints
    assert plain.url("a/b") == url.replace("https:", "http:")


def test_skip_verify() -> None:
    (found,) = plan("example.org", skip_verify=True).endpoints
    assert found.tls == Tls(skip_verify=True)
    (both,) = plan("localhost:5000", skip_verify=True).endpoints
    assert (both.scheme, both.plain_fallback) == ("https", True)
    (plain,) = plan("localhost:80", skip_verify=True).endpoints
    assert (plain.scheme, plain.plain_fallback) == ("http", False)


@given(
    st.from_regex(r"[a-z][a-z0-9.-]{0,9}|\[[0-9a-f:]{2,9}\]", fullmatch=True),
    st.none() | st.integers(1, 65535),
)
def test_ports_are_split_off(host: str, port: int | None) -> None:
    assert split_port(f"{host}:{port}" if port else host) == (host, str(port) if port else "")

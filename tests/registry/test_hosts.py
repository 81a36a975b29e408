"""hosts.toml and certificate folders to endpoints; proxies; waiting times."""

from __future__ import annotations

import email.utils
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyctrd.errors import InvalidInput
from pyctrd.registry import RegistryClient, RegistryOptions
from pyctrd.registry.backoff import LONGEST_SECONDS, parse_retry_after, seconds_to_wait
from pyctrd.registry.hosts import (
    ALL_CAPABILITIES,
    Endpoint,
    HostDirectory,
    Tls,
    directory_names,
    endpoints,
    load,
    split_port,
)
from pyctrd.registry.proxy import proxy_for, without_secrets

HERE = Path("/certs/example.org")


def from_toml(text: str, domain: str = "example.org") -> tuple[Endpoint, ...]:
    return endpoints(domain, directory=HostDirectory(HERE, text, ("hosts.toml",)))


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
    (found,) = endpoints(domain)
    assert found.url("a/b") == url
    assert found.account == domain
    assert found.is_own
    assert not found.is_mirror
    assert found.capabilities == ALL_CAPABILITIES
    (plain,) = endpoints(domain, plain_http=True)
    assert plain.url("a/b") == url.replace("https:", "http:")


def test_skip_verify() -> None:
    (found,) = endpoints("example.org", skip_verify=True)
    assert found.tls == Tls(skip_verify=True)
    assert [one.scheme for one in endpoints("localhost:5000", skip_verify=True)] == ["https", "http"]


def test_order_of_directories(tmp_path: Path) -> None:
    assert directory_names("example.org:5000") == ("example.org_5000_", "example.org:5000", "_default")
    assert directory_names("example.org") == ("example.org", "_default")
    for name in reversed(directory_names("example.org:5000")):
        (tmp_path / name).mkdir()
        found = load([tmp_path / "absent", tmp_path], "example.org:5000")
        assert found is not None
        assert found.path.name == name
    assert load([tmp_path / "absent"], "example.org") is None


def test_a_whole_hosts_toml() -> None:
    text = """
server = "https://registry.example.org"
capabilities = ["push"]

[host."https://mirror.one:8443/some/path"]
  capabilities = ["pull", "resolve"]
  ca = ["one.crt", "/abs/two.crt"]
  client = [["c.cert", "c.key"], ["only.pem", ""]]
  dial_timeout = "1m30s"
  [host."https://mirror.one:8443/some/path".header]
    x-one = ["a", "b"]
    x-two = "c"

[host."mirror.two"]
  capabilities = ["pull"]
  client = "both.pem"

[host."http://mirror.three/v2/prefix"]
  override_path = true
  skip_verify = true

[host."https://example.org/v2/"]
"""
    one, two, three, four, server = from_toml(text)
    assert one.url("a", "blobs", "d") == "https://mirror.one:8443/some/path/v2/a/blobs/d?ns=example.org"
    assert one.tls.ca_files == ("/certs/example.org/one.crt", "/abs/two.crt")
    assert one.tls.client_certs == (
        ("/certs/example.org/c.cert", "/certs/example.org/c.key"),
        ("/certs/example.org/only.pem", ""),
    )
    assert one.headers == (("x-one", "a"), ("x-one", "b"), ("x-two", "c"))
    assert one.dial_timeout == 90
    assert one.capabilities == {"pull", "resolve"}
    assert one.account == "mirror.one:8443"
    assert not one.is_own
    assert one.origin == "/certs/example.org/hosts.toml:5"
    assert two.url("a") == "https://mirror.two/v2/a?ns=example.org"
    assert two.tls.client_certs == (("/certs/example.org/both.pem", ""),)
    assert three.url("a") == "http://mirror.three/v2/prefix/a?ns=example.org"
    assert three.tls.skip_verify
    assert four.url("a") == "https://example.org/v2/a"
    assert four.is_own
    assert server.url("a") == "https://registry.example.org/v2/a?ns=example.org"
    assert server.capabilities == {"push"}
    assert (server.account, server.is_own) == ("example.org", True)
    assert server.origin == "/certs/example.org/hosts.toml:2"


def test_the_default_server_is_always_asked_last() -> None:
    mirror, server = from_toml('[host."https://m"]', "docker.io")
    assert mirror.url("a") == "https://m/v2/a?ns=docker.io"
    assert server.url("a") == "https://registry-1.docker.io/v2/a"
    assert [one.url("a") for one in from_toml("")] == ["https://example.org/v2/a"]


def test_the_file_may_name_docker_hub_as_people_know_it() -> None:
    (server,) = from_toml('server = "https://docker.io"', "docker.io")
    assert server.url("a") == "https://registry-1.docker.io/v2/a"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("server = ", "hosts.toml: "),
        ("server = 5", "server is not a string"),
        ('server = "https://me:pw@x"', "is not the URL of a host"),
        ('server = "https://x?a=b"', "is not the URL of a host"),
        ('server = "https://["', "is not"),
        ('server = "https://a b"', "is not the URL of a host"),
        ("host = 3", "invalid `host` tree"),
        ('[host]\n"https://m" = 3', "is not a table"),
        ('[host."https://m"]\ncapabilities = ["fly"]', "hosts.toml:1: unknown capability 'fly'"),
        ('\n[host."https://m"]\ncapabilities = 3', "hosts.toml:2: capabilities is not"),
        ('[host."https://m"]\nca = 3', "ca is not"),
        ('[host."https://m"]\nclient = [["a", "b", "c"]]', "client wants"),
        ('[host."https://m"]\nskip_verify = "yes"', "skip_verify is not true or false"),
        ('[host."https://m"]\ndial_timeout = "soon"', "dial_timeout 'soon' is not a duration"),
        ('[host."https://m"]\ndial_timeout = 3', "is not a duration"),
        ('[host."https://m"]\ndial_timeout = "0s"', "is out of range"),
        ('[host."https://m"]\nheader = 3', "header is not a table"),
        ('[host."https://m".header]\n"a b" = "x"', "characters that HTTP does not allow"),
        ('[host."https://m".header]\na = "hush\\r\\nX: y"', "characters that HTTP does not allow"),
    ],
)
def test_a_bad_hosts_toml_says_what_and_where(text: str, message: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        from_toml(text)
    assert message in str(caught.value)
    assert str(HERE) in str(caught.value)
    assert "hush" not in str(caught.value)


def test_certificates_without_hosts_toml() -> None:
    directory = HostDirectory(HERE, None, ("a.crt", "b.crt", "c.cert", "c.key", "readme"))
    (found,) = endpoints("localhost:5000", directory=directory)
    assert found.tls.ca_files == ("/certs/example.org/a.crt", "/certs/example.org/b.crt")
    assert found.tls.client_certs == (("/certs/example.org/c.cert", "/certs/example.org/c.key"),)
    assert found.scheme == "https"  # whoever gives a CA means TLS, also for this machine
    with pytest.raises(InvalidInput, match=r"missing key c\.key"):
        endpoints("example.org", directory=HostDirectory(HERE, None, ("c.cert",)))


def test_hosts_dir_must_exist(tmp_path: Path) -> None:
    with (
        RegistryClient(RegistryOptions(hosts_dir=tmp_path / "absent")) as client,
        pytest.raises(InvalidInput, match="is not a directory"),
    ):
        client.endpoints("example.org")


def test_hosts_toml_that_is_not_text(tmp_path: Path) -> None:
    (tmp_path / "_default").mkdir()
    (tmp_path / "_default" / "hosts.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(InvalidInput, match="cannot read the host configuration"):
        load([tmp_path], "example.org")


LINES = st.sampled_from(
    [
        "server",
        "host",
        '[host."https://m"]',
        "ca",
        "client",
        "header",
        "capabilities",
        "=",
        '"x"',
        "[",
        "]",
        "3",
        "dial_timeout",
        "override_path",
        "true",
        "\n",
        "{",
        "}",
        ".",
        '"1m"',
        '"https://["',
        '"pull"',
        ",",
    ]
)


@given(st.lists(LINES, max_size=14).map(" ".join) | st.text(max_size=60))
def test_no_hosts_toml_breaks_us(text: str) -> None:
    try:
        found = from_toml(text)
    except InvalidInput:
        return
    assert found[-1].is_own


@given(
    st.from_regex(r"[a-z][a-z0-9.-]{0,9}|\[[0-9a-f:]{2,9}\]", fullmatch=True),
    st.none() | st.integers(1, 65535),
)
def test_ports_split_off(host: str, port: int | None) -> None:
    assert split_port(f"{host}:{port}" if port else host) == (host, str(port) if port else "")


# --- proxies ----------------------------------------------------------------------------------------------


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
        ("dot.example", True),
        ("a.dot.example", True),
    ],
)
def test_proxies(monkeypatch: pytest.MonkeyPatch, host: str, direct: bool) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "proxy:3128")
    monkeypatch.setenv("NO_PROXY", " corp.example, 10.0.0.0/8 ,one.example:81,.dot.example,,bad/99")
    assert proxy_for("https", host) == (None if direct else "http://proxy:3128")
    assert proxy_for("http", host) is None
    monkeypatch.setenv("NO_PROXY", "*")
    assert proxy_for("https", host) is None


def test_urls_are_shown_without_secrets() -> None:
    assert without_secrets("https://me:pw@x:1/a?sig=1#f") == "https://x:1/a"


# --- waiting ----------------------------------------------------------------------------------------------


def test_retry_after() -> None:
    now = 1_700_000_000.0
    assert parse_retry_after(" 7 ", now=now) == 7
    assert parse_retry_after(email.utils.formatdate(now + 30, usegmt=True), now=now) == 30
    assert parse_retry_after(email.utils.formatdate(now - 30, usegmt=True), now=now) == 0


@given(st.text(max_size=40))
def test_no_retry_after_breaks_us(text: str) -> None:
    found = parse_retry_after(text, now=1.7e9)
    assert found is None or found >= 0


@given(st.integers(1, 10_000))
def test_backoff_grows_and_is_bounded(attempt: int) -> None:
    waited = seconds_to_wait(attempt, "", now=0.0)
    assert 0 < waited <= min(LONGEST_SECONDS, 2.0 ** min(attempt - 2, 10))

"""Endpoints of a hosts.toml: every key, and every mistake."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyctrd.errors import InvalidInput
from pyctrd.registry import RegistryClient, RegistryOptions
from pyctrd.registry.config.endpoints import Endpoint, HostDirectory, Tls, plan

HERE = Path("/certs/example.org")


def from_toml(text: str, domain: str = "example.org") -> tuple[Endpoint, ...]:
    return plan(domain, directory=HostDirectory(HERE, text, ("hosts.toml",))).endpoints


def test_a_whole_hosts_toml() -> None:
    text = """
server = "https://registry.example.org"
capabilities = ["push"]

[host."https://mirror.one:8443/some/path"]
  capabilities = ["pull", "resolve"]
  ca = ["one.crt", "/abs/two.crt"]
  client = [["c.cert", "c.key"], ["only.pem", ""]]
  dial_timeout = "1m30s"
  proxy = "http://me:hush@proxy:3128"
  [host."https://mirror.one:8443/some/path".header]
    x-one = ["a", "b"]
    x-two = "c"

[host."mirror.two"]
  capabilities = ["pull"]
  client = ["both.pem", "other.pem"]

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
    assert (one.proxy, one.proxy_origin) == (
        "http://me:hush@proxy:3128",
        "/certs/example.org/hosts.toml:10",
    )
    assert "hush" not in repr(one)
    assert two.url("a") == "https://mirror.two/v2/a?ns=example.org"
    assert two.tls.client_certs == (
        ("/certs/example.org/both.pem", ""),
        ("/certs/example.org/other.pem", ""),
    )
    assert three.url("a") == "https://mirror.three/v2/prefix/a?ns=example.org"
    assert three.plain_fallback
    assert three.tls.skip_verify
    assert four.url("a") == "https://example.org/v2/a"
    assert four.is_own
    assert server.url("a") == "https://registry.example.org/v2/a?ns=example.org"
    assert server.capabilities == {"push"}
    # Such a host gets its own credentials, not those of the registry that it mirrors.
    assert (server.account, server.is_own) == ("registry.example.org", False)
    assert server.origin == "/certs/example.org/hosts.toml:2"


@pytest.mark.parametrize(
    ("client", "pairs"),
    [
        ('"a.pem"', [("a.pem", "")]),
        ('["a.pem", "b.pem"]', [("a.pem", ""), ("b.pem", "")]),
        (
            '[["a.cert", "a.key"], ["b.pem", ""], "c.pem"]',
            [("a.cert", "a.key"), ("b.pem", ""), ("c.pem", "")],
        ),
    ],
)
def test_client_certificates_in_all_three_shapes(client: str, pairs: list[tuple[str, str]]) -> None:
    mirror = from_toml(f'[host."https://m"]\nclient = {client}')[0]
    full = tuple((str(HERE / name), str(HERE / key) if key else "") for name, key in pairs)
    assert mirror.tls.client_certs == full


@pytest.mark.parametrize(
    ("url", "override", "prefix"),
    [
        ("https://m", False, "/v2"),
        ("https://m/", False, "/v2"),
        ("https://m/v2", False, "/v2"),
        ("https://m/v2/", False, "/v2"),
        ("https://m/a//b/", False, "/a/b/v2"),
        ("https://m/v2/a", False, "/v2/a/v2"),
        ("https://m", True, ""),
        ("https://m/", True, ""),
        ("https://m/v2/a", True, "/v2/a"),
    ],
)
def test_paths(url: str, override: bool, prefix: str) -> None:
    assert from_toml(f'[host."{url}"]\noverride_path = {str(override).lower()}')[0].prefix == prefix


def test_http_with_settings_for_tls_tries_tls_first() -> None:
    """Like containerd (hosts.go, NewHTTPFallback): such a table is an old habit or a mistake."""
    text = '[host."http://m:5000"]\n{}\n[host."http://m:80"]\nskip_verify = true\n[host."http://n:5000"]'
    for key in ("skip_verify = true", "skip_verify = false", 'ca = "x"', 'client = "x"'):
        first, port_80, without, _server = from_toml(text.format(key))
        assert (first.scheme, first.plain_fallback) == ("https", True)
        assert (port_80.scheme, port_80.plain_fallback) == ("http", False)
        assert (without.scheme, without.plain_fallback) == ("http", False)
    directory = HostDirectory(HERE, '[host."http://m:5000"]')
    mirror, _server = plan("example.org", skip_verify=True, directory=directory).endpoints
    assert (mirror.scheme, mirror.plain_fallback, mirror.tls.skip_verify) == ("https", True, True)


def test_the_root_section_describes_the_registry_itself() -> None:
    text = 'ca = "ca.crt"\ndial_timeout = "1s"\n[header]\nx-a = "b"'
    (server,) = from_toml(text, "localhost:5000")
    assert server.url("a") == "https://localhost:5000/v2/a"  # a CA means TLS
    assert server.tls.ca_files == ("/certs/example.org/ca.crt",)
    assert (server.dial_timeout, server.headers, server.is_own) == (1, (("x-a", "b"),), True)
    assert server.origin == "default, /certs/example.org/hosts.toml names no server"
    (server,) = from_toml("skip_verify = true", "localhost:5000")
    assert (server.scheme, server.plain_fallback, server.tls) == ("https", True, Tls(skip_verify=True))
    (server,) = from_toml(text, "docker.io")
    assert (server.host, server.account) == ("registry-1.docker.io", "docker.io")


def test_hosts_are_in_the_order_of_the_file_even_if_a_header_table_comes_first() -> None:
    text = '[host."https://z"]\n[host."https://a".header]\nx = "y"\n[host."https://m"]\n[host."https://a"]'
    assert [one.host for one in from_toml(text)] == ["z", "a", "m", "example.org"]


def test_keys_and_capabilities_in_any_case() -> None:
    """Like Go's decoder."""
    mirror, server = from_toml('Server = "https://s"\n[host."https://m"]\nCapabilities = ["Pull"]')
    assert mirror.capabilities == {"pull"}
    assert server.host == "s"


def test_referrers_is_a_capability() -> None:
    assert from_toml('[host."https://m"]\ncapabilities = ["referrers"]')[0].capabilities == {"referrers"}


@pytest.mark.parametrize(
    ("text", "notice"),
    [
        ("skip-verify = true", "1: unknown key 'skip-verify' has no effect; did you mean skip_verify?"),
        (
            '[host."https://m"]\n\ncapability = []',
            "3: unknown key 'capability' has no effect; did you mean cap",
        ),
        ('[host."https://m"]\nserver = "x"', "2: unknown key 'server' has no effect"),
        (
            '[host."https://m".host."https://n"]',
            "1: unknown key 'host' has no effect: a mirror has no mirrors",
        ),
        ("[plugins]\na = 1", "1: unknown key 'plugins' has no effect"),
        ('[header]\nHost = "x"', "2: header 'Host' has no effect"),
    ],
)
def test_keys_that_containerd_ignores_are_warnings(text: str, notice: str) -> None:
    found = plan("example.org", directory=HostDirectory(HERE, text))
    assert len(found.warnings) == 1
    assert found.warnings[0].startswith(f"/certs/example.org/hosts.toml:{notice}")
    assert found.endpoints[-1].headers == ()


def test_a_typo_is_one_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "_default").mkdir()
    (tmp_path / "_default" / "hosts.toml").write_text("skip_verifi = true")
    with RegistryClient(RegistryOptions(hosts_dir=tmp_path)) as client:
        client.endpoints("example.org")
        client.endpoints("example.org")
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "hosts.toml:1: unknown key" in caplog.text


@pytest.mark.parametrize(
    ("text", "urls"),
    [
        # Written by the configurator of Spegel.
        (
            (
                "server = 'https://docker.io'\n\n[host]\n[host.'http://10.0.0.7:30020']\n"
                "capabilities = ['pull', 'resolve']\ndial_timeout = '200ms'\n"
            ),
            ["http://10.0.0.7:30020/v2", "https://registry-1.docker.io/v2"],
        ),
        # Written by k3s.
        (
            (
                'server = "https://registry-1.docker.io/v2"\ncapabilities = ["pull", "resolve", "push"]\n\n'
                '[host]\n  [host."https://cache.example.com/v2"]\n    capabilities = ["pull", "resolve"]\n'
            ),
            ["https://cache.example.com/v2", "https://registry-1.docker.io/v2"],
        ),
        # A project of Harbor that is a proxy cache.
        (
            '[host."https://harbor.example.com/v2/hub-proxy"]\n  override_path = true\n',
            ["https://harbor.example.com/v2/hub-proxy", "https://registry-1.docker.io/v2"],
        ),
        # Dragonfly's daemon on each node.
        (
            (
                'server = "https://index.docker.io"\n[host."http://127.0.0.1:4001"]\n'
                '  capabilities = ["pull", "resolve"]\n  [host."http://127.0.0.1:4001".header]\n'
                '    X-Dragonfly-Registry = ["https://index.docker.io"]\n'
            ),
            ["http://127.0.0.1:4001/v2", "https://index.docker.io/v2"],
        ),
    ],
    ids=["spegel", "k3s", "harbor", "dragonfly"],
)
def test_files_of_real_machines(text: str, urls: list[str]) -> None:
    found = plan("docker.io", directory=HostDirectory(HERE, text))
    assert [item.url("")[:-1].partition("?")[0].rstrip("/") for item in found.endpoints] == urls
    assert found.warnings == ()
    assert not any(item.plain_fallback for item in found.endpoints)


def test_the_example_of_the_documentation() -> None:
    page = (Path(__file__).parent.parent.parent / "docs" / "registries.md").read_text("utf-8")
    text = page.partition("```toml\n")[2].partition("```")[0]
    found = plan("registry.example.com", directory=HostDirectory(HERE, text))
    assert found.warnings == ()
    mirror, server = found.endpoints
    assert (mirror.host, mirror.dial_timeout, mirror.headers) == (
        "mirror.example.com:8443",
        2,
        (("x-team", "storage"),),
    )
    assert mirror.capabilities == {"pull", "resolve"}
    assert (server.host, server.is_own, server.tls.ca_files) == (
        "registry.example.com",
        True,
        (str(HERE / "ca.pem"),),
    )


def test_the_default_server_is_always_last() -> None:
    mirror, server = from_toml('[host."https://m"]', "docker.io")
    assert mirror.url("a") == "https://m/v2/a?ns=docker.io"
    assert server.url("a") == "https://registry-1.docker.io/v2/a"
    assert [one.url("a") for one in from_toml("")] == ["https://example.org/v2/a"]


def test_docker_io_means_docker_hub() -> None:
    (server,) = from_toml('server = "https://docker.io"', "docker.io")
    assert server.url("a") == "https://registry-1.docker.io/v2/a"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("server = ", "hosts.toml:1: not valid TOML: "),
        ("# one\n\nserver = = 5", "hosts.toml:3: not valid TOML: "),
        ("a = 1\na = 2", "hosts.toml:2: not valid TOML: "),
        ("\nserver = 5", "hosts.toml:2: server is not a string"),
        ('server = "https://me:pw@x"', "is not the URL of a host"),
        ('server = "https://x?a=b"', "is not the URL of a host"),
        ('server = "https://["', "is not"),
        ('server = "https://a b"', "is not the URL of a host"),
        ("host = 3", "invalid `host` tree"),
        ('[host]\n"https://m" = 3', "is not a table"),
        ('[host."https://m"]\ncapabilities = ["fly"]', "hosts.toml:2: unknown capability 'fly'"),
        ('\n[host."https://m"]\ncapabilities = 3', "hosts.toml:3: capabilities is not"),
        ('[host."https://m2"]\n[host."https://m"]\nca = 3', "hosts.toml:3: ca is not"),
        ('[host]\n"https://m" = {ca = 3}', "hosts.toml:2: ca is not"),
        ('[host."https://m"]\nca = "a\\u0000b"', "ca has a NUL"),
        ('[host."https://m"]\nproxy = 3', "proxy is not a string"),
        (
            '[host."https://m"]\nproxy = "socks5://me:hush@p:1"',
            "hosts.toml:2: a SOCKS proxy is not supported",
        ),
        ('[host."https://m"]\nproxy = "p:3128"', "proxy is not the URL of a proxy"),
        ('[host."https://m"]\nproxy = "http://me:hush@p/path"', "proxy is not the URL of a proxy"),
        ('[host."https://m"]\nproxy = "http://p:99999"', "proxy is not a URL"),
        ('[host."https://m"]\nca = 3', "ca is not"),
        ('[host."https://m"]\nclient = [["a", "b", "c"]]', "client must be"),
        ('[host."https://m"]\nskip_verify = "yes"', "skip_verify is not true or false"),
        ('[host."https://m"]\ndial_timeout = "soon"', "dial_timeout 'soon' is not a duration"),
        ('[host."https://m"]\ndial_timeout = 3', "is not a duration"),
        ('[host."https://m"]\ndial_timeout = "0s"', "is out of range"),
        ('[host."https://m"]\nheader = 3', "header is not a table"),
        ('[host."https://m".header]\n"a b" = "x"', "characters that HTTP does not allow"),
        ('[host."https://m".header]\na = "hush\\r\\nX: y"', "characters that HTTP does not allow"),
    ],
)
def test_errors_in_hosts_toml_have_file_and_line(text: str, message: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        from_toml(text)
    assert message in str(caught.value)
    assert str(HERE) in str(caught.value)
    assert "hush" not in str(caught.value)


def test_certificates_without_hosts_toml() -> None:
    directory = HostDirectory(HERE, None, ("a.crt", "b.crt", "c.cert", "c.key", "readme"))
    (found,) = plan("localhost:5000", directory=directory).endpoints
    assert found.tls.ca_files == ("/certs/example.org/a.crt", "/certs/example.org/b.crt")
    assert found.tls.client_certs == (("/certs/example.org/c.cert", "/certs/example.org/c.key"),)
    assert found.scheme == "https"  # a CA means TLS, also for this machine
    # Like containerd: the certificate may contain its key.
    (found,) = plan("example.org", directory=HostDirectory(HERE, None, ("c.cert",))).endpoints
    assert found.tls.client_certs == (("/certs/example.org/c.cert", ""),)


def test_hosts_dir_must_exist(tmp_path: Path) -> None:
    with (
        RegistryClient(RegistryOptions(hosts_dir=tmp_path / "absent")) as client,
        pytest.raises(InvalidInput, match="is not a directory"),
    ):
        client.endpoints("example.org")


LINES = st.sampled_from(
    [
        "server",
        "host",
        '[host."https://m"]',
        "ca",
        "proxy",
        "skip_verify",
        '[host."https://m".header]',
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
def test_any_hosts_toml_is_valid_or_an_invalid_input(text: str) -> None:
    try:
        found = from_toml(text)
    except InvalidInput:
        return
    assert found[-1].is_own or found[-1].is_mirror


SCALARS = (
    st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=9)
)
VALUES = st.recursive(
    SCALARS | st.sampled_from(["pull", "1s", "https://h", "a.pem", "http://p:1", "x-a"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner, max_size=3),
    max_leaves=6,
)
KEYS = (
    "capabilities",
    "ca",
    "client",
    "skip_verify",
    "header",
    "override_path",
    "dial_timeout",
    "proxy",
    "server",
)
TABLES = st.dictionaries(st.sampled_from(KEYS) | st.text(max_size=9), VALUES, max_size=5)


def written(value: object) -> str:
    """Write a value as TOML."""
    if isinstance(value, dict):
        return f"{{{', '.join(f'{written(key)} = {written(item)}' for key, item in value.items())}}}"
    if isinstance(value, list):
        return f"[{', '.join(map(written, value))}]"
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


@given(
    TABLES,
    st.dictionaries(st.sampled_from(["https://m", "m:5000"]) | st.text(max_size=9), TABLES, max_size=3),
)
def test_any_values_are_valid_or_an_invalid_input(root: dict[str, object], hosts: dict[str, object]) -> None:
    lines = [f"{written(key)} = {written(value)}" for key, value in {**root, "host": hosts}.items()]
    problem = ""
    try:
        found = from_toml("\n".join(lines))
    except InvalidInput as error:
        problem = error.message
    if problem:
        assert re.match(r"/certs/example\.org/hosts\.toml:\d+: ", problem)
        return
    assert len(found) == len(hosts) + 1
    for endpoint in found:
        assert endpoint.url("a/b", "blobs", "d").isprintable()

"""The endpoints of a repository, from flags and hosts.toml. No IO: `certs_d` reads the files.

`hosts_toml` parses the file. Sources: containerd docs/hosts.md,
core/remotes/docker/config/hosts.go (ConfigureHosts); the Docker layout (`*.crt`, `*.cert` with `*.key`) is
from the Docker registry certificates guide.
"""

from __future__ import annotations

import ipaddress
from pathlib import Path
from typing import Final, TypeAlias
from urllib.parse import urlsplit

import msgspec

from pyctrd.registry.config import hosts_toml
from pyctrd.registry.config.hosts_toml import ALL_CAPABILITIES, HostsFile, HostTable
from pyctrd.registry.values import Confidential

PLAIN_HTTP_FLAG: Final = "--plain-http"
DOCKER_HUB: Final = "docker.io"
DOCKER_HUB_HOST: Final = "registry-1.docker.io"
_HUB_HOSTS: Final = frozenset({DOCKER_HUB_HOST, "index.docker.io"})

Origin: TypeAlias = tuple[str, str | None, int]
"""Scheme, host and port."""


class Tls(msgspec.Struct, frozen=True):
    """How a server's certificate is verified, and the client certificates to show (paths of PEM files)."""

    ca_files: tuple[str, ...] = ()
    client_certs: tuple[tuple[str, str], ...] = ()
    skip_verify: bool = False


NO_TLS: Final = Tls()


class Endpoint(Confidential, frozen=True):
    """One host that may serve a repository.

    `host` is host[:port], `prefix` the path of the API (`/v2` unless overridden), `account` the host whose
    credentials are sent, `is_own` whether it is the registry that the reference names (for which `-u` is
    given), `namespace` the registry that a mirror stands for (sent as `?ns=`) or "", `dial_timeout` seconds
    or None, `proxy` the URL of a proxy that hosts.toml names, `plain_fallback` whether plain HTTP is used if
    the host turns out to have no TLS, `origin` where this entry comes from, for messages.
    """

    HIDDEN = frozenset({"headers", "proxy"})

    scheme: str
    host: str
    account: str
    prefix: str = "/v2"
    capabilities: frozenset[str] = ALL_CAPABILITIES
    tls: Tls = NO_TLS
    headers: tuple[tuple[str, str], ...] = ()  # they may contain a token
    is_own: bool = False
    namespace: str = ""
    dial_timeout: float | None = None
    proxy: str = ""  # it may contain a password
    proxy_origin: str = ""
    plain_fallback: bool = False
    origin: str = "default"

    @property
    def is_mirror(self) -> bool:
        """Whether this host serves on behalf of another registry."""
        return bool(self.namespace)

    @property
    def base(self) -> str:
        """Scheme and host[:port] as a URL."""
        return f"{self.scheme}://{self.host}"

    @property
    def origins(self) -> frozenset[Origin]:
        """The origin of the host, and the one without TLS if plain HTTP is allowed, too."""
        plain = {origin_of(self.base.replace("https:", "http:", 1))} if self.plain_fallback else set()
        return frozenset({origin_of(self.base), *plain})

    @property
    def tls_hint(self) -> str:
        """What to change if this host uses TLS but was requested over plain HTTP."""
        if self.origin == PLAIN_HTTP_FLAG:
            return "Do not use `plain_http` for it."
        if "/hosts.toml:" in self.origin:
            return f"Write https:// in {self.origin}."
        return (
            f"A registry on this machine is asked over plain HTTP unless its CA is in "
            f"/etc/containerd/certs.d/{self.host}/ca.crt (or `hosts_dir`): put it there, or use "
            "`skip_verify`."
        )

    def url(self, repository: str, *parts: str) -> str:
        """Return the URL of an object of a repository, e.g. `url("a/b", "manifests", "latest")`."""
        query = f"?ns={self.namespace}" if self.namespace else ""
        return f"{self.scheme}://{self.host}{'/'.join((self.prefix, repository, *parts))}{query}"


def is_url_text(text: str) -> bool:
    """Whether a text has only characters of a URL: ASCII without spaces and line breaks (RFC 3986)."""
    return text.isascii() and text.isprintable() and " " not in text


def origin_of(url: str) -> Origin:
    """Return the origin of a URL (RFC 6454). Raises ValueError for an invalid port."""
    parts = urlsplit(url)
    return parts.scheme, parts.hostname, parts.port or (443 if parts.scheme == "https" else 80)


class HostDirectory(msgspec.Struct, frozen=True):
    """The content of one host's configuration directory; `hosts_toml` is None if there is no such file."""

    path: Path
    hosts_toml: str | None = None
    files: tuple[str, ...] = ()


class Plan(msgspec.Struct, frozen=True):
    """The endpoints of a registry, in order, and warnings about settings without effect."""

    endpoints: tuple[Endpoint, ...]
    warnings: tuple[str, ...] = ()


def split_port(host: str) -> tuple[str, str]:
    """Split host[:port], with IPv6 hosts in brackets, into host and port ("" if there is none)."""
    head, colon, port = host.rpartition(":")
    if not colon or not port.isdigit():
        return host, ""
    return head, port


def is_loopback(host: str) -> bool:
    """Whether host[:port] names this machine: localhost, 127.0.0.0/8 or [::1]."""
    name = split_port(host)[0].strip("[]").lower()
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def plan(
    domain: str,
    *,
    plain_http: bool = False,
    skip_verify: bool = False,
    directory: HostDirectory | None = None,
) -> Plan:
    """List the endpoints of a registry, in order; `domain` is the reference's host[:port].

    Mirrors come in the order of the file, then the registry's own server, as in containerd. Raises
    InvalidInput with file:line for a hosts.toml that is not what containerd documents.
    """
    flags = _Flags(plain_http, skip_verify)
    if directory is None:
        return Plan((_default(domain, flags, NO_TLS),))
    if directory.hosts_toml is None:
        own = _default(domain, flags, _tls_of_files(directory))
        return Plan((msgspec.structs.replace(own, origin=own.origin if plain_http else str(directory.path)),))
    file = hosts_toml.parse(directory.hosts_toml, directory.path / "hosts.toml")
    mirrors = tuple(_from_table(domain, table, flags) for table in file.hosts)
    return Plan((*mirrors, _server(domain, file, flags)), file.warnings)


class _Flags(msgspec.Struct, frozen=True):
    """Options for every host (`skip_verify`) and for the registry's own (`plain_http`)."""

    plain_http: bool
    skip_verify: bool


def _default(domain: str, flags: _Flags, tls: Tls) -> Endpoint:
    """Return the endpoint of a registry without configuration, except perhaps TLS files."""
    host = DOCKER_HUB_HOST if domain == DOCKER_HUB else domain
    if flags.plain_http:
        return Endpoint("http", host, account=domain, is_own=True, origin=PLAIN_HTTP_FLAG)
    port = split_port(host)[1]
    # Plain HTTP is used for a loopback registry, unless there are TLS settings for it.
    plain = is_loopback(host) and port != "443" and tls == NO_TLS
    tls = msgspec.structs.replace(tls, skip_verify=tls.skip_verify or flags.skip_verify)
    own = Endpoint("http" if plain else "https", host, account=domain, is_own=True, tls=tls)
    # `-k` is also used for registries without TLS; try both, as ctr does.
    return _tls_first(own) if plain and flags.skip_verify else own


def _tls_first(endpoint: Endpoint) -> Endpoint:
    """Try TLS first if plain HTTP and TLS settings contradict each other (containerd NewHTTPFallback)."""
    if split_port(endpoint.host)[1] == "80":
        return endpoint
    return msgspec.structs.replace(endpoint, scheme="https", plain_fallback=True)


def _tls_of_files(directory: HostDirectory) -> Tls:
    """Read the Docker layout; a client certificate without a key file must contain its key."""
    pairs = []
    for name in directory.files:
        if name.endswith(".cert"):
            key = f"{name.removesuffix('.cert')}.key"
            pairs.append(
                (str(directory.path / name), str(directory.path / key) if key in directory.files else "")
            )
    authorities = tuple(str(directory.path / name) for name in directory.files if name.endswith(".crt"))
    return Tls(authorities, tuple(pairs))


def _server(domain: str, file: HostsFile, flags: _Flags) -> Endpoint:
    """Return the last endpoint: `server`, else the registry itself with the settings of the root section."""
    if file.root.host:
        return _from_table(domain, file.root, flags)
    # `skip_verify` alone means the same as `-k`: there may be no TLS at all.
    flags = msgspec.structs.replace(flags, skip_verify=flags.skip_verify or file.root.skip_verify)
    own = _default(domain, flags, msgspec.structs.replace(_tls_of_table(file.root), skip_verify=False))
    settings = msgspec.structs.replace(
        _from_table(domain, file.root, flags), scheme=own.scheme, host=own.host, tls=own.tls
    )
    origin = (
        own.origin if flags.plain_http else f"default, {file.root.where.rpartition(':')[0]} names no server"
    )
    return msgspec.structs.replace(
        settings,
        prefix=own.prefix,
        account=domain,
        is_own=True,
        namespace="",
        plain_fallback=own.plain_fallback,
        origin=origin,
    )


def _from_table(domain: str, table: HostTable, flags: _Flags) -> Endpoint:
    host = DOCKER_HUB_HOST if table.host == DOCKER_HUB else table.host
    same = host == domain or (domain == DOCKER_HUB and host in _HUB_HOSTS)
    tls = _tls_of_table(table)
    endpoint = Endpoint(
        table.scheme,
        host,
        # Credentials are looked up for the host that gets them, since anyone may run a `server` elsewhere.
        account=domain if same else host,
        is_own=same,
        prefix=table.path,
        capabilities=table.capabilities,
        tls=msgspec.structs.replace(tls, skip_verify=tls.skip_verify or flags.skip_verify),
        headers=table.headers,
        namespace="" if same else domain,
        dial_timeout=table.dial_timeout,
        proxy=table.proxy,
        proxy_origin=table.proxy_where,
        origin=table.where,
    )
    contradiction = table.scheme == "http" and (table.explicit_tls or flags.skip_verify)
    return _tls_first(endpoint) if contradiction else endpoint


def _tls_of_table(table: HostTable) -> Tls:
    return Tls(table.ca_files, table.client_certs, table.skip_verify)

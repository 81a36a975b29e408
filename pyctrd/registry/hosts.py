"""Which endpoints to ask for a repository, in which order, and how: flags and hosts.toml to a list of values.

`load` is the only part that touches the disk. Sources: containerd docs/hosts.md, core/remotes/docker/config/
hosts.go; the Docker layout (`*.crt`, `*.cert` with `*.key`) is from the Docker registry certificates guide.
"""

from __future__ import annotations

import ipaddress
import re
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from pyctrd.errors import InvalidInput

DOCKER_HUB: Final = "docker.io"
DOCKER_HUB_HOST: Final = "registry-1.docker.io"
ALL_CAPABILITIES: Final = frozenset({"pull", "resolve", "push", "referrers"})
_KNOWN: Final = ", ".join(sorted(ALL_CAPABILITIES))

_DURATION_UNITS: Final = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_DURATION_PART = re.compile(r"(\d+(?:\.\d+)?)(ns|us|µs|ms|s|m|h)")
_HOST = re.compile(r"(?:[0-9A-Za-z._-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?")
_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_HEADER_VALUE = re.compile(r"[\t\x20-\x7e]*")


@dataclass(frozen=True)
class Tls:
    """How the other end of a TLS connection is checked, and who we say that we are (PEM file paths)."""

    ca_files: tuple[str, ...] = ()
    client_certs: tuple[tuple[str, str], ...] = ()
    skip_verify: bool = False


NO_TLS: Final = Tls()


@dataclass(frozen=True)
class Endpoint:
    """One place that may serve a repository.

    `host` is host[:port], `prefix` the API's path (`/v2` unless overridden), `account` the host whose
    credentials belong here, `is_own` whether it is the reference's own registry (for which `-u` is given),
    `namespace` the registry that another host stands for (sent as `?ns=`) or "", `dial_timeout` seconds or
    None, `origin` where this entry comes from, for people.
    """

    scheme: str
    host: str
    account: str
    prefix: str = "/v2"
    capabilities: frozenset[str] = ALL_CAPABILITIES
    tls: Tls = NO_TLS
    headers: tuple[tuple[str, str], ...] = field(default=(), repr=False)  # they may hold a token
    override_path: bool = False
    is_own: bool = False
    namespace: str = ""
    dial_timeout: float | None = None
    origin: str = "default"

    @property
    def is_mirror(self) -> bool:
        """Tell whether this host serves on behalf of another registry."""
        return bool(self.namespace)

    @property
    def base(self) -> str:
        """Scheme and host[:port] as a URL."""
        return f"{self.scheme}://{self.host}"

    def url(self, repository: str, *parts: str) -> str:
        """Give the URL of an object of a repository, e.g. `url("a/b", "manifests", "latest")`."""
        query = f"?ns={self.namespace}" if self.namespace else ""
        return f"{self.scheme}://{self.host}{'/'.join((self.prefix, repository, *parts))}{query}"


@dataclass(frozen=True)
class HostDirectory:
    """The texts of one host's configuration directory; `hosts_toml` None when it has no such file."""

    path: Path
    hosts_toml: str | None = None
    files: tuple[str, ...] = ()


# --- the disk ---------------------------------------------------------------------------------------------


def directory_names(domain: str) -> tuple[str, ...]:
    """Give the directory names to look up, in order (containerd config/config_unix.go hostPaths)."""
    host, port = split_port(domain)
    names = (f"{host}_{port}_",) if port else ()
    return (*names, domain, "_default")


def load(roots: Iterable[Path], domain: str) -> HostDirectory | None:
    """Read the first directory that exists for this registry; raises InvalidInput when it cannot be read."""
    for root in roots:
        for name in directory_names(domain):
            path = root / name
            if path.is_dir():
                return _read_directory(path)
    return None


def _read_directory(path: Path) -> HostDirectory:
    try:
        files = tuple(sorted(entry.name for entry in path.iterdir() if entry.is_file()))
        text = (path / "hosts.toml").read_text("utf-8") if "hosts.toml" in files else None
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInput(f"cannot read the host configuration in {path}: {error}") from error
    return HostDirectory(path, text, files)


# --- pure -------------------------------------------------------------------------------------------------


def split_port(host: str) -> tuple[str, str]:
    """Split host[:port], with IPv6 hosts in brackets, into host and port ("" when there is none)."""
    head, colon, port = host.rpartition(":")
    if not colon or not port.isdigit():
        return host, ""
    return head, port


def is_loopback(host: str) -> bool:
    """Tell whether host[:port] names this machine: localhost, 127.0.0.0/8 or [::1]."""
    name = split_port(host)[0].strip("[]").lower()
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def endpoints(
    domain: str,
    *,
    plain_http: bool = False,
    skip_verify: bool = False,
    directory: HostDirectory | None = None,
) -> tuple[Endpoint, ...]:
    """List the endpoints of a registry, first choice first; `domain` is the reference's host[:port].

    Mirrors come in file order, then the registry's own server, as containerd has it. Raises InvalidInput
    for a hosts.toml that is not what containerd documents.
    """
    if directory is None:
        found: tuple[Endpoint, ...] = _default(domain, plain_http, skip_verify, NO_TLS)
    elif directory.hosts_toml is None:
        found = _from_certificates(domain, plain_http, skip_verify, directory)
    else:
        found = _from_toml(domain, plain_http, skip_verify, directory, directory.hosts_toml)
    if not skip_verify:
        return found
    return tuple(replace(item, tls=replace(item.tls, skip_verify=True)) for item in found)


def _default(domain: str, plain_http: bool, skip_verify: bool, tls: Tls) -> tuple[Endpoint, ...]:
    host = DOCKER_HUB_HOST if domain == DOCKER_HUB else domain
    if plain_http:
        return (Endpoint("http", host, account=domain, is_own=True, origin="--plain-http"),)
    secure = Endpoint("https", host, account=domain, is_own=True, tls=tls)
    # A loopback registry speaks plain HTTP, unless something says that TLS is meant there.
    if not is_loopback(host) or split_port(host)[1] == "443" or tls != NO_TLS:
        return (secure,)
    plain = replace(secure, scheme="http")
    # `-k` is given out of habit to plain registries, too; ctr tries both, so do we.
    return (secure, plain) if skip_verify else (plain,)


def _from_certificates(
    domain: str, plain_http: bool, skip_verify: bool, directory: HostDirectory
) -> tuple[Endpoint, ...]:
    authorities = [name for name in directory.files if name.endswith(".crt")]
    pairs = []
    for name in directory.files:
        if name.endswith(".cert"):
            key = f"{name.removesuffix('.cert')}.key"
            if key not in directory.files:
                raise InvalidInput(f"{directory.path / name}: missing key {key} for the client certificate")
            pairs.append((str(directory.path / name), str(directory.path / key)))
    tls = Tls(tuple(str(directory.path / name) for name in authorities), tuple(pairs))
    found = _default(domain, plain_http, skip_verify, tls)
    return tuple(replace(item, origin=str(directory.path)) for item in found)


def _from_toml(
    domain: str, plain_http: bool, skip_verify: bool, directory: HostDirectory, text: str
) -> tuple[Endpoint, ...]:
    path = directory.path / "hosts.toml"
    try:
        document = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError, ValueError) as error:
        raise InvalidInput(f"{path}: {error}") from error
    tables = document.get("host", {})
    if not isinstance(tables, dict):
        raise InvalidInput(f'{path}: invalid `host` tree: expected tables [host."URL"]')
    found = []
    for url, table in tables.items():
        where = f"{path}:{_line_of(text, url)}"
        if not isinstance(table, dict):
            raise InvalidInput(f"{where}: [host.{url!r}] is not a table")
        found.append(_entry(domain, url, table, directory.path, where))
    server = document.get("server")
    if server is None:
        fallback = _default(domain, plain_http, skip_verify, NO_TLS)
        # The file's root section describes the server even when it does not name it.
        root = _settings(document, directory.path, str(path))
        return (*found, *(replace(item, **root) for item in fallback))
    where = f"{path}:{_line_of(text, 'server')}"
    own = _entry(domain, _text(server, "server", where), document, directory.path, where)
    return (*found, replace(own, account=domain, is_own=True))


def _entry(domain: str, url: str, table: Mapping[str, Any], base: Path, where: str) -> Endpoint:
    try:
        parts = urlsplit(url if url.startswith(("http:", "https:")) else f"https://{url}")
    except ValueError as error:
        raise InvalidInput(f"{where}: {url!r} is not a URL: {error}") from error
    host = parts.netloc
    if parts.scheme not in ("http", "https") or not _HOST.fullmatch(host) or parts.query or parts.fragment:
        raise InvalidInput(f"{where}: {url!r} is not the URL of a host (http or https, no user, no query)")
    override = _boolean(table.get("override_path", False), "override_path", where)
    host = DOCKER_HUB_HOST if host == DOCKER_HUB else host
    same = host == domain or (domain, host) == (DOCKER_HUB, DOCKER_HUB_HOST)
    return Endpoint(
        parts.scheme,
        host,
        account=domain if same else host,
        is_own=same,
        prefix=_prefix(parts.path, override),
        namespace="" if same else domain,
        override_path=override,
        **_settings(table, base, where),
    )


def _prefix(path: str, override: bool) -> str:
    trimmed = path.rstrip("/")
    return trimmed if override or trimmed.endswith("/v2") else f"{trimmed}/v2"


def _settings(table: Mapping[str, Any], base: Path, where: str) -> dict[str, Any]:
    """Read the keys that a [host] table and the file's root have in common, as Endpoint's fields."""
    tls = Tls(
        ca_files=tuple(str(base / name) for name in _texts(table.get("ca", []), "ca", where)),
        client_certs=tuple(_client_pairs(table.get("client", []), base, where)),
        skip_verify=_boolean(table.get("skip_verify", False), "skip_verify", where),
    )
    return {
        "capabilities": _capabilities(table.get("capabilities"), where),
        "tls": tls,
        "headers": tuple(_headers(table.get("header", {}), where)),
        "dial_timeout": _duration(table.get("dial_timeout"), where),
        "origin": where,
    }


def _capabilities(value: Any, where: str) -> frozenset[str]:
    names = frozenset(_texts(value or [], "capabilities", where))
    if unknown := names - ALL_CAPABILITIES:
        raise InvalidInput(f"{where}: unknown capability {min(unknown)!r} (known: {_KNOWN})")
    return names or ALL_CAPABILITIES


def _client_pairs(value: Any, base: Path, where: str) -> list[tuple[str, str]]:
    """Read `client`: one file with certificate and key, several such, or pairs [certificate, key]."""
    if isinstance(value, str):
        return [(str(base / value), "")]
    pairs = []
    for item in value if isinstance(value, list) else [value]:
        files = [item] if isinstance(item, str) else _texts(item, "client", where)
        if not 1 <= len(files) <= 2:
            raise InvalidInput(f"{where}: client wants a file, or a pair of certificate and key")
        key = str(base / files[1]) if len(files) == 2 and files[1] else ""
        pairs.append((str(base / files[0]), key))
    return pairs


def _headers(value: Any, where: str) -> list[tuple[str, str]]:
    if not isinstance(value, dict):
        raise InvalidInput(f"{where}: header is not a table")
    found = []
    for name, values in value.items():
        for item in _texts(values, f"header {name!r}", where):
            # The value stays out of the message: it may be a token.
            if not _HEADER_NAME.fullmatch(name) or not _HEADER_VALUE.fullmatch(item):
                raise InvalidInput(f"{where}: header {name!r} has characters that HTTP does not allow")
            found.append((name, item))
    return found


def _duration(value: Any, where: str) -> float | None:
    """Read a Go duration (`30s`, `1m30s`, `500ms`) as seconds."""
    if value is None:
        return None
    parts = _DURATION_PART.findall(value) if isinstance(value, str) else []
    if not parts or "".join(number + unit for number, unit in parts) != value:
        raise InvalidInput(f"{where}: dial_timeout {value!r} is not a duration (like 30s or 1m30s)")
    seconds = sum(float(number) * _DURATION_UNITS[unit] for number, unit in parts)
    if not 0 < seconds < 86400:
        raise InvalidInput(f"{where}: dial_timeout {value!r} is out of range")
    return seconds


def _text(value: Any, name: str, where: str) -> str:
    if not isinstance(value, str):
        raise InvalidInput(f"{where}: {name} is not a string")
    return value


def _texts(value: Any, name: str, where: str) -> Sequence[str]:
    values = [value] if isinstance(value, str) else value
    if not isinstance(values, list) or not all(isinstance(item, str) for item in values):
        raise InvalidInput(f"{where}: {name} is not a string or a list of strings")
    return values


def _boolean(value: Any, name: str, where: str) -> bool:
    if not isinstance(value, bool):
        raise InvalidInput(f"{where}: {name} is not true or false")
    return value


def _line_of(text: str, key: str) -> int:
    """Find the line that a key stands on (tomllib does not keep it); 1 when it is written otherwise."""
    pattern = re.compile(r"\s*[\"']?server[\"']?\s*=" if key == "server" else rf"\s*\[.*{re.escape(key)}")
    for number, line in enumerate(text.splitlines(), start=1):
        if pattern.match(line):
            return number
    return 1

"""Parse hosts.toml into values that know their line. No IO.

Sources: containerd docs/hosts.md, core/remotes/docker/config/hosts.go (parseHostsFile). A file that
containerd skips with a line in its log is an error here; a key that it ignores silently gets a warning.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import msgspec

from pyctrd.errors import InvalidInput
from pyctrd.registry.values import Confidential

ALL_CAPABILITIES: Final = frozenset({"pull", "resolve", "push", "referrers"})

_SETTINGS: Final = frozenset(
    {"capabilities", "ca", "client", "skip_verify", "header", "override_path", "dial_timeout", "proxy"}
)
_ROOT_KEYS: Final = _SETTINGS | {"server", "host"}
_TLS_KEYS: Final = frozenset({"ca", "client", "skip_verify"})
# Headers that the HTTP client sets itself; Go's client ignores them in a table, too.
_OWN_HEADERS: Final = frozenset(
    {"host", "range", "content-length", "transfer-encoding", "connection", "accept-encoding"}
)
_DURATION_UNITS: Final = {
    "ns": 1e-9,
    "us": 1e-6,
    "µs": 1e-6,  # U+00B5, micro sign
    "μs": 1e-6,  # U+03BC, Greek letter mu: Go accepts both
    "ms": 1e-3,
    "s": 1.0,
    "m": 60.0,
    "h": 3600.0,
}
_DURATION_PART: Final = r"(\d{1,9}(?:\.\d{0,9})?|\.\d{1,9})(ns|us|µs|μs|ms|s|m|h)"
_HOST: Final = r"(?:[0-9A-Za-z._-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?"
_HEADER_NAME: Final = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_HEADER_VALUE: Final = r"[\t\x20-\x7e]*"
_PATH: Final = r"[!-~]*"

_KEY = r"(?:\"(?:[^\"\\]|\\.)*\"|'[^']*'|[A-Za-z0-9_-]+)"
_HEADER_LINE: Final = rf"\s*\[\s*({_KEY}(?:\s*\.\s*{_KEY})*)\s*\]\s*(?:#.*)?"
_KEY_LINE: Final = rf"\s*({_KEY}(?:\s*\.\s*{_KEY})*)\s*="
# host, its URL, header, a name: no setting is nested deeper.
_DEEPEST: Final = 4
_DECODER_PLACE: Final = r" \(at (?:line (\d+), column \d+|end of document)\)"


class HostTable(Confidential, frozen=True):
    """A `[host."URL"]` table, or the file's root section (`host` is "" when that names no server).

    `path` is the path of the API, `explicit_tls` whether any TLS key is set, even `skip_verify = false`;
    `dial_timeout` is in seconds or None, `proxy` a URL or "", `where` file:line.
    """

    HIDDEN = frozenset({"headers", "proxy"})

    where: str
    scheme: str = "https"
    host: str = ""
    path: str = "/v2"
    capabilities: frozenset[str] = ALL_CAPABILITIES
    ca_files: tuple[str, ...] = ()
    client_certs: tuple[tuple[str, str], ...] = ()
    skip_verify: bool = False
    explicit_tls: bool = False
    headers: tuple[tuple[str, str], ...] = ()  # they may contain a token
    dial_timeout: float | None = None
    proxy: str = ""  # it may contain a password
    proxy_where: str = ""


class HostsFile(msgspec.Struct, frozen=True):
    """A whole file: its tables in order, its root section, and warnings about keys without effect."""

    hosts: tuple[HostTable, ...]
    root: HostTable
    warnings: tuple[str, ...] = ()


def parse(text: str, path: Path) -> HostsFile:
    """Parse the text of the file at `path`. Raises InvalidInput with file:line for invalid settings."""
    document = _decoded(text, path)
    warnings: list[str] = []
    reader = _Reader(path, _lines(text), warnings)
    tables = document.get("host", {})
    if not isinstance(tables, dict):
        raise reader.error(("host",), 'invalid `host` tree: expected tables [host."URL"]')
    hosts = []
    for url, table in tables.items():
        if not isinstance(table, dict):
            raise reader.error(("host", url), f"[host.{url!r}] is not a table")
        hosts.append(reader.table(("host", url), url, table))
    server = document.get("server", "")
    if not isinstance(server, str):
        raise reader.error(("server",), "server is not a string")
    return HostsFile(tuple(hosts), reader.table((), server, document), tuple(warnings))


def _decoded(text: str, path: Path) -> dict[str, Any]:
    import tomllib

    try:
        document = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError, ValueError) as error:
        message = str(error)
        place = re.search(_DECODER_PLACE, message)
        line = (place and place[1]) or text.count("\n") + 1
        raise InvalidInput(f"{path}:{line}: not valid TOML: {re.sub(_DECODER_PLACE, '', message)}") from error
    # Go's decoder ignores the case of keys.
    return _folded(document, _ROOT_KEYS)


def _folded(table: Mapping[str, Any], known: frozenset[str]) -> dict[str, Any]:
    found = {key.lower(): value for key, value in table.items() if key.lower() in known}
    return found | {key: value for key, value in table.items() if key.lower() not in known or key in known}


class _Reader:
    """Reads the tables of one file, and knows the lines of its keys."""

    def __init__(self, path: Path, lines: Mapping[tuple[str, ...], int], warnings: list[str]) -> None:
        self._path = path
        self._base = path.parent
        self._lines = lines
        self._warnings = warnings

    def where(self, keys: tuple[str, ...]) -> str:
        """Return file:line of a key, or of the table around it if its own line was not found."""
        for length in range(len(keys), 0, -1):
            line = self._lines.get(tuple(key.lower() for key in keys[:length]))
            if line:
                return f"{self._path}:{line}"
        return f"{self._path}:1"

    def error(self, keys: tuple[str, ...], text: str) -> InvalidInput:
        """Return the error for a key."""
        return InvalidInput(f"{self.where(keys)}: {text}")

    def table(self, at: tuple[str, ...], url: str, raw: Mapping[str, Any]) -> HostTable:
        """Read the table at the keys `at`, which configures the host at `url`."""
        known = _SETTINGS if at else _ROOT_KEYS
        table = _folded(raw, known)
        for key in table:
            if key not in known:
                self._warn_unknown((*at, key), known)
        override = self._boolean(table, at, "override_path")
        place = at or ("server",)
        scheme, host, path = (
            self._address(url, place, override=override) if url or at else ("https", "", "/v2")
        )
        proxy = self._proxy(table, at)
        return HostTable(
            where=self.where(place),
            scheme=scheme,
            host=host,
            path=path,
            capabilities=self._capabilities(table, at),
            ca_files=tuple(str(self._base / name) for name in self._texts(table.get("ca", []), (*at, "ca"))),
            client_certs=tuple(self._client_pairs(table, at)),
            skip_verify=self._boolean(table, at, "skip_verify"),
            explicit_tls=bool(_TLS_KEYS & table.keys()),
            headers=tuple(self._headers(table, at)),
            dial_timeout=self._duration(table, at),
            proxy=proxy,
            proxy_where=self.where((*at, "proxy")) if proxy else "",
        )

    def _warn_unknown(self, keys: tuple[str, ...], known: frozenset[str]) -> None:
        import difflib

        near = difflib.get_close_matches(keys[-1].lower().replace("-", "_"), sorted(known), n=1)
        meant = f"; did you mean {near[0]}?" if near else ""
        if keys[-1] == "host":
            meant = ": a mirror has no mirrors of its own"
        self._warnings.append(f"{self.where(keys)}: unknown key {keys[-1]!r} has no effect{meant}")

    def _address(self, url: str, at: tuple[str, ...], *, override: bool) -> tuple[str, str, str]:
        try:
            parts = urlsplit(url if url.startswith(("http:", "https:")) else f"https://{url}")
        except ValueError as error:
            raise self.error(at, f"{url!r} is not a URL: {error}") from error
        odd = parts.query or parts.fragment or not re.fullmatch(_PATH, parts.path)
        if parts.scheme not in ("http", "https") or not re.fullmatch(_HOST, parts.netloc) or odd:
            # The URL is not quoted if it may contain a password.
            shown = "this" if "@" in url else repr(url)
            raise self.error(at, f"{shown} is not the URL of a host (http or https, no user, no query)")
        path = posixpath.normpath(parts.path).rstrip("/") if parts.path.strip("/") else ""
        path = f"/{path.lstrip('/')}" if path else ""
        return parts.scheme, parts.netloc, path if override or path.endswith("/v2") else f"{path}/v2"

    def _capabilities(self, table: Mapping[str, Any], at: tuple[str, ...]) -> frozenset[str]:
        at = (*at, "capabilities")
        names = frozenset(name.lower() for name in self._texts(table.get("capabilities", []), at))
        if unknown := names - ALL_CAPABILITIES:
            known = ", ".join(sorted(ALL_CAPABILITIES))
            raise self.error(at, f"unknown capability {min(unknown)!r} (known: {known})")
        return names or ALL_CAPABILITIES

    def _client_pairs(self, table: Mapping[str, Any], at: tuple[str, ...]) -> list[tuple[str, str]]:
        """Read `client`: one file with certificate and key, several such, or pairs [certificate, key]."""
        at = (*at, "client")
        value = table.get("client", [])
        pairs = []
        for item in value if isinstance(value, list) else [value]:
            files = self._texts(item, at)
            if not 1 <= len(files) <= 2:
                raise self.error(at, "client must be a file, or pairs of certificate and key")
            key = str(self._base / files[1]) if len(files) == 2 and files[1] else ""
            pairs.append((str(self._base / files[0]), key))
        return pairs

    def _headers(self, table: Mapping[str, Any], at: tuple[str, ...]) -> list[tuple[str, str]]:
        at = (*at, "header")
        value = table.get("header", {})
        if not isinstance(value, dict):
            raise self.error(at, "header is not a table")
        found = []
        for name, values in value.items():
            for item in self._texts(values, (*at, name)):
                # The value is not quoted: it may be a token.
                if not re.fullmatch(_HEADER_NAME, name) or not re.fullmatch(_HEADER_VALUE, item):
                    raise self.error((*at, name), f"header {name!r} has characters that HTTP does not allow")
                found.append((name, item))
            if name.lower() in _OWN_HEADERS:
                found = [pair for pair in found if pair[0] != name]
                self._warnings.append(
                    f"{self.where((*at, name))}: header {name!r} has no effect: the client sets it itself"
                )
        return found

    def _duration(self, table: Mapping[str, Any], at: tuple[str, ...]) -> float | None:
        """Read `dial_timeout`, a Go duration (`30s`, `1m30s`, `500ms`), as seconds."""
        at = (*at, "dial_timeout")
        value = table.get("dial_timeout", "")
        if value == "":
            return None
        parts = re.findall(_DURATION_PART, value) if isinstance(value, str) else []
        if not parts or "".join(number + unit for number, unit in parts) != value:
            raise self.error(at, f"dial_timeout {value!r} is not a duration (like 30s or 1m30s)")
        seconds = sum(float(number) * _DURATION_UNITS[unit] for number, unit in parts)
        if not 0 < seconds < 86400:
            raise self.error(at, f"dial_timeout {value!r} is out of range")
        return float(seconds)

    def _proxy(self, table: Mapping[str, Any], at: tuple[str, ...]) -> str:
        """Read `proxy`, the URL of an HTTP proxy. It may contain a password, so messages do not quote it."""
        at = (*at, "proxy")
        value = table.get("proxy", "")
        if not isinstance(value, str):
            raise self.error(at, "proxy is not a string")
        if not value:
            return ""
        try:
            parts = urlsplit(value)
            port = parts.port
        except ValueError as error:
            raise self.error(at, "proxy is not a URL") from error
        if parts.scheme in ("socks5", "socks5h"):
            raise self.error(at, "a SOCKS proxy is not supported: use an http or https one")
        proper = parts.scheme in ("http", "https") and parts.hostname and port != 0 and value.isprintable()
        if not proper or parts.path not in ("", "/") or parts.query or parts.fragment or " " in value:
            raise self.error(at, "proxy is not the URL of a proxy (http or https, a host, no path)")
        return value

    def _texts(self, value: Any, at: tuple[str, ...]) -> Sequence[str]:
        values = [value] if isinstance(value, str) else value
        if not isinstance(values, list) or not all(isinstance(item, str) for item in values):
            raise self.error(at, f"{at[-1]} is not a string or a list of strings")
        if any("\0" in item for item in values):
            raise self.error(at, f"{at[-1]} has a NUL character")
        return values

    def _boolean(self, table: Mapping[str, Any], at: tuple[str, ...], key: str) -> bool:
        value = table.get(key, False)
        if not isinstance(value, bool):
            raise self.error((*at, key), f"{key} is not true or false")
        return value


# --- lines ------------------------------------------------------------------------------------------------


def _lines(text: str) -> dict[tuple[str, ...], int]:
    """Find the lines of tables and keys, which tomllib does not keep.

    This works for common files; a key in an inline table gets the line of that table.
    """
    found: dict[tuple[str, ...], int] = {}
    table: tuple[str, ...] = ()
    for number, line in enumerate(text.splitlines(), start=1):
        if header := re.fullmatch(_HEADER_LINE, line):
            table = _key_parts(header[1])
            keys = table
        elif assignment := re.match(_KEY_LINE, line):
            keys = (*table, *_key_parts(assignment[1]))
        else:
            continue
        for length in range(1, min(len(keys), _DEEPEST) + 1):
            found.setdefault(keys[:length], number)
    return found


def _key_parts(text: str) -> tuple[str, ...]:
    return tuple(part.strip("\"'").lower() for part in re.findall(_KEY, text))

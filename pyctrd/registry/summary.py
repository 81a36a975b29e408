"""What is configured about registries, without any secret: for a report that is sent to others.

Every secret that is met is remembered, so that it is removed from other texts of the report as well.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final
from urllib.parse import unquote, urlsplit

from pyctrd import redact
from pyctrd.errors import InvalidInput
from pyctrd.registry.auth import auth_files
from pyctrd.registry.auth.auth_files import AuthFile, Unusable
from pyctrd.registry.auth.keychain import AUTH_CONFIG_VARIABLE
from pyctrd.registry.config import hosts_toml
from pyctrd.registry.config.certs_d import read_file
from pyctrd.registry.config.hosts_toml import HostTable
from pyctrd.registry.config.proxy import without_secrets

# These are words of other texts, too: "root", for example.
_PUBLIC: Final = frozenset({"username", "email"})


def hosts(roots: Sequence[Path]) -> list[dict[str, object]]:
    """Describe the directories that configure registries: their files, and what hosts.toml says."""
    return [_root(root) for root in roots]


def logins(environ: Mapping[str, str]) -> list[dict[str, object]]:
    """Describe where logins are stored, and for which registries; whether they are right is not known."""
    found: list[dict[str, object]] = []
    files = [(auth_files.docker_config_file(environ), True)]
    files += [(path, False) for path in auth_files.containers_auth_files(environ)]
    for path, is_docker in files:
        try:
            read = auth_files.load(path, is_docker=is_docker, caller=None)
        except Unusable as error:
            found.append({"file": str(path), "error": str(error)})
        else:
            found.append({"file": str(path), **(_login(read) if read else {"state": "absent"})})
    if text := environ.get(AUTH_CONFIG_VARIABLE):
        source = f"${AUTH_CONFIG_VARIABLE}"
        try:
            parsed = auth_files.parse(text.encode("utf-8", "surrogateescape"), source)
        except Unusable as error:
            found.append({"file": source, "error": str(error)})
        else:
            found.append({"file": source, **_login(AuthFile(source, parsed))})
    return found


def proxy_url(value: str) -> str:
    """Return the URL of a proxy without its user and password."""
    url = value if "://" in value else f"http://{value}"
    try:
        parts = urlsplit(url)
        secrets = (parts.password or "", parts.query)
    except ValueError:
        redact.remember(value)
        return redact.STRUCK
    redact.remember(*secrets, *map(unquote, secrets))
    return without_secrets(url)


def _root(root: Path) -> dict[str, object]:
    try:
        names = sorted(os.listdir(root))  # noqa: PTH208 - the names are what is wanted
    except OSError as error:
        return {"directory": str(root), "state": error.strerror or str(error)}
    return {"directory": str(root), "registries": [_registry(root / name) for name in names]}


def _registry(path: Path) -> dict[str, object]:
    try:
        names = sorted(os.listdir(path))  # noqa: PTH208
        found: dict[str, object] = {"name": path.name, "files": names}
        if "hosts.toml" in names:
            file = hosts_toml.parse(read_file(path / "hosts.toml"), path / "hosts.toml")
            found["hosts"] = [_host(table) for table in (*file.hosts, file.root)]
            found["warnings"] = list(file.warnings)
    except OSError as error:
        return {"name": path.name, "error": error.strerror or str(error)}
    except InvalidInput as error:
        return {**found, "error": error.message}
    return found


def _host(table: HostTable) -> dict[str, object]:
    for _, value in table.headers:
        redact.remember(value, value.rpartition(" ")[2])  # also the token of `Bearer TOKEN`
    return {
        "where": table.where,
        "url": f"{table.scheme}://{table.host}{table.path}" if table.host else "the registry itself",
        "capabilities": sorted(table.capabilities),
        "ca": list(table.ca_files),
        "client": [list(pair) for pair in table.client_certs],
        "skip_verify": table.skip_verify,
        "headers": sorted({name for name, _ in table.headers}),
        "dial_timeout": table.dial_timeout,
        "proxy": proxy_url(table.proxy) if table.proxy else "",
    }


def _login(file: AuthFile) -> dict[str, object]:
    entries, helpers = file.document.get("auths"), file.document.get("credHelpers")
    for key, fields in entries.items() if isinstance(entries, Mapping) else ():
        if not isinstance(fields, Mapping):
            continue
        texts = {name: value for name, value in fields.items() if isinstance(value, str)}
        redact.remember(*(value for name, value in texts.items() if name not in _PUBLIC))
        with suppress(Unusable):
            entry = file.entry(key)
            redact.remember(entry.password, entry.identity_token, entry.registry_token)
    return {
        "logins": sorted(entries) if isinstance(entries, Mapping) else [],
        "helpers": dict(helpers) if isinstance(helpers, Mapping) else {},
        "store": auth_files.text_of(file.document, "credsStore"),
    }

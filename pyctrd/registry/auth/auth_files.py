"""Read the files that `docker login` and `podman login` write, and find the entry for a repository.

Sources: Docker CLI cli/config/configfile and cli/config/credentials (file_store.go, ConvertToHostname);
containers-auth.json(5) and containers/image pkg/docker/config for keys with a path, and for the files.
"""

from __future__ import annotations

import base64
import binascii
import json
import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, TypeAlias

from pyctrd.registry.auth.sudo import Invoker
from pyctrd.registry.config.endpoints import DOCKER_HUB, DOCKER_HUB_HOST
from pyctrd.registry.values import Confidential

DOCKER_HUB_KEY: Final = "https://index.docker.io/v1/"
MAX_FILE_BYTES: Final = 1 << 20

_HUB_HOSTS: Final = frozenset({DOCKER_HUB, DOCKER_HUB_HOST, "index.docker.io"})
# Old keys of `docker login` end with the version of the API; any other path means a repository.
_API_PATHS: Final = frozenset({"", "v1", "v2"})
_Document: TypeAlias = Mapping[str, Any]


class Unusable(Exception):
    """A file or an entry that cannot be used. The message does not quote it: it contains secrets."""


class Entry(Confidential, frozen=True):
    """An entry of a file, for one registry or repository."""

    HIDDEN = frozenset({"password", "identity_token", "registry_token"})

    username: str = ""
    password: str = ""
    identity_token: str = ""
    registry_token: str = ""

    @property
    def is_empty(self) -> bool:
        """Whether it has no credentials, for example because a helper stores the password."""
        return not (self.identity_token or self.registry_token or (self.username and self.password))


class AuthFile(Confidential, frozen=True):
    """A parsed file; `source` is its name in messages. Its helpers run as `invoker`, if there is one."""

    HIDDEN = frozenset({"document"})

    source: str
    document: _Document
    is_docker: bool = True
    invoker: Invoker | None = None

    def helper(self, account: str) -> tuple[str, str] | None:
        """Return the helper for a host[:port] and the server name to pass to it; None if there is none."""
        server = DOCKER_HUB_KEY if self.is_docker and account in _HUB_HOSTS else account
        named = _table(self.document, "credHelpers")
        for key in (account, server, host_of_key(server) or server):
            if name := text_of(named, key):
                return name, server
        everywhere = text_of(self.document, "credsStore")
        return (everywhere, server) if everywhere else None

    def keys(self, account: str, repository: str) -> list[str]:
        """List the entries for a repository at a host[:port], the most specific first."""
        table = _table(self.document, "auths")
        return [key for key in _keys(table, account, repository) if isinstance(table[key], dict)]

    def entry(self, key: str) -> Entry:
        """Read an entry that `keys` has listed. Raises Unusable for an invalid one."""
        return _entry(key, _table(self.document, "auths")[key])


# --- paths -----------------------------------------------------------------------------------------------


def docker_config_file(environ: Mapping[str, str] = os.environ) -> Path:
    """Return the path of Docker's config.json: $DOCKER_CONFIG is its directory, else ~/.docker."""
    directory = environ.get("DOCKER_CONFIG")
    if directory:
        return Path(directory) / "config.json"
    return _home(environ) / ".docker" / "config.json"


def containers_auth_files(environ: Mapping[str, str] = os.environ) -> tuple[Path, ...]:
    """Return the paths of podman's auth.json, in order of preference.

    $REGISTRY_AUTH_FILE replaces the one that `podman login` writes, in $XDG_RUNTIME_DIR or
    /run/containers/UID; the one in $XDG_CONFIG_HOME (~/.config) is read after it.
    """
    runtime = environ.get("XDG_RUNTIME_DIR") or f"/run/containers/{os.getuid()}"
    written = Path(runtime) / "auth.json"
    if environ.get("XDG_RUNTIME_DIR"):
        written = Path(runtime) / "containers" / "auth.json"
    first = environ.get("REGISTRY_AUTH_FILE") or written
    config_home = environ.get("XDG_CONFIG_HOME") or _home(environ) / ".config"
    return Path(first), Path(config_home) / "containers" / "auth.json"


def _home(environ: Mapping[str, str]) -> Path:
    home = environ.get("HOME")
    if home:
        return Path(home)
    try:
        return Path.home()
    except RuntimeError:  # neither HOME nor an entry in passwd, as in containers
        return Path("/")


# --- IO ---------------------------------------------------------------------------------------------


def load(path: Path, *, is_docker: bool, caller: Invoker | None, owned: bool = False) -> AuthFile | None:
    """Read a file; None if it does not exist. Raises Unusable.

    `caller` is the user who called sudo. If they own the file, they become its `invoker`. A file of root has
    no `invoker`, and one of another user is not used, since a link in the caller's home may point to it.
    With `owned` it must be a regular file of the caller, not a symbolic link.
    """
    descriptor = _open(path, follow=not owned)
    if descriptor is None:
        return None
    try:
        about = os.fstat(descriptor)
        theirs = caller is not None and about.st_uid == caller.uid
        if not stat.S_ISREG(about.st_mode):
            raise Unusable(f"{path} is not a regular file")
        if owned and not theirs:
            raise Unusable(f"{path} does not belong to {caller.name if caller else 'its user'}")
        if caller is not None and not theirs and about.st_uid != 0:
            raise Unusable(f"{path} belongs neither to root nor to {caller.name}")
        with open(descriptor, "rb", closefd=False) as stream:
            raw = stream.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise Unusable(f"cannot read {path}: {error.strerror}") from error
    finally:
        os.close(descriptor)
    return AuthFile(str(path), parse(raw, str(path)), is_docker, caller if theirs else None)


def _open(path: Path, *, follow: bool) -> int | None:
    """Open without blocking (it may be a pipe); None if it does not exist. Raises Unusable."""
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK
    try:
        return os.open(path, flags if follow else flags | os.O_NOFOLLOW)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as error:
        if not follow and path.is_symlink():
            raise Unusable(f"{path} is a symbolic link, which is not followed for another user") from error
        raise Unusable(f"cannot read {path}: {getattr(error, 'strerror', None) or 'bad path'}") from error


# --- parsing ------------------------------------------------------------------------------------------------


def parse(raw: bytes, source: str) -> _Document:
    """Parse the bytes of a file. Raises Unusable, whose message does not quote them."""
    if len(raw) > MAX_FILE_BYTES:
        raise Unusable(f"{source} is larger than {MAX_FILE_BYTES} bytes")
    if not raw.strip():
        return {}  # like Docker's CLI
    try:
        document = json.loads(raw)
    except (ValueError, RecursionError) as error:
        line = f" (line {error.lineno})" if isinstance(error, json.JSONDecodeError) else ""
        raise Unusable(f"{source} is not valid JSON{line}") from None
    if not isinstance(document, dict):
        raise Unusable(f"{source} is not a JSON object")
    return document


def host_of_key(key: str) -> str:
    """Return the host[:port] that a key in `auths` stands for, "" for the key of a repository.

    A URL stands for its host, whatever its path (Docker's ConvertToHostname); `quay.io/org` is for that path.
    """
    for scheme in ("https://", "http://"):
        if key.startswith(scheme):
            return key.removeprefix(scheme).partition("/")[0]
    host, _, path = key.partition("/")
    return host if path.rstrip("/") in _API_PATHS else ""


def _keys(table: _Document, account: str, repository: str) -> list[str]:
    """List the keys for a repository: the longest path first, then the host, then URLs of the host."""
    hosts = sorted(_HUB_HOSTS) if account in _HUB_HOSTS else [account]
    wanted = []
    path = repository
    while path:
        wanted += [f"{host}/{path}" for host in hosts]
        path = path.rpartition("/")[0]
    wanted.append(account)
    exact = [key for key in wanted if key in table]
    return exact + sorted(key for key in table if host_of_key(key) in hosts and key not in exact)


def _entry(key: str, fields: _Document) -> Entry:
    username, password = text_of(fields, "username"), text_of(fields, "password")
    if encoded := text_of(fields, "auth"):
        try:
            decoded = base64.b64decode("".join(encoded.split()), validate=True).decode("utf-8")
        except (binascii.Error, ValueError):
            raise Unusable(f"the auth of {key!r} is not base64 of user:password") from None
        username, _, password = decoded.partition(":")
        password = password.strip("\0")
    return Entry(username, password, text_of(fields, "identitytoken"), text_of(fields, "registrytoken"))


def _table(document: _Document, key: str) -> _Document:
    value = document.get(key)
    return value if isinstance(value, dict) else {}


def text_of(document: _Document, key: str) -> str:
    """Return a string of a document; "" for other values and for strings with surrogates."""
    value = document.get(key)
    return value if isinstance(value, str) and not any("\ud800" <= one <= "\udfff" for one in value) else ""

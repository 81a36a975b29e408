"""Who we are at which registry: `-u`, Docker's config.json, and credential helpers. Nothing here is printed.

Sources: Docker CLI cli/config/configfile and cli/config/credentials; the docker-credential-helpers protocol
(`docker-credential-NAME get`, the server on stdin, JSON on stdout).
"""

from __future__ import annotations

import base64
import binascii
import json
import logging
import os
import subprocess
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, TypeAlias

from pyctrd.registry.hosts import DOCKER_HUB, DOCKER_HUB_HOST

DOCKER_HUB_KEY: Final = "https://index.docker.io/v1/"
HELPER_TIMEOUT_SECONDS: Final = 60.0

_MAX_FILE_BYTES: Final = 1 << 20
_NOT_FOUND: Final = "credentials not found in native keychain"
_HUB_HOSTS: Final = frozenset({DOCKER_HUB, DOCKER_HUB_HOST, "index.docker.io"})
_Document: TypeAlias = Mapping[str, Any]

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Credential:
    """A name with a password, or an identity token; `source` says where it comes from. No secret in repr."""

    username: str = ""
    password: str = field(default="", repr=False)
    identity_token: str = field(default="", repr=False)
    source: str = ""

    @property
    def basic(self) -> str:
        """The value of an Authorization header for basic authentication, "" when that is not possible."""
        if not self.username or not self.password:
            return ""
        pair = f"{self.username}:{self.password}".encode()
        return f"Basic {base64.b64encode(pair).decode('ascii')}"

    @property
    def secrets(self) -> tuple[str, ...]:
        """Every form in which the secret could show up in a text."""
        return tuple(text for text in (self.password, self.identity_token, self.basic[6:]) if text)


def split_user(text: str) -> tuple[str, str]:
    """Split the value of `-u USER[:PASS]` into user and password ("" when it has none)."""
    user, _, password = text.partition(":")
    return user, password


def docker_config_file(environ: Mapping[str, str] = os.environ) -> Path:
    """Give the path of Docker's config.json: $DOCKER_CONFIG is its directory, else ~/.docker."""
    directory = environ.get("DOCKER_CONFIG")
    if directory:
        return Path(directory) / "config.json"
    home = environ.get("HOME")
    return (Path(home) if home else Path.home()) / ".docker" / "config.json"


class Keychain:
    """Finds the credential of a host. Lookups are made once per host, and are thread safe.

    `given` is for the references' own registries, or for the one host `given_for`: a mirror never sees it.
    `problems` are what stood in the way of a lookup; no errors, since most images need no credential.
    """

    def __init__(
        self,
        config_file: Path | None = None,
        *,
        given: Credential | None = None,
        given_for: str = "",
        environ: Mapping[str, str] = os.environ,
    ) -> None:
        self._given = given
        self._given_for = given_for
        self._file = config_file or docker_config_file(environ)
        self._environ = environ
        self._lock = threading.Lock()
        self._found: dict[str, Credential | None] = {}
        self._config: _Document | None = None
        self.problems: list[str] = []

    def find(self, account: str, *, own: bool) -> Credential | None:
        """Give the credential of a host[:port], or None; `own`: it is the reference's own registry."""
        if own and self._given is not None and self._given_for in ("", account):
            return self._given
        with self._lock:
            if account not in self._found:
                self._found[account] = self._look_up(account)
            return self._found[account]

    def redact(self, text: str) -> str:
        """Strike out every secret that was handed out so far."""
        with self._lock:
            known = [item for item in (self._given, *self._found.values()) if item is not None]
        for credential in known:
            for secret in credential.secrets:
                text = text.replace(secret, "***")
        return text

    def _look_up(self, account: str) -> Credential | None:
        if self._config is None:
            self._config = self._read_config()
        server = DOCKER_HUB_KEY if account in _HUB_HOSTS else account
        helpers = self._config.get("credHelpers")
        helper = _helper_for(helpers if isinstance(helpers, dict) else {}, account, server)
        helper = helper or self._config.get("credsStore")
        if helper and isinstance(helper, str):
            found = self._ask_helper(helper, server)
            if found is not None:
                return found
        entries = self._config.get("auths")
        return self._from_entries(entries if isinstance(entries, dict) else {}, account)

    def _read_config(self) -> _Document:
        try:
            with self._file.open("rb") as stream:
                raw = stream.read(_MAX_FILE_BYTES + 1)
        except FileNotFoundError:
            return {}
        except OSError as error:
            return self._problem(f"cannot read {self._file}: {error.strerror}")
        if len(raw) > _MAX_FILE_BYTES:
            return self._problem(f"{self._file} is larger than {_MAX_FILE_BYTES} bytes")
        try:
            document = json.loads(raw)
        except (ValueError, RecursionError) as error:
            # The decoder's text can quote the file, and the file holds secrets: only the place is told.
            line = f" (line {error.lineno})" if isinstance(error, json.JSONDecodeError) else ""
            return self._problem(f"{self._file} is not valid JSON{line}")
        if not isinstance(document, dict):
            return self._problem(f"{self._file} is not a JSON object")
        return document

    def _problem(self, text: str) -> _Document:
        self.problems.append(text)
        _log.warning("%s", text)
        return {}

    def _from_entries(self, entries: _Document, account: str) -> Credential | None:
        wanted = _HUB_HOSTS if account in _HUB_HOSTS else {account}
        for key, entry in sorted(entries.items(), key=lambda item: item[0] not in wanted):
            if hostname_of(key) not in wanted or not isinstance(entry, dict):
                continue
            credential = self._from_entry(key, entry)
            if credential is not None:
                return credential
        return None

    def _from_entry(self, key: str, entry: _Document) -> Credential | None:
        username, password = _string(entry, "username"), _string(entry, "password")
        if encoded := _string(entry, "auth"):
            try:
                decoded = base64.b64decode(encoded, validate=True).decode("utf-8")
            except (binascii.Error, ValueError):
                self._problem(f"{self._file}: the auth of {key!r} is not base64 of user:password")
                return None
            username, _, password = decoded.partition(":")
            password = password.strip("\0")
        token = _string(entry, "identitytoken")
        if not token and not (username and password):
            return None
        return Credential(username, password, token, source=str(self._file))

    def _ask_helper(self, helper: str, server: str) -> Credential | None:
        """Run a credential helper; one that is broken is a problem to tell, not an end."""
        name = f"docker-credential-{helper}"
        if "/" in helper or "\0" in helper:
            self._problem(f"{self._file}: {helper!r} is not the name of a credential helper")
            return None
        try:
            done = subprocess.run(
                [name, "get"],
                input=f"{server}\n".encode(),
                capture_output=True,
                timeout=HELPER_TIMEOUT_SECONDS,
                check=False,
                env=dict(self._environ),
            )
        except FileNotFoundError:
            self._problem(f"{name} (named in {self._file}) is not in PATH")
            return None
        except (OSError, subprocess.TimeoutExpired) as error:
            self._problem(f"{name} did not run: {type(error).__name__}")
            return None
        if done.returncode != 0:
            if _NOT_FOUND not in done.stdout.decode("utf-8", "replace"):
                # Its output stays unseen: what a broken helper prints may be the secret.
                self._problem(f"{name} failed with status {done.returncode}")
            return None
        return self._read_answer(name, done.stdout)

    def _read_answer(self, name: str, answer: bytes) -> Credential | None:
        try:
            document = json.loads(answer)
        except (ValueError, RecursionError):
            document = None
        if not isinstance(document, dict):
            self._problem(f"{name} did not answer with a JSON object")
            return None
        username, secret = _string(document, "Username"), _string(document, "Secret")
        if not secret:
            return None
        if username == "<token>":
            return Credential(identity_token=secret, source=name)
        return Credential(username, secret, source=name)


def hostname_of(key: str) -> str:
    """Give the host[:port] of a key in `auths`, which may be a URL (Docker's ConvertToHostname)."""
    stripped = key.removeprefix("https://").removeprefix("http://")
    return stripped.partition("/")[0]


def _helper_for(helpers: _Document, account: str, server: str) -> str | None:
    for key in (account, server, hostname_of(server)):
        value = helpers.get(key)
        if isinstance(value, str) and value:
            return value
    return None


def _string(document: _Document, key: str) -> str:
    value = document.get(key)
    return value if isinstance(value, str) else ""

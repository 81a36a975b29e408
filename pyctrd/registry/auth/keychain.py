"""Find credentials: `-u`, the logins of Docker and podman, and their credential helpers.

The order: `-u`, DOCKER_AUTH_CONFIG, Docker's config.json, podman's auth.json, and last, only if it is
allowed, the logins of the user who called sudo. See docs/authentication.md.
"""

from __future__ import annotations

import base64
import os
import shlex
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Final, TypeAlias

from pyctrd import redact
from pyctrd.registry.auth import auth_files, sudo
from pyctrd.registry.auth.auth_files import AuthFile, Unusable, docker_config_file
from pyctrd.registry.values import Confidential

AUTH_CONFIG_VARIABLE: Final = "DOCKER_AUTH_CONFIG"
SUDO_FLAG: Final = "--sudo-user-config"

Ask: TypeAlias = Callable[[str], bool]
"""Asks the user a question and returns whether the answer was yes."""

_log = redact.logger("pyctrd.registry.auth")


class Credential(Confidential, frozen=True):
    """A user name and password, an identity token (a refresh token), or a registry token (an access token).

    `source` says where it comes from, for messages. Its repr has no secret.
    """

    HIDDEN = frozenset({"password", "identity_token", "registry_token"})

    username: str = ""
    password: str = ""
    identity_token: str = ""
    source: str = ""
    registry_token: str = ""

    @property
    def basic(self) -> str:
        """The value of the Authorization header for basic authentication; "" without user and password."""
        if not self.username or not self.password:
            return ""
        pair = f"{self.username}:{self.password}".encode("utf-8", "surrogateescape")
        return f"Basic {base64.b64encode(pair).decode('ascii')}"

    @property
    def secrets(self) -> tuple[str, ...]:
        """The texts that must not appear in any message or log."""
        known = (self.password, self.identity_token, self.registry_token, self.basic[6:])
        return tuple(text for text in known if text)


class Keychain:
    """Finds the credential for a repository. Results are cached; thread safe.

    `given` is for the references' own registries, or for the host `given_for` only; never for a mirror.
    `config_file` replaces Docker's config.json. `sudo_user_config` True uses the logins of the user who
    called sudo, False does not; None asks with `ask`, once, if a registry denies access. `problems` lists
    files and helpers that could not be used; these are not errors, since most images need no credential.
    """

    def __init__(
        self,
        config_file: Path | None = None,
        *,
        given: Credential | None = None,
        given_for: str = "",
        environ: Mapping[str, str] = os.environ,
        sudo_user_config: bool | None = None,
        ask: Ask | None = None,
    ) -> None:
        self._given = given
        self._given_for = given_for
        self._config_file = config_file or docker_config_file(environ)
        self._environ = environ
        self._caller = sudo.invoker(environ)
        self._sudo_allowed = sudo_user_config
        self._ask = ask
        self._lock = threading.RLock()
        self._found: dict[tuple[str, str], Credential | None] = {}
        self._answers: dict[tuple[str, str, str], Credential | None] = {}
        self._files: list[AuthFile] | None = None
        self.problems: list[str] = []
        if given is not None:
            redact.remember(*given.secrets)

    def find(self, account: str, *, own: bool, repository: str = "") -> Credential | None:
        """Return the credential for a repository at a host[:port], or None.

        `own` is whether it is the registry that the reference names, for which `-u` is meant.
        """
        if own and self._given is not None and self._given_for in ("", account):
            redact.remember(*self._given.secrets)
            return self._given
        with self._lock:
            key = account, repository
            if key not in self._found:
                self._found[key] = self._look_up(account, repository)
            found = self._found[key]
        if found is not None:
            redact.remember(*found.secrets)
        return found

    def unlock(self, account: str, *, own: bool, repository: str = "") -> bool:
        """Ask whether to use the logins of the user who called sudo, after a registry has denied access.

        Returns whether there is a credential for this repository now. The question is asked once.
        """
        if self._sudo_allowed is not None or self._ask is None or self._caller is None:
            return False
        with self._lock:
            if self._sudo_allowed is None:
                if self.find(account, own=own, repository=repository) or not self._caller.present:
                    return False
                files = " and ".join(map(str, self._caller.present))
                self._sudo_allowed = self._ask(
                    f"{account} requires credentials. Use those of {self._caller.name} ({files})?"
                )
                self._files = None
                self._found.clear()
            return bool(self._sudo_allowed and self.find(account, own=own, repository=repository))

    def advice(self, account: str, *, own: bool = True) -> str:
        """Return the hint for a registry that denies access: how to log in, and what could not be used.

        `own` is whether it is the registry that the reference names: -u is not sent to any other one.
        """
        quoted = shlex.quote(account)
        text = f"Pass `username` and `password`, or log in with `docker login {quoted}` (or nerdctl login)."
        if not own:
            text = f"Log in with `docker login {quoted}` (or nerdctl login): `username` is not for this host."
        if self._sudo_allowed is None and self._caller is not None and self._caller.present:
            text += f" `sudo_user_config` uses {self._caller.present[0]}, the login of {self._caller.name}."
        if self.problems:
            text += f" Not used: {'; '.join(self.problems)}."
        return text

    # --- looking up

    def _look_up(self, account: str, repository: str) -> Credential | None:
        if self._files is None:
            self._files = list(self._read_files())
        for file in self._files:
            found = self._from_file(file, account, repository)
            if found is not None:
                return found
        return None

    def _read_files(self) -> Iterator[AuthFile]:
        text = self._environ.get(AUTH_CONFIG_VARIABLE)
        if text:
            raw = text.encode("utf-8", "surrogateescape")
            try:
                yield AuthFile(AUTH_CONFIG_VARIABLE, auth_files.parse(raw, AUTH_CONFIG_VARIABLE))
            except Unusable as error:
                self._problem(str(error))
        yield from self._read(self._config_file, is_docker=True)
        for path in auth_files.containers_auth_files(self._environ):
            yield from self._read(path, is_docker=False)
        if self._sudo_allowed and self._caller is not None:
            for path in self._caller.auth_files:
                yield from self._read(path, is_docker=path.name == "config.json", owned=True)

    def _read(self, path: Path, *, is_docker: bool, owned: bool = False) -> Iterator[AuthFile]:
        try:
            file = auth_files.load(path, is_docker=is_docker, caller=self._caller, owned=owned)
        except Unusable as error:
            self._problem(str(error))
            return
        if file is not None:
            yield file
        elif str(path) == self._environ.get("REGISTRY_AUTH_FILE"):
            self._problem(f"REGISTRY_AUTH_FILE names {path}, which does not exist")

    def _from_file(self, file: AuthFile, account: str, repository: str) -> Credential | None:
        named = file.helper(account)
        if named is not None:
            key = (file.source, *named)
            if key not in self._answers:
                self._answers[key] = self._ask_helper(file, *named)
            if self._answers[key] is not None:
                return self._answers[key]
        for name in file.keys(account, repository):
            try:
                entry = file.entry(name)
            except Unusable as error:
                self._problem(f"{file.source}: {error}")
                continue
            if not entry.is_empty:
                return Credential(
                    entry.username,
                    entry.password,
                    entry.identity_token,
                    source=file.source,
                    registry_token=entry.registry_token,
                )
        return None

    def _ask_helper(self, file: AuthFile, helper: str, server: str) -> Credential | None:
        """Run a credential helper; a failure is added to `problems`, and is not an error."""
        from pyctrd.registry.auth import credential_helpers

        source = f"{credential_helpers.program(helper)} (named in {file.source})"
        try:
            answer = credential_helpers.ask(helper, server, environ=self._environ, user=file.invoker)
        except credential_helpers.HelperFailed as error:
            self._problem(f"{error} (named in {file.source})")
            return None
        if answer is None:
            return None
        username, secret = auth_files.text_of(answer, "Username"), auth_files.text_of(answer, "Secret")
        if not secret:
            return None
        if username == "<token>":
            return Credential(identity_token=secret, source=source)
        return Credential(username, secret, source=source)

    def _problem(self, text: str) -> None:
        if text not in self.problems:
            self.problems.append(text)
            _log.warning("%s", text)

"""The user who called sudo: their logins are in their own home, which root must not trust.

A file of that user is read only if they own it, and programs that it names run as that user, not as root.
"""

from __future__ import annotations

import os
import pwd
from collections.abc import Mapping
from pathlib import Path

import msgspec


class Invoker(msgspec.Struct, frozen=True):
    """The user who called sudo."""

    name: str
    uid: int
    gid: int
    home: Path

    @property
    def auth_files(self) -> tuple[Path, ...]:
        """The files that may contain the logins of this user, in the order in which they are read."""
        return (
            self.home / ".docker" / "config.json",
            Path(f"/run/user/{self.uid}/containers/auth.json"),
            self.home / ".config" / "containers" / "auth.json",
        )

    @property
    def present(self) -> tuple[Path, ...]:
        """The files that exist; they are not read."""
        return tuple(path for path in self.auth_files if os.path.lexists(path))

    def environment(self, path: str) -> dict[str, str]:
        """Return the environment for a program that runs as this user, without anything from root's.

        `path` is the beginning of PATH; the user's own folders follow, as in a login shell.
        """
        made = {
            "HOME": str(self.home),
            "USER": self.name,
            "LOGNAME": self.name,
            "PATH": ":".join(filter(None, (path, f"{self.home}/.local/bin", f"{self.home}/bin"))),
        }
        runtime = Path(f"/run/user/{self.uid}")
        if runtime.is_dir():
            # Keyrings are reached over the session bus.
            made["XDG_RUNTIME_DIR"] = str(runtime)
            made["DBUS_SESSION_BUS_ADDRESS"] = f"unix:path={runtime}/bus"
        return made


def invoker(environ: Mapping[str, str] = os.environ, *, euid: int | None = None) -> Invoker | None:
    """Return the user who called sudo; None if this process is not root by sudo, or root called it."""
    name = environ.get("SUDO_USER", "")
    if (os.geteuid() if euid is None else euid) != 0 or not name:
        return None
    try:
        entry = pwd.getpwnam(name)
    except (KeyError, ValueError):
        return None
    if entry.pw_uid == 0 or environ.get("SUDO_UID", str(entry.pw_uid)) != str(entry.pw_uid):
        return None
    return Invoker(entry.pw_name, entry.pw_uid, entry.pw_gid, Path(entry.pw_dir))

"""Find and read the directory that configures a registry (`certs.d`).

Sources: containerd core/remotes/docker/config/config_unix.go (hostPaths) for the names in a root;
nerdctl pkg/defaults/defaults_linux.go (HostsDirs) for the directories, and pkg/rootlessutil for who is
rootless.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final, Literal, TypeAlias

import msgspec

from pyctrd.errors import InvalidInput
from pyctrd.registry.config.endpoints import HostDirectory, split_port

SYSTEM_ROOTS: Final = (Path("/etc/containerd/certs.d"), Path("/etc/docker/certs.d"))

_MAX_FILE_BYTES: Final = 1 << 20
_HINT: Final = "Correct it, or pass another directory as `hosts_dir`."

State: TypeAlias = Literal["used", "no entry", "absent", "not readable", "not reached"]


class SearchedDirectory(msgspec.Struct, frozen=True):
    """A root directory that was searched for a registry, and the result.

    `no entry` means that it has nothing for this registry, `not reached` that an earlier root had.
    """

    path: str
    state: State


class Search(msgspec.Struct, frozen=True):
    """The directory found for a registry (None: nothing), and the roots that were searched, in order."""

    directory: HostDirectory | None
    searched: tuple[SearchedDirectory, ...]

    @property
    def warnings(self) -> tuple[str, ...]:
        """Lines about directories that had to be skipped."""
        return tuple(
            f"{item.path}: permission denied, its configuration is not used"
            for item in self.searched
            if item.state == "not readable"
        )


def default_roots(environ: Mapping[str, str], *, user: int) -> tuple[Path, ...]:
    """Return the root directories for a user id, in the order in which they are searched.

    A user other than root, and root in a user namespace of rootlesskit, has directories of their own before
    those of the system.
    """
    if user == 0 and not environ.get("ROOTLESSKIT_STATE_DIR"):
        return SYSTEM_ROOTS
    config, home = environ.get("XDG_CONFIG_HOME", ""), environ.get("HOME", "")
    if not config.startswith("/"):  # a relative one must be ignored (XDG base directory specification)
        config = f"{home}/.config" if home else ""
    own = (Path(config, "containerd/certs.d"), Path(config, "docker/certs.d")) if config else ()
    return (*own, *SYSTEM_ROOTS)


def directory_names(domain: str) -> tuple[str, ...]:
    """Return the directory names to look up, in order (containerd config_unix.go hostPaths)."""
    host, port = split_port(domain)
    names = (f"{host}_{port}_",) if port else ()
    return (*names, domain, "_default")


def search(roots: Sequence[Path], domain: str, *, forgiving: bool = False) -> Search:
    """Read the first directory in the first root that has an entry for this registry.

    Raises InvalidInput for a directory that exists but cannot be read. With `forgiving`, for default roots, a
    root that this user may not search is skipped with a warning.
    """
    searched: list[SearchedDirectory] = []
    found: HostDirectory | None = None
    for root in roots:
        if found is not None:
            searched.append(SearchedDirectory(str(root), "not reached"))
            continue
        try:
            entry = _entry(root, domain)
        except PermissionError as error:
            if not forgiving:
                raise _unreadable(root, error) from error
            searched.append(SearchedDirectory(str(root), "not readable"))
            continue
        except OSError as error:
            raise _unreadable(root, error) from error
        if entry is not None:
            found = _read_directory(entry)
        state: State = "used" if entry else "no entry" if root.exists() else "absent"
        searched.append(SearchedDirectory(str(root), state))
    return Search(found, tuple(searched))


def _entry(root: Path, domain: str) -> Path | None:
    for name in directory_names(domain):
        path = root / name
        try:
            mode = path.stat().st_mode
        except (FileNotFoundError, NotADirectoryError):
            continue
        if not stat.S_ISDIR(mode):
            raise InvalidInput(f"{path} is not a directory", hint=_HINT)
        return path
    return None


def _read_directory(path: Path) -> HostDirectory:
    try:
        names = tuple(sorted(os.listdir(path)))  # noqa: PTH208 - the names are what is wanted
        text = read_file(path / "hosts.toml") if "hosts.toml" in names else None
        files = tuple(name for name in names if name.endswith((".crt", ".cert", ".key")))
        files = tuple(name for name in files if (path / name).is_file() or not (path / name).exists())
    except OSError as error:
        raise _unreadable(path, error) from error
    # containerd treats an empty file as absent.
    return HostDirectory(path, text or None, files)


def read_file(path: Path) -> str:
    """Return the text of a file. Raises OSError, and InvalidInput if it is too large or not UTF-8."""
    # Opened without blocking: it may be a pipe.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "not a regular file", str(path))
        with os.fdopen(descriptor, "rb", closefd=False) as stream:
            raw = stream.read(_MAX_FILE_BYTES + 1)
    finally:
        os.close(descriptor)
    if len(raw) > _MAX_FILE_BYTES:
        raise InvalidInput(f"{path} is larger than {_MAX_FILE_BYTES} bytes", hint=_HINT)
    try:
        return raw.decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        raise InvalidInput(f"{path}:{line}: not UTF-8 text", hint=_HINT) from error


def _unreadable(path: Path, error: OSError) -> InvalidInput:
    return InvalidInput(
        f"cannot read the host configuration in {error.filename or path}: {error.strerror or error}",
        hint=_HINT,
    )

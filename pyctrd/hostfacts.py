"""HostFacts: what `doctor` and its bug report need to know about this machine."""

from __future__ import annotations

import grp
import os
import pwd
import socket
import stat
import struct
import sys
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from functools import cache, cached_property
from pathlib import Path
from typing import Any, Final

from pyctrd import redact
from pyctrd.containerd.address import find_sockets
from pyctrd.operations.doctor.host import ConfigFile, DiskSpace, Pitfall, ProcessFacts, SocketFacts
from pyctrd.registry.config.certs_d import default_roots
from pyctrd.registry.config.pitfalls import HostsPitfall, pitfalls
from pyctrd.version import __version__

_CONFIG: Final = "/etc/containerd/config.toml"
_PEER: Final = struct.Struct("3i")  # pid, uid, gid: struct ucred of unix(7)
_PROBE_SECONDS: Final = 5.0
# Also in k3s, k0s, microk8s and Docker, which start a containerd of their own.
_PROGRAM: Final = "containerd"
# What a bug report has of the environment: with their values, without secrets, and by name only.
_SHOWN: Final = frozenset(
    {
        *("CONTAINERD_ADDRESS", "CONTAINERD_NAMESPACE", "CONTAINERD_SNAPSHOTTER", "DOCKER_CONFIG"),
        *("REGISTRY_AUTH_FILE", "HOME", "XDG_CONFIG_HOME", "XDG_RUNTIME_DIR", "ROOTLESSKIT_STATE_DIR"),
        *("SSL_CERT_FILE", "SSL_CERT_DIR", "GRPC_EXPERIMENTS", "GRPC_VERBOSITY", "GRPC_TRACE", "LANG"),
        *("LC_ALL", "TERM", "NO_COLOR", "COLUMNS", "SUDO_UID"),
    }
)
_PROXIES: Final = frozenset({"http_proxy", "https_proxy", "all_proxy", "no_proxy"})
_PREFIXES: Final = ("PYCTRD_", "CONTAINERD_", "DOCKER_", "OTEL_")
_LIBRARIES: Final = (
    *("backports-zstd", "click", "grpcio", "msgspec", "opentelemetry-api", "protobuf", "rich", "tenacity"),
    "urllib3",
)
# Folders of containerd's configuration may be imported by many files.
_MOST_IMPORTS: Final = 100


class HostFacts:
    """This machine, as far as this user may see it. Implements operations.doctor.host.ReportedHost.

    `hosts_dir` replaces the usual directories with hosts.toml files. `root` is where the file system begins.
    """

    def __init__(
        self,
        address: str,
        environ: Mapping[str, str],
        hosts_dir: Path | None = None,
        root: Path = Path("/"),
    ) -> None:
        self._address = address
        self._environ = environ
        self._hosts_dir = hosts_dir
        self._root = root

    def socket(self) -> SocketFacts:
        """Return what is known about containerd's socket."""
        others = tuple(
            (found.owner, found.path)
            for found in find_sockets(self._environ, self._root)
            if os.path.realpath(found.path) != os.path.realpath(self._address)
        )
        try:
            found = Path(self._address).stat()
        except OSError:
            return SocketFacts(path=self._address, others=others)
        return SocketFacts(
            path=self._address,
            owner=_user(found.st_uid),
            group=_group(found.st_gid) if found.st_gid else "",
            mode=found.st_mode if stat.S_ISSOCK(found.st_mode) else None,
            is_open=_is_open(Path(os.path.realpath(self._address))),
            others=others,
        )

    def process(self) -> ProcessFacts | None:
        """Return the process that listens on the socket, None unless it is a containerd on this machine."""
        return self._process

    @cached_property
    def _process(self) -> ProcessFacts | None:
        pid = _listener(self._address)
        if pid is None or _text(Path(f"/proc/{pid}/comm")) != _PROGRAM:
            return None  # a tunnel to another machine, for example
        variables = _variables(pid)
        path = None if variables is None else tuple(filter(None, variables.get("PATH", "").split(":")))
        kept = {key: value for key, value in (variables or {}).items() if key.startswith("CONTAINERD_")}
        return ProcessFacts(pid=pid, path=path, environment=kept)

    @staticmethod
    def _link(pid: int, name: str) -> str:
        try:
            return str(Path(f"/proc/{pid}/{name}").readlink())
        except OSError:
            return ""

    def has_program(self, folders: Sequence[str], name: str) -> bool:
        """Whether one of the folders has a program, as containerd sees them."""
        return any(os.access(self._seen(folder) / name, os.X_OK) for folder in folders)

    def disk(self, folder: str) -> DiskSpace | None:
        """Return the space of the file system with a folder of containerd's, None if it cannot be seen."""
        path = self._seen(folder)
        try:
            found, device = os.statvfs(path), path.stat().st_dev
        except OSError:
            return None
        return DiskSpace(
            # As df: without what is reserved for root.
            bytes_total=(found.f_blocks - found.f_bfree + found.f_bavail) * found.f_frsize,
            bytes_free=found.f_bavail * found.f_frsize,
            inodes=found.f_files,
            inodes_free=found.f_favail,
            device=device,
        )

    def config(self) -> ConfigFile:
        """Return containerd's configuration. Raises OSError or ValueError."""
        process = self.process()
        if process is None:
            raise FileNotFoundError("containerd does not run on this machine")
        words = _words(process.pid, "cmdline")
        path = Path(_config_of(words) or _CONFIG)
        if not path.is_absolute():
            path = Path(self._link(process.pid, "cwd")) / path
        try:
            return ConfigFile(path=str(path), settings=self._settings(path))
        except FileNotFoundError:
            return ConfigFile(path=str(path), settings={})  # containerd starts with its defaults

    def _settings(self, path: Path) -> Mapping[str, Any]:
        """Read a file and its imports, of which later ones take precedence (cmd/containerd/server/config)."""
        merged: dict[str, Any] = {}
        queue, seen = [path], set[Path]()
        while queue and len(seen) < _MOST_IMPORTS:
            file = queue.pop(0)
            if file in seen:
                continue
            seen.add(file)
            read = tomllib.loads(self._seen(str(file)).read_text(encoding="utf-8"))
            _merge(merged, read)
            queue += [
                found for name in read.get("imports", ()) for found in self._imported(file.parent, name)
            ]
        return merged

    def _imported(self, folder: Path, name: str) -> Iterator[Path]:
        pattern = os.path.normpath(folder / name)
        if "*" not in pattern:
            yield Path(pattern)
            return
        base = self._seen("/")
        for found in sorted(base.glob(pattern.lstrip("/"))):
            yield Path("/") / found.relative_to(base)

    def pitfalls(self) -> Sequence[Pitfall]:
        """Return what is wrong with the directories that configure registries."""
        return tuple(map(_pitfall, pitfalls(self._roots, must_exist=self._hosts_dir is not None)))

    @property
    def _roots(self) -> Sequence[Path]:
        if self._hosts_dir is not None:
            return [self._hosts_dir]
        return default_roots(self._environ, user=os.getuid())

    def registries(self) -> Mapping[str, object]:
        """Return the configuration of registries, and where logins are stored, without secrets."""
        from pyctrd.registry import summary

        return {"hosts": summary.hosts(self._roots), "logins": summary.logins(self._environ)}

    def environment(self) -> Mapping[str, str]:
        """Return the variables that change what pyctrd does, without secrets."""
        from pyctrd.registry.summary import proxy_url

        found = {}
        for name, value in sorted(self._environ.items()):
            if name.lower() in _PROXIES:
                found[name] = value if name.lower() == "no_proxy" or not value else proxy_url(value)
            elif name in _SHOWN:
                found[name] = value
            elif name.startswith(_PREFIXES):
                found[name] = redact.STRUCK
        return found

    def versions(self) -> Mapping[str, str]:
        """Return the versions of pyctrd, Python and the libraries."""
        from importlib import metadata

        found = {"pyctrd": __version__, "python": sys.version.partition("\n")[0]}
        for name in _LIBRARIES:
            with suppress(metadata.PackageNotFoundError):
                found[name] = metadata.version(name)
        return found

    def platform(self) -> Mapping[str, object]:
        """Return facts about the operating system and the hardware."""
        system = os.uname()
        release = dict(line.partition("=")[::2] for line in _text(Path("/etc/os-release")).splitlines())
        memory = dict(line.partition(":")[::2] for line in _text(Path("/proc/meminfo")).splitlines())
        return {
            "os": release.get("PRETTY_NAME", system.sysname).strip('"'),
            "kernel": f"{system.sysname} {system.release}",
            "machine": system.machine,
            "cpus": os.cpu_count(),
            "memory": memory.get("MemTotal", "").strip(),
            "user": os.geteuid(),
        }

    def _seen(self, folder: str) -> Path:
        """Return where this process sees a folder of containerd's, which may run in a container."""
        process = self.process()
        if process is not None:
            inside = Path(f"/proc/{process.pid}/root")
            if os.access(inside, os.X_OK):
                return inside / folder.lstrip("/")
        return Path(folder)


def _is_open(path: Path) -> bool:
    """Whether any user may reach a file through the folders above it."""
    try:
        return all(folder.stat().st_mode & stat.S_IXOTH for folder in path.parents)
    except OSError:
        return False


def _pitfall(found: HostsPitfall) -> Pitfall:
    return Pitfall(
        code=found.code,
        severity="error" if found.is_error else "warning",
        where=found.where,
        text=found.text,
        advice=found.advice,
    )


def _listener(address: str) -> int | None:
    """Return the process that listens on a socket; None if it is not of this machine, or unknown."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(_PROBE_SECONDS)
        try:
            probe.connect(address)
            raw = probe.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size)
        except OSError:
            return None
    pid: int = _PEER.unpack(raw)[0]
    return pid or None


def _words(pid: int, name: str) -> list[str]:
    return Path(f"/proc/{pid}/{name}").read_bytes().decode(errors="replace").rstrip("\0").split("\0")


def _variables(pid: int) -> dict[str, str] | None:
    try:
        pairs = (word.partition("=") for word in _words(pid, "environ"))
        return {key: value for key, _, value in pairs}
    except OSError:
        return None


def _config_of(words: Sequence[str]) -> str:
    """Return the file that a command line of containerd names, "" if it names none."""
    for index, word in enumerate(words):
        option, equals, value = word.partition("=")
        if option in ("-c", "-config", "--config"):
            return value if equals else "".join(words[index + 1 : index + 2])
    return ""


def _merge(into: dict[str, Any], more: Mapping[str, Any]) -> None:
    for key, value in more.items():
        known = into.get(key)
        if isinstance(known, dict) and isinstance(value, Mapping):
            _merge(known, value)
        else:
            into[key] = value


def _text(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""


@cache
def _user(number: int) -> str:
    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:
        return str(number)


@cache
def _group(number: int) -> str:
    try:
        return grp.getgrgid(number).gr_name
    except KeyError:
        return str(number)

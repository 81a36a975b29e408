"""Find containerd's socket, and explain why it does not answer. Does not use gRPC.

An argument takes precedence over the environment, with the variables of ctr and nerdctl, and over the
default.

Source: containerd cmd/ctr/app/main.go, defaults/defaults_unix.go, pkg/identifiers/validate.go.
"""

from __future__ import annotations

import errno
import os
import re
import socket
import stat
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol

from pyctrd.errors import DaemonUnreachable, InvalidInput, require_utf8

if TYPE_CHECKING:
    from pathlib import Path

# The argument that hints name.
ADDRESS: Final = "`address`"
DEFAULT_ADDRESS: Final = "/run/containerd/containerd.sock"
DEFAULT_NAMESPACE: Final = "default"
_PROBE_SECONDS: Final = 5.0
_NAMESPACE = re.compile(r"[A-Za-z0-9]+(?:[-._][A-Za-z0-9]+)*")
_NAMESPACE_MAX: Final = 76

# The sockets of distributions that ship their own containerd.
_KNOWN_SOCKETS: Final = (
    ("containerd", DEFAULT_ADDRESS),
    ("k3s or rke2", "/run/k3s/containerd/containerd.sock"),
    ("docker", "/run/docker/containerd/containerd.sock"),
    ("docker", "/var/run/docker/containerd/containerd.sock"),
    ("k0s", "/run/k0s/containerd.sock"),
    ("microk8s", "/var/snap/microk8s/common/run/containerd.sock"),
)


class FoundSocket(NamedTuple):
    """A containerd socket on this machine; `owner` is the product it belongs to."""

    owner: str
    path: str


class Place(Protocol):
    """Where a containerd listens, for error messages."""

    @property
    def name(self) -> str:
        """The address, as the user writes it."""

    def check(self) -> None:
        """Raise DaemonUnreachable, with the reason, unless a server listens on the socket."""

    def unreachable(self, detail: str) -> DaemonUnreachable:
        """Find out why no containerd answers; `detail` is the error of a call through the socket."""

    def silent(self, seconds: float | None = None) -> DaemonUnreachable:
        """Return the error for a containerd that keeps its socket open but does not answer."""


class LocalSocket:
    """A socket on this machine. Implements Place; `argument` is what hints call the caller's address."""

    def __init__(self, path: str, environ: Mapping[str, str], *, argument: str = ADDRESS) -> None:
        self.name = path
        self._environ = environ
        self._argument = argument

    def check(self) -> None:
        """Raise DaemonUnreachable, with the reason, unless a server listens on the socket."""
        check_socket(self.name, self._environ, argument=self._argument)

    def unreachable(self, detail: str) -> DaemonUnreachable:
        """Find out why no containerd answers, and which other sockets there are."""
        return unreachable(self.name, self._environ, detail, argument=self._argument)

    def silent(self, seconds: float | None = None) -> DaemonUnreachable:
        """Return the error for a containerd that keeps its socket open but does not answer."""
        return silent(self.name, seconds)


def resolve_address(flag: str | None, environ: Mapping[str, str]) -> str:
    """Return the path of the socket: the argument, CONTAINERD_ADDRESS, or containerd's default.

    Accepts a path or `unix://path`. Raises InvalidInput for other schemes, on which containerd never listens.
    """
    address = flag or environ.get("CONTAINERD_ADDRESS") or DEFAULT_ADDRESS
    scheme, separator, rest = address.partition("://")
    if not separator:
        path = address.removeprefix("unix:")
    elif scheme == "unix":
        path = rest
    else:
        raise InvalidInput(
            f"unsupported address {address!r}: containerd listens on a unix socket",
            hint="pass a path, or unix:///path/to/containerd.sock",
        )
    if path.startswith("/") and os.path.normpath(path) == path:
        return path
    from pathlib import Path

    return str(Path(path).absolute())


def resolve_namespace(flag: str | None, environ: Mapping[str, str]) -> str:
    """Return the namespace: the argument, CONTAINERD_NAMESPACE, or `default`.

    Raises InvalidInput for a name that containerd does not accept as an identifier.
    """
    namespace = flag or environ.get("CONTAINERD_NAMESPACE") or DEFAULT_NAMESPACE
    if len(namespace) > _NAMESPACE_MAX or not _NAMESPACE.fullmatch(namespace):
        raise InvalidInput(
            f"invalid namespace {namespace!r}",
            hint="use letters and digits, separated by single `.`, `_` or `-`, at most "
            f"{_NAMESPACE_MAX} characters",
        )
    return namespace


def resolve_snapshotter(flag: str | None, environ: Mapping[str, str]) -> str:
    """Return the snapshotter: the argument, CONTAINERD_SNAPSHOTTER, or "" for the default.

    Raises InvalidInput for a name that is not valid UTF-8.
    """
    name = flag or environ.get("CONTAINERD_SNAPSHOTTER") or ""
    require_utf8(name, "snapshotter")
    return name


def find_sockets(environ: Mapping[str, str], root: Path | None = None) -> tuple[FoundSocket, ...]:
    """Return the containerd sockets on this machine, at the paths that known products use below `root`."""
    from pathlib import Path

    root = root or Path("/")
    candidates = [*_KNOWN_SOCKETS, *_rootless(environ, root)]
    found: dict[str, FoundSocket] = {}
    for owner, path in candidates:
        candidate = root / path.lstrip("/")
        if _is_socket(candidate):
            found.setdefault(os.path.realpath(candidate), FoundSocket(owner, str(candidate)))
    return tuple(found.values())


def _rootless(environ: Mapping[str, str], root: Path) -> list[tuple[str, str]]:
    runtime = environ.get("XDG_RUNTIME_DIR") or f"/run/user/{os.getuid()}"
    try:
        child = (root / runtime.lstrip("/") / "containerd-rootless" / "child_pid").read_text().strip()
    except OSError:
        return []
    # The socket is in the mount namespace of the rootless daemon, which can be reached through /proc.
    return [("rootless", f"/proc/{child}/root{DEFAULT_ADDRESS}")] if child.isdecimal() else []


def _is_socket(path: Path) -> bool:
    try:
        return stat.S_ISSOCK(path.stat().st_mode)
    except OSError:
        return False


def unreachable(
    path: str, environ: Mapping[str, str], detail: str = "", *, argument: str = ADDRESS
) -> DaemonUnreachable:
    """Find out why no containerd answers at `path`, and return an error that says what to do next.

    `detail` is the error of a call through the socket; it is used if the socket accepts connections.
    """
    problem, advice = _socket_problem(path, argument) or _service_problem(path, detail)
    hints = [advice] if advice else []
    others = [
        found for found in find_sockets(environ) if os.path.realpath(found.path) != os.path.realpath(path)
    ]
    if others:
        names = ", ".join(f"{found.path} ({found.owner})" for found in others)
        hints.append(f"other containerd sockets on this machine, for {argument}: {names}")
    return DaemonUnreachable(f"cannot reach containerd at {path}: {problem}", hint="; ".join(hints) or None)


def silent(path: str, seconds: float | None = None) -> DaemonUnreachable:
    """Return the error for a containerd that keeps its socket open but does not answer."""
    how_long = f" for {seconds:g} seconds" if seconds else ""
    return DaemonUnreachable(
        f"containerd at {path} accepts connections, but has not answered{how_long}",
        hint="it may be stopped (SIGSTOP), or waiting for its disk: see `systemctl status containerd` and "
        "its log (journalctl -u containerd)",
    )


def check_socket(path: str, environ: Mapping[str, str], *, argument: str = ADDRESS) -> None:
    """Raise DaemonUnreachable, with the reason, unless a server listens on a socket at `path`."""
    if _socket_problem(path, argument):
        raise unreachable(path, environ, argument=argument)


def _socket_problem(path: str, argument: str) -> tuple[str, str] | None:
    try:
        if not stat.S_ISSOCK(os.stat(path).st_mode):  # noqa: PTH116 - see CONTRIBUTING, start-up
            return "it is not a socket", f"pass the path of containerd's socket as {argument}"
        with _connected(path):
            return None
    except OSError as error:
        return _explain_os_error(path, error, argument)


def _connected(path: str) -> socket.socket:
    client = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    client.settimeout(_PROBE_SECONDS)
    try:
        client.connect(path)
    except BaseException:
        client.close()
        raise
    return client


def _explain_os_error(path: str, error: OSError, argument: str) -> tuple[str, str]:
    start = "start containerd (systemctl start containerd)"
    match error.errno:
        case errno.ENOENT | errno.ENOTDIR:
            return "no such file or directory", f"{start}, or pass its socket as {argument}"
        case errno.EACCES | errno.EPERM:
            return "permission denied", _permission_hint(path)
        case errno.ECONNREFUSED:
            return "connection refused: the socket exists, but nothing is listening on it", start
        case errno.EPROTOTYPE:
            return (
                "it is a socket, but not a stream socket",
                f"pass the path of containerd's socket as {argument}",
            )
        case _:
            return error.strerror or str(error), ""


def _permission_hint(path: str) -> str:
    try:
        owner = os.stat(path)  # noqa: PTH116
    except OSError:
        return "run as root, or rootless containerd as yourself"
    group = f", or as a member of the group with id {owner.st_gid}" if owner.st_mode & stat.S_IWGRP else ""
    return f"run as root{group}"


def _service_problem(path: str, detail: str) -> tuple[str, str]:
    server = _http_server(path)
    if server is None:
        return (
            detail or "it does not answer as containerd does",
            "if it was just restarted, try again; otherwise see its log (journalctl -u containerd)",
        )
    if server.lower().startswith("docker"):
        return "this is Docker's API, not containerd's", "Docker's containerd has its own socket"
    return f"an HTTP server ({server or 'unnamed'}) answers there, not containerd", ""


def _http_server(path: str) -> str | None:
    """Return the Server header of an HTTP/1 server at `path`, None if it is not one.

    /_ping is Docker's health check, and is harmless on any HTTP server.
    """
    request = b"GET /_ping HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    try:
        with _connected(path) as client:
            client.sendall(request)
            response = client.recv(4096)
    except OSError:
        return None
    if not response.startswith(b"HTTP/1."):
        return None
    header = re.search(rb"^server:[ \t]*([^\r\n]*)", response, re.IGNORECASE | re.MULTILINE)
    return header.group(1).decode("latin-1").strip() if header else ""

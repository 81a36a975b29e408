"""Parse the address of another containerd: a socket on this machine, or on one that ssh reaches.

    unix:///run/k3s/containerd/containerd.sock?namespace=k8s.io
    ssh://[USER@]HOST[:PORT][/PATH/TO/SOCKET][?namespace=NAME]

The path is that of the socket, as in the ssh addresses of docker and podman. `ssh://HOST/NAME` is short for
`ssh://HOST?namespace=NAME`: a path with one component is a namespace.
"""

from __future__ import annotations

import re
from typing import Final

import msgspec

from pyctrd.containerd.address import DEFAULT_ADDRESS, resolve_address, resolve_namespace
from pyctrd.errors import InvalidInput, require_utf8

_HINT: Final = (
    "write ssh://[USER@]HOST[:PORT][/SOCKET] or unix:///SOCKET; "
    "?namespace=NAME at the end chooses a namespace"
)
# None of them begins with a dash, which ssh would take for an option. Users may be user@domain.
_USER = re.compile(r"[A-Za-z0-9_.+][A-Za-z0-9_.+@\\-]*")
_HOST = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*|\[[0-9A-Fa-f:.]+(?:%[A-Za-z0-9_.-]+)?\]")
_PORT = re.compile(r"[0-9]{1,5}")
# Other characters have a meaning for ssh (`:`, `%`, `${}`), or for the shell there.
_SOCKET = re.compile(r"(?:/[A-Za-z0-9_.@+-]+)+")


class Endpoint(msgspec.Struct, frozen=True, kw_only=True):
    """A containerd and a namespace in it; an empty `host` is this machine.

    `user` and `port` are empty if ssh's configuration chooses them.
    """

    host: str = ""
    user: str = ""
    port: str = ""
    path: str
    namespace: str

    @property
    def name(self) -> str:
        """The address, without the namespace."""
        if not self.host:
            return f"unix://{self.path}"
        user = f"{self.user}@" if self.user else ""
        host = f"[{self.host}]" if ":" in self.host else self.host
        port = f":{self.port}" if self.port else ""
        return f"ssh://{user}{host}{port}{'' if self.path == DEFAULT_ADDRESS else self.path}"

    @property
    def login(self) -> str:
        """`[USER@]HOST`, as the command line of ssh has it."""
        return f"{self.user}@{self.host}" if self.user else self.host


def parse(text: str, namespace: str) -> Endpoint:
    """Parse an address; `namespace` is used if it does not name one. Raises InvalidInput."""
    require_utf8(text, "address")
    address, _, query = text.partition("?")
    chosen = _namespace(text, query)
    scheme, separator, rest = address.partition("://")
    if scheme == "ssh" and separator:
        return _over_ssh(text, rest, chosen, namespace)
    if not separator and not address.startswith("/"):
        raise _invalid(text, "neither an ssh:// address nor a socket")
    if rest == "" and separator:
        raise _invalid(text, "it has no path")
    return Endpoint(path=resolve_address(address, {}), namespace=resolve_namespace(chosen or namespace, {}))


def _namespace(text: str, query: str) -> str:
    if not query:
        return ""
    key, _, value = query.partition("=")
    if key != "namespace" or not value or "&" in value:
        raise _invalid(text, "only ?namespace=NAME may follow the address")
    return resolve_namespace(value, {})


def _over_ssh(text: str, rest: str, chosen: str, namespace: str) -> Endpoint:
    authority, slash, path = rest.partition("/")
    user, _, place = authority.rpartition("@")
    if ":" in user:
        raise InvalidInput(
            "an ssh address must not contain a password",
            hint="ssh asks for it on a terminal; better, use a key or an agent",
        )
    found = re.fullmatch(r"(\[[^]]*\]|[^:]*)(?::(.*))?", place)
    host, port = found.groups(default="") if found else ("", "")
    if not _HOST.fullmatch(host) or (user and not _USER.fullmatch(user)) or ("@" in authority and not user):
        raise _invalid(text, "it has no valid host")
    if found and found[2] is not None and not (_PORT.fullmatch(port) and 0 < int(port) < 65536):
        raise _invalid(text, f"{port!r} is not a port")
    socket = f"/{path.rstrip('/')}" if path.strip("/") else ""
    if socket and "/" not in socket[1:]:
        if chosen:
            raise _invalid(text, "it names two namespaces, or the path of the socket is not complete")
        chosen, socket = resolve_namespace(socket[1:], {}), ""
    if socket and not _SOCKET.fullmatch(socket):
        raise _invalid(text, f"{slash}{path} is not the path of a socket")
    return Endpoint(
        host=host.strip("[]"),
        user=user,
        port=port,
        path=socket or DEFAULT_ADDRESS,
        namespace=resolve_namespace(chosen or namespace, {}),
    )


def _invalid(text: str, why: str) -> InvalidInput:
    return InvalidInput(f"invalid address {text!r}: {why}", hint=_HINT)

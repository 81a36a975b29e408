"""Guard against server-side request forgery: a registry must not direct requests to services of this machine.

A registry names other hosts: in a redirect, as its token server, as the source of a foreign layer. The check
is made on the address that is connected to, so that DNS cannot be used to get around it. Behind a proxy only
the URL is known: there every spelling of an address that a resolver accepts is checked. Address blocks:
RFC 1122, RFC 1918, RFC 2765, RFC 3927, RFC 4193, RFC 4291, RFC 6052, RFC 6598, RFC 8215.
"""

from __future__ import annotations

import enum
import ipaddress
import socket
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final, TypeAlias
from urllib.parse import unquote

IpAddress: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address
AddressInfo: TypeAlias = tuple[int, int, int, str, Sequence[Any]]
Resolve: TypeAlias = Callable[[str, int], Iterable[AddressInfo]]


class AddressKind(enum.Enum):
    """Which part of the network an address belongs to; the value is for messages."""

    LOOPBACK = "loopback"
    LINK_LOCAL = "link-local"
    METADATA = "cloud metadata"
    PRIVATE = "private"
    PUBLIC = "public"


def _networks(*texts: str) -> tuple[ipaddress.IPv4Network | ipaddress.IPv6Network, ...]:
    return tuple(ipaddress.ip_network(text) for text in texts)


# 0.0.0.0/8 and :: are this machine, too, on Linux.
_LOOPBACK: Final = _networks("127.0.0.0/8", "0.0.0.0/8", "::1/128", "::/128")
_LINK_LOCAL: Final = _networks("169.254.0.0/16", "fe80::/10")
# Metadata services, which have a machine's credentials, outside the link-local addresses: Alibaba, Azure,
# Oracle; AWS, Google, Oracle, Scaleway.
_METADATA: Final = _networks(
    "100.100.100.200/32",
    "168.63.129.16/32",
    "192.0.0.192/32",
    "fd00:ec2::254/128",
    "fd20:ce::254/128",
    "fd00:c1::a9fe:a9fe/128",
    "fd00:42::42/128",
)
_PRIVATE: Final = _networks("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "fc00::/7")
# IPv6 addresses with an IPv4 address in their last four bytes.
_CONTAINING_IPV4: Final = _networks(
    "::ffff:0:0/96", "::ffff:0:0:0/96", "::/96", "64:ff9b::/96", "64:ff9b:1::/48"
)

# Names of loopback in /etc/hosts of Linux distributions, and of metadata services in the DNS of clouds.
_LOOPBACK_NAMES: Final = frozenset({"localhost", "localhost4", "localhost6", "ip6-localhost", "ip6-loopback"})
_LOOPBACK_DOMAINS: Final = frozenset({"", "localdomain", "localdomain4", "localdomain6"})
_METADATA_NAMES: Final = frozenset(
    {"metadata", "metadata.google.internal", "metadata.goog", "instance-data", "instance-data.ec2.internal"}
)

# Which hosts may direct us to an address of a kind. Every host may direct reads to private and public ones.
_MAY_SEND: Final = {
    AddressKind.LOOPBACK: frozenset({AddressKind.LOOPBACK, AddressKind.PRIVATE}),
    AddressKind.LINK_LOCAL: frozenset({AddressKind.LINK_LOCAL}),
    AddressKind.METADATA: frozenset({AddressKind.METADATA}),
}
_MAY_SEND_WRITES: Final = {**_MAY_SEND, AddressKind.PRIVATE: frozenset(AddressKind) - {AddressKind.PUBLIC}}
_RANK: Final = {
    AddressKind.LOOPBACK: 0,
    AddressKind.LINK_LOCAL: 1,
    AddressKind.METADATA: 2,
    AddressKind.PRIVATE: 3,
    AddressKind.PUBLIC: 4,
}


class Forbidden(Exception):
    """A name or address that a host may not direct us to, and its kind."""

    def __init__(self, host: str, address: str, kind: AddressKind) -> None:
        shown = address if address == host else f"{host} ({address})"
        super().__init__(f"{shown} is a {kind.value} address")
        self.kind = kind


def kind_of(address: str) -> AddressKind:
    """Return the kind of an IP address; IPv4 within IPv6 counts as IPv4. Raises ValueError for a name."""
    found = _unwrapped(ipaddress.ip_address(address.strip("[]").partition("%")[0]))
    for kind, networks in (
        (AddressKind.METADATA, _METADATA),
        (AddressKind.LOOPBACK, _LOOPBACK),
        (AddressKind.LINK_LOCAL, _LINK_LOCAL),
        (AddressKind.PRIVATE, _PRIVATE),
    ):
        if any(found.version == network.version and found in network for network in networks):
            return kind
    return AddressKind.PUBLIC


def _unwrapped(address: IpAddress) -> IpAddress:
    if isinstance(address, ipaddress.IPv4Address) or int(address) <= 1:  # :: and ::1
        return address
    if address.sixtofour is not None:
        return address.sixtofour
    if any(address in network for network in _CONTAINING_IPV4):
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return address


def may_send(sender: AddressKind | None, target: AddressKind, *, writes: bool = False) -> bool:
    """Whether a host of the kind `sender` may direct us to `target`, to read or to write there.

    None is the user, who may do anything.
    """
    rules = _MAY_SEND_WRITES if writes else _MAY_SEND
    return sender is None or sender in rules.get(target, frozenset(AddressKind))


def most_public(first: AddressKind | None, second: AddressKind) -> AddressKind:
    """Return the kind with fewer rights, so that a name that was public once never becomes a local one."""
    return second if first is None or _RANK[second] > _RANK[first] else first


def literal_kind(host: str) -> AddressKind | None:
    """Return the kind of an address in any spelling, or of a name of loopback or a metadata service.

    None for any other name.
    """
    name = _ascii(unquote(host.strip("[]"))).lower().rstrip(".")
    first, _, domain = name.partition(".")
    if name.endswith(".localhost") or (first in _LOOPBACK_NAMES and domain in _LOOPBACK_DOMAINS):
        return AddressKind.LOOPBACK
    if name in _METADATA_NAMES:
        return AddressKind.METADATA
    try:
        return kind_of(name)
    except ValueError:
        return _kind_of_odd_ipv4(name)


def _ascii(name: str) -> str:
    """Return a name as DNS encodes it: other digits and full stops become those of ASCII."""
    try:
        return name if name.isascii() else name.encode("idna").decode("ascii")
    except UnicodeError:
        return name


def _kind_of_odd_ipv4(text: str) -> AddressKind | None:
    """Return the kind of an IPv4 address as inet_aton(3) reads it: octal, hexadecimal, with fewer parts."""
    try:
        return kind_of(socket.inet_ntoa(socket.inet_aton(text)))
    except (OSError, ValueError):
        return None


def check_literal(host: str, sender: AddressKind | None, *, writes: bool = False) -> None:
    """Raise Forbidden for an address (or a name of loopback) that `sender` must not name."""
    kind = literal_kind(host)
    if kind is not None and not may_send(sender, kind, writes=writes):
        raise Forbidden(host, host, kind)


def resolve(host: str, port: int) -> Iterable[AddressInfo]:
    """Ask the system for the addresses of a name."""
    return socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)


def dial(
    host: str,
    port: int,
    *,
    sender: AddressKind | None,
    writes: bool = False,
    seconds: float | None,
    options: Iterable[tuple[Any, ...]] = (),
    resolver: Resolve = resolve,
) -> tuple[socket.socket, AddressKind]:
    """Connect to the first address of a name that responds, within `seconds` for all of them together.

    Returns the socket and the kind of its peer's address. Raises Forbidden if `sender` must not direct us to
    any of the addresses (no connection is tried), OSError if none responds, socket.gaierror for an unknown
    name.
    """
    forbidden: Forbidden | None = None
    allowed = []
    for family, _type, _protocol, _name, address in resolver(host.strip("[]"), port):
        kind = kind_of(str(address[0]))
        if may_send(sender, kind, writes=writes):
            allowed.append((family, address, kind))
        else:
            forbidden = Forbidden(host, str(address[0]), kind)
    if not allowed:
        raise forbidden or OSError(f"{host} has no address")
    return _first_to_answer(allowed, seconds, tuple(options))


def _first_to_answer(
    targets: Sequence[tuple[int, Sequence[Any], AddressKind]],
    seconds: float | None,
    options: Iterable[tuple[Any, ...]],
) -> tuple[socket.socket, AddressKind]:
    deadline = None if seconds is None else time.monotonic() + seconds
    failure = OSError("no address")
    for number, (family, address, kind) in enumerate(targets):
        link = socket.socket(family, socket.SOCK_STREAM)
        try:
            for option in options:
                link.setsockopt(*option)
            if deadline is not None:
                # An equal share for each address, since the first one may not respond at all.
                link.settimeout(max(0.05, (deadline - time.monotonic()) / (len(targets) - number)))
            link.connect(tuple(address))
        except OSError as error:
            link.close()
            failure = error
        else:
            link.settimeout(seconds)
            return link, kind
    raise failure

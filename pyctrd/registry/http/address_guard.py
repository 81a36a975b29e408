"""Where an address lies, and who may send us there: no registry makes us ask services of this machine.

A registry names other places: in a redirect, as its token server, as the source of a foreign layer. What
counts is the address that is really connected to, so that a name that resolves to another one gains nothing.
Behind a proxy only the text of the URL is known: there every spelling of an address counts that a resolver
takes. Address blocks: RFC 1122, RFC 1918, RFC 2765, RFC 3927, RFC 4193, RFC 4291, RFC 6052, RFC 6598,
RFC 8215.
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


class Zone(enum.Enum):
    """A part of the network, by who can be reached there; the value is for people."""

    LOOPBACK = "loopback"
    LINK_LOCAL = "link-local"
    METADATA = "cloud metadata"
    PRIVATE = "private"
    PUBLIC = "public"


def _networks(*texts: str) -> tuple[ipaddress.IPv4Network | ipaddress.IPv6Network, ...]:
    return tuple(ipaddress.ip_network(text) for text in texts)


# 0.0.0.0/8 and :: are this machine, too: Linux connects to itself.
_LOOPBACK: Final = _networks("127.0.0.0/8", "0.0.0.0/8", "::1/128", "::/128")
_LINK_LOCAL: Final = _networks("169.254.0.0/16", "fe80::/10")
# Where clouds outside link-local addresses keep a machine's credentials: Alibaba, Azure, Oracle; AWS, Google,
# Oracle, Scaleway.
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
# IPv6 addresses that hold an IPv4 one in their last four bytes.
_HOLDING_IPV4: Final = _networks(
    "::ffff:0:0/96", "::ffff:0:0:0/96", "::/96", "64:ff9b::/96", "64:ff9b:1::/48"
)

# What Linux distributions call loopback in /etc/hosts, and clouds their metadata service in DNS.
_LOOPBACK_NAMES: Final = frozenset({"localhost", "localhost4", "localhost6", "ip6-localhost", "ip6-loopback"})
_LOOPBACK_DOMAINS: Final = frozenset({"", "localdomain", "localdomain4", "localdomain6"})
_METADATA_NAMES: Final = frozenset(
    {"metadata", "metadata.google.internal", "metadata.goog", "instance-data", "instance-data.ec2.internal"}
)

# From where one may be sent into a zone; everybody may be sent to read at private and public addresses.
_MAY_SEND: Final = {
    Zone.LOOPBACK: frozenset({Zone.LOOPBACK, Zone.PRIVATE}),
    Zone.LINK_LOCAL: frozenset({Zone.LINK_LOCAL}),
    Zone.METADATA: frozenset({Zone.METADATA}),
}
_MAY_SEND_WRITES: Final = {**_MAY_SEND, Zone.PRIVATE: frozenset(Zone) - {Zone.PUBLIC}}
_RANK: Final = {
    Zone.LOOPBACK: 0,
    Zone.LINK_LOCAL: 1,
    Zone.METADATA: 2,
    Zone.PRIVATE: 3,
    Zone.PUBLIC: 4,
}


class Forbidden(Exception):
    """A name or address that we may not be sent to; `zone` is where it lies."""

    def __init__(self, host: str, address: str, zone: Zone) -> None:
        shown = address if address == host else f"{host} ({address})"
        super().__init__(f"{shown} is a {zone.value} address")
        self.zone = zone


def zone_of(address: str) -> Zone:
    """Tell where an IP address lies; IPv4 inside of IPv6 counts as IPv4. Raises ValueError for a name."""
    found = _unwrapped(ipaddress.ip_address(address.strip("[]").partition("%")[0]))
    for zone, networks in (
        (Zone.METADATA, _METADATA),
        (Zone.LOOPBACK, _LOOPBACK),
        (Zone.LINK_LOCAL, _LINK_LOCAL),
        (Zone.PRIVATE, _PRIVATE),
    ):
        if any(found.version == network.version and found in network for network in networks):
            return zone
    return Zone.PUBLIC


def _unwrapped(address: IpAddress) -> IpAddress:
    if isinstance(address, ipaddress.IPv4Address) or int(address) <= 1:  # :: and ::1
        return address
    if address.sixtofour is not None:
        return address.sixtofour
    if any(address in network for network in _HOLDING_IPV4):
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return address


def may_send(sender: Zone | None, target: Zone, *, writes: bool = False) -> bool:
    """Whether who lies in `sender` may send us to `target`, to read or to write there.

    None is the user, who may do anything.
    """
    rules = _MAY_SEND_WRITES if writes else _MAY_SEND
    return sender is None or sender in rules.get(target, frozenset(Zone))


def most_public(first: Zone | None, second: Zone) -> Zone:
    """Give the zone with fewer rights: a name that once was public never becomes a local one."""
    return second if first is None or _RANK[second] > _RANK[first] else first


def literal_zone(host: str) -> Zone | None:
    """Where an address, in any spelling, or a name of loopback or of a metadata service lies.

    None for any other name.
    """
    name = _ascii(unquote(host.strip("[]"))).lower().rstrip(".")
    first, _, domain = name.partition(".")
    if name.endswith(".localhost") or (first in _LOOPBACK_NAMES and domain in _LOOPBACK_DOMAINS):
        return Zone.LOOPBACK
    if name in _METADATA_NAMES:
        return Zone.METADATA
    try:
        return zone_of(name)
    except ValueError:
        return _zone_of_odd_ipv4(name)


def _ascii(name: str) -> str:
    """Return a name as DNS has it: other digits and full stops become those of ASCII."""
    try:
        return name if name.isascii() else name.encode("idna").decode("ascii")
    except UnicodeError:
        return name


def _zone_of_odd_ipv4(text: str) -> Zone | None:
    """Where an IPv4 address in decimal, octal or hexadecimal, or of fewer parts, lies (inet_aton(3))."""
    try:
        return zone_of(socket.inet_ntoa(socket.inet_aton(text)))
    except (OSError, ValueError):
        return None


def check_literal(host: str, sender: Zone | None, *, writes: bool = False) -> None:
    """Raise Forbidden for an address (or a name of loopback) that `sender` must not name; names pass."""
    zone = literal_zone(host)
    if zone is not None and not may_send(sender, zone, writes=writes):
        raise Forbidden(host, host, zone)


def resolve(host: str, port: int) -> Iterable[AddressInfo]:
    """Ask the system for the addresses of a name."""
    return socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)


def dial(
    host: str,
    port: int,
    *,
    sender: Zone | None,
    writes: bool = False,
    seconds: float | None,
    options: Iterable[tuple[Any, ...]] = (),
    resolver: Resolve = resolve,
) -> tuple[socket.socket, Zone]:
    """Connect to the first address of a name that answers, within `seconds` for all of them together.

    Gives the socket and where its other end lies. Raises Forbidden when every address is one that `sender`
    must not send us to (none of them is touched), OSError when none answers, socket.gaierror for an unknown
    name.
    """
    forbidden: Forbidden | None = None
    allowed = []
    for family, _type, _protocol, _name, address in resolver(host.strip("[]"), port):
        zone = zone_of(str(address[0]))
        if may_send(sender, zone, writes=writes):
            allowed.append((family, address, zone))
        else:
            forbidden = Forbidden(host, str(address[0]), zone)
    if not allowed:
        raise forbidden or OSError(f"{host} has no address")
    return _first_to_answer(allowed, seconds, tuple(options))


def _first_to_answer(
    targets: Sequence[tuple[int, Sequence[Any], Zone]],
    seconds: float | None,
    options: Iterable[tuple[Any, ...]],
) -> tuple[socket.socket, Zone]:
    deadline = None if seconds is None else time.monotonic() + seconds
    failure = OSError("no address")
    for number, (family, address, zone) in enumerate(targets):
        link = socket.socket(family, socket.SOCK_STREAM)
        try:
            for option in options:
                link.setsockopt(*option)
            if deadline is not None:
                # A fair share for each address: the first one may be a black hole.
                link.settimeout(max(0.05, (deadline - time.monotonic()) / (len(targets) - number)))
            link.connect(tuple(address))
        except OSError as error:
            link.close()
            failure = error
        else:
            link.settimeout(seconds)
            return link, zone
    raise failure

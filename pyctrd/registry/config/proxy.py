"""The proxy for a request: HTTP_PROXY, HTTPS_PROXY and NO_PROXY, in upper or lower case.

Interpreted as by Go's net/http (networks, ports; loopback is never proxied; upper case takes precedence),
since these variables are usually set for containerd and Docker. Source: golang.org/x/net/http/httpproxy.
"""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Mapping
from urllib.parse import urlsplit

import msgspec

from pyctrd.registry.config.endpoints import is_loopback, split_port


class ProxyChoice(msgspec.Struct, frozen=True):
    """How to reach a host: `url` of the proxy (it may contain a password) or None, and the reason.

    `variable` is the variable that names a proxy, "" if there is none; `excluded_by` is why that proxy is not
    used ("" if it is): `loopback`, or the matching entry of NO_PROXY.
    """

    url: str | None
    variable: str = ""
    excluded_by: str = ""


def choose(scheme: str, host: str, environ: Mapping[str, str] = os.environ) -> ProxyChoice:
    """Choose the proxy for host[:port]."""
    variable = _variable(f"{scheme}_proxy", environ)
    # In a CGI program HTTP_PROXY is the client's "Proxy" header (httpoxy): Go ignores it there, too.
    if not variable or (variable == "HTTP_PROXY" and "REQUEST_METHOD" in environ):
        return ProxyChoice(None)
    if is_loopback(host):
        return ProxyChoice(None, variable, "loopback")
    no_proxy = _variable("no_proxy", environ)
    for entry in environ.get(no_proxy, "").lower().split(","):
        if _matches(scheme, host.lower(), entry.strip()):
            return ProxyChoice(None, variable, f"{no_proxy}: {entry.strip()}")
    url = environ[variable]
    return ProxyChoice(url if "://" in url else f"http://{url}", variable)


def without_secrets(url: str) -> str:
    """Return scheme, host and path of a URL without user and query, for logs and errors."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return "(not a URL)"
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def _variable(name: str, environ: Mapping[str, str]) -> str:
    """Return the name of the variable that is set, upper case first, or ""."""
    return next((item for item in (name.upper(), name) if environ.get(item)), "")


def _matches(scheme: str, host: str, entry: str) -> bool:
    """Whether an entry of NO_PROXY matches a host: `*`, a network, an address or a domain, perhaps a port."""
    if not entry or entry == "*":
        return entry == "*"
    name, port = split_port(host)
    port = port or ("80" if scheme == "http" else "443")
    address = _address(name)
    if "/" in entry:
        return address is not None and _is_in_network(address, entry)
    wanted, wanted_port = (entry, "") if _address(entry) else split_port(entry)
    if not wanted or wanted_port not in ("", port):
        return False
    if address is not None:
        return _address(wanted) == address
    domain = wanted.removeprefix("*") if wanted.startswith("*.") else wanted
    # `.example.org` matches everything below it, `example.org` also the name itself.
    return name.endswith(domain if domain.startswith(".") else f".{domain}") or name == domain


def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(text.removeprefix("[").removesuffix("]"))
    except ValueError:
        return None


def _is_in_network(address: ipaddress.IPv4Address | ipaddress.IPv6Address, network: str) -> bool:
    try:
        return address in ipaddress.ip_network(network, strict=False)
    except ValueError:
        return False

"""Which proxy a request goes through: HTTP_PROXY, HTTPS_PROXY and NO_PROXY, in either case.

The standard library finds the variables. NO_PROXY is read as Go's net/http does it (networks, ports; loopback
is never proxied), since operators write these variables for containerd and Docker.
"""

from __future__ import annotations

import ipaddress
from urllib.parse import urlsplit
from urllib.request import getproxies_environment

from pyctrd.registry.hosts import is_loopback


def proxy_for(scheme: str, host: str) -> str | None:
    """Give the URL of the proxy to use for host[:port], or None for a direct connection."""
    proxies = getproxies_environment()
    url = proxies.get(scheme)
    if not url or is_loopback(host) or _is_excluded(host, proxies):
        return None
    return url if "://" in url else f"http://{url}"


def without_secrets(url: str) -> str:
    """Give scheme, host and path of a URL, without user information and query: fit for logs and errors."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return "(not a URL)"
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def _is_excluded(host: str, proxies: dict[str, str]) -> bool:
    """Read NO_PROXY: `*`, host or host:port, a domain with all below it, an address or a network."""
    name = (urlsplit(f"//{host}").hostname or "").lower()
    for item in proxies.get("no", "").lower().split(","):
        entry = item.strip()
        domain = entry.removeprefix("*").removeprefix(".")
        if entry and (entry in ("*", host.lower()) or name == domain or name.endswith(f".{domain}")):
            return True
        if _is_in_network(name, entry):
            return True
    return False


def _is_in_network(name: str, network: str) -> bool:
    try:
        return ipaddress.ip_address(name) in ipaddress.ip_network(network.strip("[]"), strict=False)
    except ValueError:
        return False

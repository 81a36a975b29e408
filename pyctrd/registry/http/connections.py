"""urllib3's connection pools with two additions: the address guard, and limits for responses.

Only this module, transport.py and response.py import urllib3.
"""

from __future__ import annotations

import base64
import functools
import os
import socket
import ssl
from collections.abc import Callable
from typing import Any, Final
from urllib.parse import unquote, unquote_to_bytes, urlsplit

import urllib3
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import (
    ConnectTimeoutError,
    NameResolutionError,
    NewConnectionError,
)
from urllib3.util.ssltransport import SSLTransport

from pyctrd import redact
from pyctrd.registry.config.endpoints import Tls
from pyctrd.registry.http import address_guard
from pyctrd.registry.http.address_guard import AddressKind, Resolve
from pyctrd.registry.http.limited_response import LimitedResponse
from pyctrd.registry.http.tls import load

_POOLED_CONNECTIONS: Final = 16

Connected = Callable[[str, int, AddressKind], None]
Known = Callable[[str, int], AddressKind | None]


def new_pool(
    tls: Tls | None,
    proxy: str | None,
    sender: AddressKind | None,
    *,
    writes: bool,
    known: Known,
    connected: Connected,
    head_seconds: float,
    stall_seconds: float,
    opened: Callable[[socket.socket], None] = lambda _connection: None,
    resolver: Resolve = address_guard.resolve,
) -> urllib3.PoolManager:
    """Return a pool of connections to the hosts that `sender` may direct us to, to write there if `writes`.

    `connected` is called with the host, port and address kind of each connection, `opened` with its socket.

    Without a sender, the user chose the host; but one whose address is `known` must not become a local one
    by a change in DNS. A proxy, which the user chose as well, may have any address. The head of a response,
    or of a proxy's response to CONNECT, must be complete after `head_seconds`, also when some bytes keep
    coming; a piece of a body, including its framing, after `stall_seconds`.
    """
    settings: dict[str, Any] = {"num_pools": _POOLED_CONNECTIONS, "maxsize": _POOLED_CONNECTIONS}
    if tls is not None:
        settings["ssl_context"] = tls_context(tls)
    pool = urllib3.PoolManager(**settings) if proxy is None else _to_proxy(proxy, settings)

    def dial(link: HTTPConnection) -> socket.socket:
        seconds = link.timeout if isinstance(link.timeout, int | float) else None
        host = link.host.strip("[]")
        found, kind = address_guard.dial(
            host,
            link.port,
            sender=None if proxy else sender or known(host, link.port),
            writes=writes,
            seconds=seconds,
            options=link.socket_options or (),
            resolver=resolver,
        )
        if proxy is None:
            connected(host, link.port, kind)
        return found

    pool.pool_classes_by_scheme = _pool_classes(
        dial, opened, head_seconds, stall_seconds, verify=tls is None or not tls.skip_verify
    )
    return pool


def _to_proxy(proxy: str, settings: dict[str, Any]) -> urllib3.ProxyManager:
    """Return a pool behind a proxy, with the login in its URL (percent-decoded, as Go's net/http does)."""
    user = urlsplit(proxy)
    if user.username is not None:
        password = user.password or ""
        pair = b":".join(
            unquote_to_bytes(text.encode("utf-8", "surrogateescape")) for text in (user.username, password)
        )
        encoded = base64.b64encode(pair).decode("ascii")
        redact.remember(password, unquote(password), encoded)
        settings["proxy_headers"] = {"Proxy-Authorization": f"Basic {encoded}"}
    return urllib3.ProxyManager(proxy, **settings)


def _pool_classes(
    dial: Callable[[HTTPConnection], socket.socket],
    opened: Callable[[socket.socket], None],
    head_seconds: float,
    stall_seconds: float,
    *,
    verify: bool,
) -> dict[str, Any]:
    """Return urllib3's two kinds of pools, with connections made by `dial` and limits for responses."""
    response = staticmethod(
        functools.partial(LimitedResponse, head_seconds=head_seconds, stall_seconds=stall_seconds)
    )

    class Plain(HTTPConnection):
        response_class = response  # type: ignore[assignment]

        def connect(self) -> None:
            super().connect()
            opened(_socket(self.sock))
            # The user has chosen not to verify; urllib3 would warn of each request.
            self.is_verified = self.is_verified or not verify

        def _new_conn(self) -> socket.socket:
            return _dialed(self, dial)

        def getresponse(self) -> Any:
            return _head(self, super().getresponse)

    class Secure(Plain, HTTPSConnection):
        """The same with TLS."""

    class PlainPool(urllib3.HTTPConnectionPool):
        ConnectionCls = Plain

    class SecurePool(urllib3.HTTPSConnectionPool):
        ConnectionCls = Secure

    return {"http": PlainPool, "https": SecurePool}


def _dialed(link: HTTPConnection, dial: Callable[[HTTPConnection], socket.socket]) -> socket.socket:
    """Connect, raising the exceptions that urllib3 expects."""
    try:
        return dial(link)
    except socket.gaierror as error:
        raise NameResolutionError(link.host, link, error) from error
    except TimeoutError as error:
        raise ConnectTimeoutError(link, f"connecting to {link.host} timed out") from error
    except OSError as error:
        raise NewConnectionError(link, f"cannot connect: {error}") from error


def _head(connection: HTTPConnection, read: Callable[[], Any]) -> Any:
    """Read the head of a response; close the connection at once if it is invalid.

    urllib3 loses the reader of a head that it refuses, which keeps the connection open.
    """
    link = _socket(connection.sock)
    try:
        return read()
    except Exception:
        if link is not None and link.fileno() >= 0:
            os.close(link.detach())
        raise


def tls_context(tls: Tls) -> ssl.SSLContext:
    """Return the TLS settings of an endpoint: the authorities of the system, and those that are configured.

    Raises RegistryError naming the file that cannot be used.
    """
    context = ssl.create_default_context()
    if tls.skip_verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    load(context, tls)
    return context


def _socket(link: Any) -> Any:
    """Return the socket of a connection: TLS within the TLS of a proxy is not one itself."""
    return link.socket if isinstance(link, SSLTransport) else link

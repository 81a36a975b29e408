"""HTTP independent of registries: redirects, retries, and errors that name the cause.

Callers see only Request, Response and RegistryError, and no types of urllib3.
"""

from __future__ import annotations

import functools
import re
import threading
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Final
from urllib.parse import SplitResult, urljoin, urlsplit

import msgspec
import urllib3
from urllib3.exceptions import HTTPError

from pyctrd import redact
from pyctrd.errors import Cancelled, ClientClosed, RegistryError
from pyctrd.registry.config import proxy as proxies
from pyctrd.registry.config.endpoints import NO_TLS, Tls, is_url_text
from pyctrd.registry.config.proxy import without_secrets
from pyctrd.registry.http import address_guard, errors
from pyctrd.registry.http.address_guard import AddressKind, Resolve
from pyctrd.registry.http.connections import new_pool
from pyctrd.registry.http.request_body import Stream, length_header, opened
from pyctrd.registry.http.response import Response, unreachable
from pyctrd.registry.http.retry import (
    CONNECT_TIMEOUT_SECONDS,
    FREE_STALLS,
    HEAD_STALLS,
    STALL_TIMEOUT_SECONDS,
    TRANSIENT_STATUSES,
    TRIES,
    Budget,
    seconds_to_wait,
)
from pyctrd.registry.http.shutdown import Shutdown, Why
from pyctrd.registry.http.telemetry import Exchange
from pyctrd.registry.values import Confidential
from pyctrd.version import __version__

if TYPE_CHECKING:
    from pyctrd.tracing import Tracing

MAX_REDIRECTS: Final = 10

_REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})
_CONTROL: Final = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")

_log = redact.logger("pyctrd.registry")


class Request(Confidential, frozen=True):
    """What to send. `headers` and `body` may contain secrets, so they are not part of the repr.

    `private` headers and a `body` of bytes are sent only to the origin of the URL, never to another one
    after a redirect. `named_by` is the URL of the registry that named this one (as token server, as
    source of a layer): its address decides which addresses this request may reach; "" means that the user
    chose the URL, which may be any. `tries` is the total number of attempts.
    """

    HIDDEN = frozenset({"headers", "private", "body", "proxy"})

    method: str
    url: str
    headers: Mapping[str, str] = msgspec.field(default_factory=dict)
    private: Mapping[str, str] = msgspec.field(default_factory=dict)
    body: bytes | Stream | None = None
    tls: Tls = NO_TLS
    connect_timeout: float | None = None
    tries: int = TRIES
    proxy: str = ""  # "" leaves it to the environment
    named_by: str = ""

    @property
    def host(self) -> str:
        """The host[:port] of the URL."""
        return urlsplit(self.url).netloc


class Transport:
    """Sends requests over reused connections; thread safe. Close it, or use it as a context manager."""

    def __init__(
        self,
        *,
        connect_timeout: float = CONNECT_TIMEOUT_SECONDS,
        stall_timeout: float = STALL_TIMEOUT_SECONDS,
        budget: Budget | None = None,
        sleep: Callable[[float], None] | None = None,
        resolver: Resolve = address_guard.resolve,
        tracing: Tracing | None = None,
    ) -> None:
        self._tracing = tracing
        self._connect_timeout = connect_timeout
        self.stall_timeout = stall_timeout
        self.budget = budget or Budget()
        self.sleep = sleep or self.pause
        self._shutdown = Shutdown()
        self._resolver = resolver
        self._lock = threading.Lock()
        self._pools: dict[tuple[Tls | None, str | None, AddressKind | None, bool], urllib3.PoolManager] = {}
        # The kind of address that each host:port had when a connection was opened.
        self._kinds: dict[tuple[str, int], AddressKind] = {}

    def __enter__(self) -> Transport:
        """Return the transport itself."""
        return self

    def __exit__(self, *_exc: object) -> None:
        """Close all connections."""
        self.close()

    def close(self) -> None:
        """Close all connections; requests in progress and later ones raise ClientClosed."""
        self._end(lambda: ClientClosed("the client is closed"))

    def cancel(self) -> None:
        """Shut down all connections; requests in progress and later ones raise Cancelled."""
        self._end(lambda: Cancelled("the operation was cancelled"))

    def _end(self, why: Why) -> None:
        self._shutdown.begin(why)
        with self._lock:
            pools = list(self._pools.values())
            self._pools.clear()
        for pool in pools:
            pool.clear()

    def pause(self, seconds: float) -> None:
        """Sleep. Raises the error of `close` or `cancel` as soon as one is called."""
        self._shutdown.wait(seconds)

    def send(self, request: Request) -> Response:
        """Send a request, follow redirects, and retry; return the last response, of any status.

        Raises RegistryUnreachable if there was no response, RegistryError for a redirect that is not
        followed, or to an address that this request may not reach. TRANSIENT_STATUSES are retried; when the
        attempts or the budget are used up, their response is returned.
        """
        for attempt in range(1, request.tries):
            try:
                response = self._follow(request)
            except errors.Unreachable as error:
                pause = seconds_to_wait(attempt)
                if not errors.is_transient(error) or not self.budget.spend(pause):
                    raise
                reason, status = error.message, None
            else:
                pause = seconds_to_wait(attempt, response.header("Retry-After"))
                if response.status not in TRANSIENT_STATUSES or not self.budget.spend(pause):
                    return response
                reason, status = f"{response.host}: status {response.status}", response.status
                response.close()
            _log.info(
                "%s; trying again in %.1f s",
                reason,
                pause,
                extra={"host": request.host, "status": status, "pause": pause},
            )
            self.sleep(pause)
        return self._follow(request)

    def _follow(self, request: Request) -> Response:
        """Send and follow redirects, if the registry that names a URL may direct us there."""
        request = msgspec.structs.replace(request, named_by=request.named_by or request.url)
        try:
            named_by = urlsplit(request.named_by)
            _origin(urlsplit(request.url))
        except ValueError as error:
            raise unreachable(error, request.url, None) from error
        for _hop in range(MAX_REDIRECTS + 1):
            own = _origin(urlsplit(request.url)) == _origin(named_by)
            # A host without a direct connection, for example behind a proxy, may not name local addresses.
            response = self._exchange(request, None if own else self._kind(named_by) or AddressKind.PUBLIC)
            location = response.header("Location")
            if response.status not in _REDIRECTS or not location:
                return response
            response.close()
            request = _redirected(request, response.status, location)
        raise RegistryError(f"{request.host}: stopped after {MAX_REDIRECTS} redirects", host=request.host)

    def _exchange(self, request: Request, sender: AddressKind | None) -> Response:
        self._shutdown.check(request.method)
        exchange = Exchange(request.method, request.url, request.host, self._tracing)
        proxy: str | None = None
        try:
            parts = urlsplit(request.url)
            proxy = request.proxy or proxies.choose(parts.scheme, parts.netloc).url
            address_guard.check_literal(parts.hostname or "", sender, writes=_writes(request))
            tls = request.tls if parts.scheme == "https" else None
            pool = self._pool(tls, proxy, sender, writes=_writes(request))
            with opened(request.body) as body:
                raw = pool.request(
                    request.method,
                    request.url,
                    body=body,
                    headers=_headers(request),
                    timeout=urllib3.Timeout(
                        connect=request.connect_timeout or self._connect_timeout, read=self.stall_timeout
                    ),
                    redirect=False,
                    retries=False,
                    preload_content=False,
                    decode_content=False,
                )
        except address_guard.Forbidden as error:
            exchange.failed(error)
            raise _out_of_bounds(request, error) from error
        except (HTTPError, OSError, ValueError) as error:
            exchange.failed(error)
            self._charge(request, exchange.started)
            raise self._shutdown.why() or unreachable(error, request.url, proxy) from error
        except BaseException as error:
            exchange.failed(error)
            raise
        assert isinstance(raw, urllib3.HTTPResponse)
        exchange.answered(raw.status, raw.length_remaining)
        if raw.status >= 300:
            self._charge(request, exchange.started)
        return Response(
            raw,
            request.url,
            proxy=proxy,
            stall_seconds=self.stall_timeout,
            waited=functools.partial(self._charge, request),
            finished=exchange.ended,
            ended=self._shutdown.why,
        )

    def _charge(self, request: Request, started: float) -> None:
        """Charge the wait for a useless response to the budget, unless it was short.

        The time of an upload is spent on sending it.
        """
        if not isinstance(request.body, Stream):
            self.budget.charge(started + FREE_STALLS * self.stall_timeout, time.monotonic())

    def _pool(
        self, tls: Tls | None, proxy: str | None, sender: AddressKind | None, *, writes: bool
    ) -> urllib3.PoolManager:
        with self._lock:
            # Writing may be forbidden on a connection that may be used for reading.
            key = (tls, proxy, sender, writes)
            if key not in self._pools:
                self._pools[key] = new_pool(
                    tls,
                    proxy,
                    sender,
                    writes=writes,
                    known=self._known,
                    connected=self._connected_to,
                    opened=self._shutdown.watch,
                    head_seconds=HEAD_STALLS * self.stall_timeout,
                    stall_seconds=self.stall_timeout,
                    resolver=self._resolver,
                )
            return self._pools[key]

    def _connected_to(self, host: str, port: int, kind: AddressKind) -> None:
        with self._lock:
            key = (host.lower(), port)
            self._kinds[key] = address_guard.most_public(self._kinds.get(key), kind)

    def _known(self, host: str, port: int) -> AddressKind | None:
        with self._lock:
            return self._kinds.get((host.lower(), port))

    def _kind(self, url: SplitResult) -> AddressKind | None:
        return self._known(*_origin(url)) or address_guard.literal_kind(url.hostname or "")


def _headers(request: Request) -> dict[str, str]:
    """Return all headers encoded as UTF-8, since a media type in a manifest may be any text."""
    headers = {
        "User-Agent": user_agent(),
        "Accept-Encoding": "identity",
        **length_header(request.body),
        **request.headers,
        **request.private,
    }
    for name, value in headers.items():
        if _CONTROL.search(value):
            raise RegistryError(f"{request.host}: {name} cannot be sent in a header", host=request.host)
    # http.client encodes them as latin-1.
    return {name: value.encode("utf-8", "replace").decode("latin-1") for name, value in headers.items()}


def user_agent() -> str:
    """Return the User-Agent of requests, `pyctrd/<version>`."""
    return f"pyctrd/{__version__}"


def _writes(request: Request) -> bool:
    """Whether a request may change something; a login, whose body is bytes, only asks for a token."""
    return request.method not in ("GET", "HEAD") and not isinstance(request.body, bytes)


def _origin(url: SplitResult) -> tuple[str, int]:
    return (url.hostname or "").lower(), url.port or (443 if url.scheme == "https" else 80)


def _out_of_bounds(request: Request, error: address_guard.Forbidden) -> RegistryError:
    sender = urlsplit(request.named_by).netloc
    whose = (
        "write to private addresses"
        if error.kind is AddressKind.PRIVATE
        else "go to services of their own machine"
    )
    return RegistryError(
        f"{sender}: it names {request.host}, which is not asked: {error}, the registry is elsewhere",
        host=sender,
        hint=f"A registry may not have its clients {whose}; it is broken or hostile.",
    )


def _redirected(request: Request, status: int, location: str) -> Request:
    """Return the request after a redirect, without anything private if the origin changes."""
    if not is_url_text(location):
        raise _not_followed(request, "to something that is not a URL")  # http.client unfolds lines
    try:
        url = urljoin(request.url, location)
        old, new = urlsplit(request.url), urlsplit(url)
        _origin(new)  # raises ValueError for an invalid port
    except ValueError as error:
        raise _not_followed(request, "to something that is not a URL") from error
    redact.remember(new.query)
    shown = without_secrets(url)
    if new.scheme not in ("http", "https") or not new.hostname or new.username is not None:
        raise _not_followed(request, f"to {shown!r}, which is not a plain http URL,")
    if old.scheme == "https" and new.scheme == "http":
        raise _not_followed(
            request, f"from https down to {shown}", hint="The registry's own URL is wrong: correct it there."
        )
    if status in (301, 302, 303) and request.method not in ("GET", "HEAD"):
        if isinstance(request.body, Stream):  # a GET would not upload anything
            raise _not_followed(request, f"of an upload to {shown}, by status {status},")
        request = msgspec.structs.replace(request, method="GET", body=None)
    if (old.scheme, old.netloc) == (new.scheme, new.netloc):
        return msgspec.structs.replace(request, url=url)
    if isinstance(request.body, bytes):
        # Bodies of bytes are credentials, which are only for the first host.
        raise _not_followed(request, f"of a {request.method} to {shown}")
    return msgspec.structs.replace(
        request, url=url, private={}, tls=msgspec.structs.replace(request.tls, client_certs=())
    )


def _not_followed(request: Request, what: str, *, hint: str | None = None) -> RegistryError:
    return RegistryError(f"{request.host}: redirect {what} is not followed", host=request.host, hint=hint)

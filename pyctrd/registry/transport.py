"""HTTP, and nothing about registries: connections, TLS, redirects, retries, and errors that name the cause.

The only module that imports urllib3. Everything a caller sees is ours: Request, Response, RegistryError.
"""

from __future__ import annotations

import importlib.metadata
import logging
import ssl
import threading
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import closing
from dataclasses import dataclass, field, replace
from typing import Any, Final
from urllib.parse import urljoin, urlsplit

import tenacity
import urllib3
from urllib3.exceptions import (
    ConnectTimeoutError,
    HTTPError,
    InsecureRequestWarning,
    NameResolutionError,
    NewConnectionError,
    ReadTimeoutError,
)

from pyctrd.errors import RegistryContentError, RegistryError, RegistryUnreachable
from pyctrd.registry import failures
from pyctrd.registry.backoff import PATIENT, Patience, seconds_to_wait
from pyctrd.registry.hosts import NO_TLS, Tls
from pyctrd.registry.proxy import proxy_for, without_secrets
from pyctrd.registry.stream import Stream, length_header, opened

CHUNK_BYTES: Final = 1 << 20
CONNECT_TIMEOUT_SECONDS: Final = 10.0
READ_TIMEOUT_SECONDS: Final = 60.0
MAX_REDIRECTS: Final = 10

# One recv fills at most this much; larger pieces only cost memory that is never filled.
_PIECE_BYTES: Final = 1 << 18
_MAX_DRAINED_BYTES: Final = 1 << 16
_REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})
_TRANSIENT: Final = frozenset({429, 500, 502, 503, 504})
_POOLED_CONNECTIONS: Final = 16

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Request:
    """What to send. `headers` and `body` may hold secrets, so they are in no repr.

    `private` headers go to the URL's own origin only, never along with a redirect to another one; neither
    does a `body` of bytes.
    """

    method: str
    url: str
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    private: Mapping[str, str] = field(default_factory=dict, repr=False)
    body: bytes | Stream | None = field(default=None, repr=False)
    tls: Tls = NO_TLS
    connect_timeout: float | None = None
    patience: Patience = PATIENT

    @property
    def host(self) -> str:
        """The host[:port] of the URL."""
        return urlsplit(self.url).netloc


class Response:
    """An answer whose body is still on the wire: read it or close it, on one thread."""

    def __init__(self, raw: urllib3.HTTPResponse, url: str) -> None:
        self._raw = raw
        self.url = url
        self.host = urlsplit(url).netloc
        self.status = raw.status

    def header(self, name: str) -> str:
        """Give a header's value, "" when it is absent."""
        return self._raw.headers.get(name, "")

    def header_values(self, name: str) -> list[str]:
        """Give the values of a header that may occur on several lines."""
        return list(self._raw.headers.getlist(name))

    @property
    def length(self) -> int | None:
        """The body's size in bytes as the server states it, None when it does not."""
        text = self.header("Content-Length").strip()
        return int(text) if text.isascii() and text.isdigit() and len(text) < 19 else None

    def chunks(self) -> Generator[bytes, None, None]:
        """Yield the body in chunks of at most CHUNK_BYTES, never decoded.

        What arrived before a connection broke is yielded before RegistryUnreachable is raised.
        """
        while True:
            pieces: list[bytes] = []
            room = CHUNK_BYTES
            broken: RegistryUnreachable | None = None
            while room:
                try:
                    piece = self._raw.read1(min(room, _PIECE_BYTES), decode_content=False)
                except (HTTPError, OSError, ValueError) as error:
                    broken = _unreachable(error, self.url, None)
                    break
                if not piece:
                    break
                pieces.append(piece)
                room -= len(piece)
            if pieces:
                yield pieces[0] if len(pieces) == 1 else b"".join(pieces)
            if broken is not None:
                raise broken
            if room:
                return

    def read(self, limit: int) -> bytes:
        """Read the whole body; raises RegistryContentError when it has more than `limit` bytes."""
        parts: list[bytes] = []
        size = 0
        with closing(self.chunks()) as chunks:
            for chunk in chunks:
                parts.append(chunk)
                size += len(chunk)
                if size > limit:
                    self.close()
                    raise RegistryContentError(
                        f"{without_secrets(self.url)}: more than {limit} bytes",
                        host=self.host,
                        status=self.status,
                    )
        return b"".join(parts)

    def excerpt(self) -> bytes:
        """Read the beginning of an error's body, whatever happens, and be done with the response."""
        try:
            return next(self.chunks(), b"")
        except RegistryUnreachable:
            return b""
        finally:
            self.close()

    def close(self) -> None:
        """Give the connection back if the body was read to its end, drop it otherwise."""
        remaining = self._raw.length_remaining
        if remaining is not None and remaining <= _MAX_DRAINED_BYTES:
            try:
                self._raw.drain_conn()
            except (HTTPError, OSError, ValueError):
                _log.debug("%s: the connection broke while it was being emptied", without_secrets(self.url))
        self._raw.close()
        self._raw.release_conn()


class Transport:
    """Sends requests over kept connections; thread safe. Close it, or use it as a context manager."""

    def __init__(
        self,
        *,
        connect_timeout: float = CONNECT_TIMEOUT_SECONDS,
        read_timeout: float = READ_TIMEOUT_SECONDS,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._connect_timeout = connect_timeout
        self._read_timeout = read_timeout
        self._sleep = sleep
        self._lock = threading.Lock()
        self._pools: dict[tuple[Tls | None, str | None], urllib3.PoolManager] = {}

    def __enter__(self) -> Transport:
        """Give the transport itself."""
        return self

    def __exit__(self, *_exc: object) -> None:
        """Close all connections."""
        self.close()

    def close(self) -> None:
        """Close all connections."""
        with self._lock:
            pools = list(self._pools.values())
            self._pools.clear()
        for pool in pools:
            pool.clear()

    def send(self, request: Request) -> Response:
        """Send, follow redirects, and try again where that can help; gives the last answer, of any status.

        Raises RegistryUnreachable when there was no answer, RegistryError for a redirect that is not
        followed. 429 and 5xx are retried; when patience ends their response is given, not raised.
        """
        retrying = tenacity.Retrying(
            sleep=self._sleep,
            stop=tenacity.stop_after_attempt(request.patience.tries)
            | tenacity.stop_before_delay(request.patience.seconds),
            wait=_wait,
            retry=tenacity.retry_if_exception(failures.is_transient)
            | tenacity.retry_if_result(lambda response: response.status in _TRANSIENT),
            before_sleep=_before_sleep,
            retry_error_callback=_last_outcome,
        )
        return retrying(self._follow, request)

    def _follow(self, request: Request) -> Response:
        for _hop in range(MAX_REDIRECTS + 1):
            response = self._exchange(request)
            location = response.header("Location")
            if response.status not in _REDIRECTS or not location:
                return response
            response.close()
            request = _redirected(request, response.status, location)
        raise RegistryError(f"{request.host}: stopped after {MAX_REDIRECTS} redirects", host=request.host)

    def _exchange(self, request: Request) -> Response:
        started = time.monotonic()
        proxy: str | None = None
        try:
            parts = urlsplit(request.url)
            proxy = proxy_for(parts.scheme, parts.netloc)
            pool = self._pool(request.tls if parts.scheme == "https" else None, proxy)
            with opened(request.body) as body:
                raw = pool.request(
                    request.method,
                    request.url,
                    body=body,
                    headers={
                        "User-Agent": user_agent(),
                        "Accept-Encoding": "identity",
                        **length_header(request.body),
                        **request.headers,
                        **request.private,
                    },
                    timeout=urllib3.Timeout(
                        connect=request.connect_timeout or self._connect_timeout, read=self._read_timeout
                    ),
                    redirect=False,
                    retries=False,
                    preload_content=False,
                    decode_content=False,
                )
        except (HTTPError, OSError, ValueError) as error:
            raise _unreachable(error, request.url, proxy) from error
        took = (time.monotonic() - started) * 1000
        _log.debug("%s %s: %d, %.0f ms", request.method, without_secrets(request.url), raw.status, took)
        assert isinstance(raw, urllib3.HTTPResponse)
        return Response(raw, request.url)

    def _pool(self, tls: Tls | None, proxy: str | None) -> urllib3.PoolManager:
        with self._lock:
            key = (tls, proxy)
            if key not in self._pools:
                self._pools[key] = _new_pool(tls, proxy)
            return self._pools[key]


def user_agent() -> str:
    """Give our User-Agent, `pyctrd/<version>`."""
    return f"pyctrd/{_VERSION}"


def _version() -> str:
    try:
        return importlib.metadata.version("pyctrd")
    except importlib.metadata.PackageNotFoundError:  # a source tree that was never installed
        return "0"


_VERSION: Final = _version()


def _new_pool(tls: Tls | None, proxy: str | None) -> urllib3.PoolManager:
    settings: dict[str, Any] = {"num_pools": _POOLED_CONNECTIONS, "maxsize": _POOLED_CONNECTIONS}
    if tls is not None:
        settings["ssl_context"] = tls_context(tls)
    if tls is not None and tls.skip_verify:
        urllib3.disable_warnings(InsecureRequestWarning)  # asked for; once per request is no news
    if proxy is None:
        return urllib3.PoolManager(**settings)
    user = urlsplit(proxy)
    if user.username:
        pair = f"{user.username}:{user.password or ''}"
        settings["proxy_headers"] = urllib3.make_headers(proxy_basic_auth=pair)
    return urllib3.ProxyManager(proxy, **settings)


def tls_context(tls: Tls) -> ssl.SSLContext:
    """Make the TLS settings of an endpoint: the system's authorities, and those that are named.

    Raises RegistryError naming the file that cannot be used.
    """
    context = ssl.create_default_context()
    if tls.skip_verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    for name in tls.ca_files:
        try:
            context.load_verify_locations(cafile=name)
        except (OSError, ssl.SSLError) as error:
            raise RegistryError(f"cannot use CA file {name}: {failures.plain_text(error)}") from error
    for certificate, key in tls.client_certs:
        try:
            # An encrypted key must fail here, not ask on the terminal.
            context.load_cert_chain(certificate, key or None, password="")
        except (OSError, ssl.SSLError) as error:
            text = failures.plain_text(error)
            raise RegistryError(f"cannot use client certificate {certificate}: {text}") from error
    return context


def _redirected(request: Request, status: int, location: str) -> Request:
    """Make the request that follows a redirect; nothing private goes to another origin."""
    try:
        url = urljoin(request.url, location)
        old, new = urlsplit(request.url), urlsplit(url)
    except ValueError as error:
        raise _not_followed(request, "to something that is not a URL") from error
    shown = without_secrets(url)
    if new.scheme not in ("http", "https") or not new.hostname or new.username is not None:
        raise _not_followed(request, f"to {shown!r}, which is not a plain http URL,")
    if old.scheme == "https" and new.scheme == "http":
        raise _not_followed(
            request, f"from https down to {shown}", hint="The registry's own URL is wrong: correct it there."
        )
    if status in (301, 302, 303) and request.method not in ("GET", "HEAD"):
        if isinstance(request.body, Stream):  # a GET of something else is no answer to an upload
            raise _not_followed(request, f"of an upload to {shown}, by status {status},")
        request = replace(request, method="GET", body=None)
    if (old.scheme, old.netloc) == (new.scheme, new.netloc):
        return replace(request, url=url)
    if isinstance(request.body, bytes):
        # Bodies of bytes hold credentials, and those are for the first host alone.
        raise _not_followed(request, f"of a {request.method} to {shown}")
    return replace(request, url=url, private={}, tls=replace(request.tls, client_certs=()))


def _not_followed(request: Request, what: str, *, hint: str | None = None) -> RegistryError:
    return RegistryError(f"{request.host}: redirect {what} is not followed", host=request.host, hint=hint)


# --- retries ----------------------------------------------------------------------------------------------


def _wait(state: tenacity.RetryCallState) -> float:
    outcome = state.outcome
    retry_after = ""
    if outcome is not None and not outcome.failed:
        retry_after = outcome.result().header("Retry-After")
    return seconds_to_wait(state.attempt_number, retry_after, now=time.time())


def _before_sleep(state: tenacity.RetryCallState) -> None:
    outcome = state.outcome
    if outcome is None:
        return
    if outcome.failed:
        reason = str(outcome.exception())
    else:
        response: Response = outcome.result()
        reason = f"{response.host}: status {response.status}"
        response.close()
    _log.info("%s; trying again in %.1f s", reason, state.upcoming_sleep)


def _last_outcome(state: tenacity.RetryCallState) -> Response:
    assert state.outcome is not None
    response: Response = state.outcome.result()
    return response


# --- what went wrong --------------------------------------------------------------------------------------


def _unreachable(error: BaseException, url: str, proxy: str | None) -> RegistryUnreachable:
    """Say what stood between us and the host; the URL's query and user stay out of it."""
    kind: failures.Kind | None = None
    for cause in failures.chain(error):
        if isinstance(cause, NameResolutionError):
            kind = failures.Kind.NO_SUCH_NAME
        elif isinstance(cause, ConnectTimeoutError) and not isinstance(cause, NewConnectionError):
            kind = failures.Kind.CONNECT_TIMEOUT
        elif isinstance(cause, ReadTimeoutError):
            kind = failures.Kind.READ_TIMEOUT
        if kind is not None:
            break
    return failures.unreachable(error, url, proxy=proxy and without_secrets(proxy), kind=kind)

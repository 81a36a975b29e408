"""Errors for hosts that cannot be reached, with common phrases and a hint.

Go's phrases are kept (`no such host`, `certificate signed by unknown authority`, ...), since ctr prints them.
"""

from __future__ import annotations

import enum
import socket
import ssl
from collections.abc import Iterator
from typing import Final

from pyctrd.errors import RegistryUnreachable
from pyctrd.registry.config.proxy import without_secrets


class Kind(enum.Enum):
    """The reason."""

    NO_SUCH_NAME = "no such host (name resolution failed)"
    REFUSED = "connection refused"
    CONNECT_TIMEOUT = "timed out while connecting"
    READ_TIMEOUT = "timed out while waiting for an answer"
    UNKNOWN_AUTHORITY = "tls: certificate signed by unknown authority"
    BAD_CERTIFICATE = "tls: failed to verify certificate"
    PLAIN_HTTP = "http: server gave HTTP response to HTTPS client"
    TLS = "tls: handshake failed"
    TLS_ANSWER = "malformed HTTP response: the server speaks TLS"
    MALFORMED = "malformed HTTP response"
    CUT = "the connection was cut"
    BAD_URL = "not a URL that can be asked"


# OpenSSL's verify codes for certificates that no trusted authority has signed.
_UNTRUSTED: Final = frozenset({18, 19, 20, 21, 27})
_NOT_TLS: Final = frozenset(
    {"WRONG_VERSION_NUMBER", "HTTP_REQUEST", "PACKET_LENGTH_TOO_LONG", "RECORD_LAYER_FAILURE"}
)
_LONGEST_DETAIL: Final = 200
# The exceptions of http.client and urllib3 for a head that is not HTTP, and how a TLS record begins.
_NOT_HTTP: Final = frozenset(
    {"BadStatusLine", "UnknownProtocol", "LineTooLong", "HTTPException", "InvalidHeader"}
)
_TLS_RECORD: Final = ("\x15\x03", "\x16\x03")
_HINTS: Final = {
    Kind.NO_SUCH_NAME: "Check the registry's name, and this machine's DNS.",
    Kind.REFUSED: "Check that the registry is running there, and the port.",
    Kind.UNKNOWN_AUTHORITY: "Put its CA into /etc/containerd/certs.d/{host}/ca.crt (or `hosts_dir`), or use "
    "`skip_verify`.",
    Kind.BAD_CERTIFICATE: "Use the name that the certificate is for, or `skip_verify`.",
    Kind.PLAIN_HTTP: "If this registry has no TLS: use `plain_http`.",
}
_PERMANENT: Final = frozenset(
    {
        Kind.NO_SUCH_NAME,
        Kind.UNKNOWN_AUTHORITY,
        Kind.BAD_CERTIFICATE,
        Kind.PLAIN_HTTP,
        Kind.TLS,
        Kind.TLS_ANSWER,
        Kind.MALFORMED,
        Kind.BAD_URL,
    }
)
_WITH_DETAIL: Final = frozenset({Kind.BAD_CERTIFICATE, Kind.TLS, Kind.MALFORMED})


class Unreachable(RegistryUnreachable):
    """RegistryUnreachable with its kind, so that callers do not have to parse the message."""

    kind: Kind = Kind.CUT


def unreachable(
    error: BaseException, url: str, *, proxy: str | None = None, kind: Kind | None = None
) -> Unreachable:
    """Return the error for a request without a response; `proxy` is the proxy's URL without its password."""
    host = without_secrets(url).partition("://")[2].partition("/")[0]
    kind = kind or _kind(error)
    detail = "" if kind in _PERMANENT - _WITH_DETAIL else f": {plain_text(_innermost(error))}"
    if kind in (Kind.REFUSED, Kind.CONNECT_TIMEOUT, Kind.READ_TIMEOUT):
        detail = ""
    via = f" (through proxy {proxy})" if proxy else ""
    hint = _HINTS.get(kind)
    found = Unreachable(
        f"{host}: {kind.value}{detail}{via}", host=host, hint=hint.format(host=host) if hint else None
    )
    found.kind = kind
    return found


def is_transient(error: BaseException) -> bool:
    """Whether another attempt may succeed: an untrusted certificate stays untrusted."""
    return isinstance(error, Unreachable) and error.kind not in _PERMANENT


def chain(error: BaseException) -> Iterator[BaseException]:
    """Yield an error and the errors that it wraps, outermost first."""
    seen: set[int] = set()
    waiting: list[object] = [error]
    while waiting:
        item = waiting.pop(0)
        if not isinstance(item, BaseException) or id(item) in seen:
            continue
        seen.add(id(item))
        yield item
        waiting += [getattr(item, "original_error", None), getattr(item, "reason", None)]
        waiting += [item.__cause__, item.__context__, *item.args]


def plain_text(error: BaseException) -> str:
    """Return an error's own text in one line, without Python's wrapping."""
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    # It may quote data of a server, of any length.
    return " ".join(text[:_LONGEST_DETAIL].split()) or type(error).__name__


def _kind(error: BaseException) -> Kind:
    for cause in chain(error):
        found = _kind_of(cause)
        if found is not None:
            return found
    return Kind.BAD_URL if isinstance(error, ValueError) else Kind.CUT


def _kind_of(cause: BaseException) -> Kind | None:
    if isinstance(cause, ssl.SSLCertVerificationError):
        return Kind.UNKNOWN_AUTHORITY if cause.verify_code in _UNTRUSTED else Kind.BAD_CERTIFICATE
    if isinstance(cause, ssl.SSLError) and not isinstance(cause, ssl.SSLEOFError | ssl.SSLZeroReturnError):
        return Kind.PLAIN_HTTP if cause.reason in _NOT_TLS else Kind.TLS
    if isinstance(cause, socket.gaierror):
        return Kind.NO_SUCH_NAME
    if isinstance(cause, ConnectionRefusedError):
        return Kind.REFUSED
    if isinstance(cause, TimeoutError):
        return Kind.READ_TIMEOUT
    if type(cause).__name__ in _NOT_HTTP:
        is_tls = str(getattr(cause, "line", "")).lstrip("'\"").startswith(_TLS_RECORD)
        return Kind.TLS_ANSWER if is_tls else Kind.MALFORMED
    return None


def _innermost(error: BaseException) -> BaseException:
    *_outer, last = chain(error)
    return last

"""Remove secrets from texts, so that no message, log record or traceback of pyctrd contains one.

The secrets are remembered for the whole process, since log records and tracebacks do not belong to a client.
A registry may echo what it was sent in any header or body, in any encoding. The constructor of PyctrdError
and the filter of pyctrd's loggers call `strike`; other code only remembers secrets.
"""

from __future__ import annotations

import base64
import logging
import re
import threading
from collections import OrderedDict
from collections.abc import Iterator
from typing import Final

STRUCK: Final = "***"
# Replacing a single letter in every message would hide the message and reveal the letter.
SHORTEST: Final = 4

# A long-lived process forgets old tokens; passwords are remembered again whenever they are used.
_MAX_SECRETS: Final = 512
_SHORTEST_BASE64: Final = 6
# A text that contains this many characters of a secret does not do so by accident.
_MIN_PREFIX: Final = 16
_PERCENT = re.compile(r"%[0-9A-F]{2}")

_lock = threading.Lock()
_forms: OrderedDict[str, tuple[str, ...]] = OrderedDict()


def remember(*secrets: str) -> None:
    """Remove these secrets from every text from now on, unless they are shorter than SHORTEST characters."""
    with _lock:
        for secret in secrets:
            if secret in _forms:
                _forms.move_to_end(secret)
            elif len(secret) >= SHORTEST:
                _forms[secret] = tuple(set(_forms_of(secret)))
        while len(_forms) > _MAX_SECRETS:
            _forms.popitem(last=False)


def forget() -> None:
    """Forget all secrets. For tests, whose secrets may be parts of other texts."""
    with _lock:
        _forms.clear()


def strike(text: str) -> str:
    """Replace the remembered secrets in a text, whether plain, URL-encoded, escaped or in base64.

    The beginning of a long secret is also replaced, since the text may have been cut.
    """
    with _lock:
        known = [form for forms in _forms.values() for form in forms if form[:_MIN_PREFIX] in text]
    known.sort(key=len, reverse=True)
    for form in known:
        text = text.replace(form, STRUCK)
    for form in known:  # in a second pass, since two forms may begin in the same way
        if len(form) > _MIN_PREFIX:
            text = _without_beginnings(text, form)
    return text


def excerpt(text: str, limit: int) -> str:
    """Return at most `limit` characters of an untrusted text, on one line and without secrets."""
    return "".join(letter if letter.isprintable() else " " for letter in strike(text))[:limit]


# Without a handler of the application's, Python would print warnings to stderr.
logging.getLogger("pyctrd").addHandler(logging.NullHandler())


def logger(name: str) -> logging.Logger:
    """Return a logger that removes secrets from its records. docs/reference/logging.md lists pyctrd's."""
    found = logging.getLogger(name)
    if _FILTER not in found.filters:
        found.addFilter(_FILTER)
    return found


def _without_beginnings(text: str, form: str) -> str:
    while (start := text.find(form[:_MIN_PREFIX])) >= 0:
        end = start + _MIN_PREFIX
        while end < len(text) and text[end] == form[end - start : end - start + 1]:
            end += 1
        text = f"{text[:start]}{STRUCK}{text[end:]}"
    return text


class _Filter(logging.Filter):
    """Removes secrets from log records. Attached to loggers, so that the application's handlers see none."""

    def filter(self, record: logging.LogRecord) -> bool:
        record.msg, record.args = strike(record.getMessage()), None
        if record.exc_info:
            record.exc_text = strike(logging.Formatter().formatException(record.exc_info))
            record.exc_info = None
        for name, value in vars(record).items():
            if isinstance(value, str) and name not in _STANDARD:
                setattr(record, name, strike(value))
        return True


_FILTER: Final = _Filter()
# The attributes that every record has; others are those of `extra`.
_STANDARD: Final = frozenset(vars(logging.makeLogRecord({})))


def _forms_of(secret: str) -> Iterator[str]:
    # Imported only once there is a secret: every error that is raised imports this module.
    import html
    import json
    from urllib.parse import quote, quote_plus

    yield secret
    encoding = {"encoding": "utf-8", "errors": "surrogatepass"}
    for quoted in (quote(secret, **encoding), quote(secret, "", **encoding), quote_plus(secret, **encoding)):
        yield quoted
        yield quote(quoted, "")  # a URL within a URL
        yield _PERCENT.sub(lambda found: found[0].lower(), quoted)
    for ascii_only in (True, False):
        yield json.dumps(secret, ensure_ascii=ascii_only)[1:-1]
    yield html.escape(secret)
    yield repr(secret)[1:-1]
    yield from _base64_forms(secret.encode("utf-8", "surrogatepass"))


def _base64_forms(secret: bytes) -> Iterator[str]:
    """Yield the secret in base64 for each position in a longer text, as in `user:password`."""
    from urllib.parse import quote

    for before in range(3):
        encoded = base64.b64encode(b"\0" * before + secret).decode("ascii").rstrip("=")
        # The first and the last digit may contain bits of the bytes around the secret.
        first = (before * 8 + 5) // 6
        last = (before + len(secret)) * 8 // 6
        inner = encoded[first:last]
        if len(inner) >= _SHORTEST_BASE64:
            yield inner
            yield inner.translate({ord("+"): "-", ord("/"): "_"})
            yield quote(inner, safe="")

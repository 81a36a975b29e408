"""How often, and for how long, a registry is tried: all numbers of retry and resume, and the waiting budget.

A request that fails in a way that may pass is sent again after a pause that doubles, or that the registry
asks for. A body that breaks off is continued at the byte reached, for as long as each connection brings
something. All pauses, and the waiting for answers that bring nothing, come out of one budget for a session.

Sources: RFC 9110 section 10.2.3 (Retry-After); "full jitter", so that many clients do not come back together.
"""

from __future__ import annotations

import math
import random
import threading
import time
from email.utils import parsedate_to_datetime
from typing import Final

# How often one request is sent, unless there is another host to ask.
TRIES: Final = 5
TRANSIENT_STATUSES: Final = frozenset({408, 425, 429, 500, 502, 503, 504})
FIRST_PAUSE_SECONDS: Final = 0.5
LONGEST_PAUSE_SECONDS: Final = 15.0
BUDGET_SECONDS: Final = 300.0

CONNECT_TIMEOUT_SECONDS: Final = 10.0
STALL_TIMEOUT_SECONDS: Final = 60.0
# A connection that brings fewer bytes than this in a whole stall time-out is as good as silent.
MIN_BYTES_PER_STALL: Final = 512
# In stall time-outs: what the head of an answer may take, and a document; a layer, whose progress is seen,
# may take as long as it moves.
HEAD_STALLS: Final = 1.5
DOCUMENT_STALLS: Final = 3
# In stall time-outs: what an error or a redirect may take before it is charged to the budget.
FREE_STALLS: Final = 0.1

# Connections in a row that bring next to nothing, before a download, a range or an upload fails. An upload is
# asked for its state in between, and its progress counts from UPLOAD_PROGRESS_BYTES on: a registry that takes
# a byte at a time is not worth the wait.
MAX_FRUITLESS_DOWNLOADS: Final = 3
MAX_FRUITLESS_RANGES: Final = 2
MAX_FRUITLESS_UPLOADS: Final = 4
UPLOAD_PROGRESS_BYTES: Final = 1 << 16
# So often the parallel ranges of one blob may fail, before it is downloaded over one connection.
MAX_RANGE_FAILURES: Final = 2
# One cut may be an accident, and the first host is the nearest: after two the next one goes on.
MAX_CUTS_PER_HOST: Final = 2


class Budget:
    """The seconds that may be spent on waiting for registries in all; thread safe.

    One for a whole session: a registry must not gain time by failing in many places.
    """

    def __init__(self, seconds: float = BUDGET_SECONDS) -> None:
        self._left = seconds
        self._charged_until = -math.inf
        self._lock = threading.Lock()

    @property
    def left(self) -> float:
        """The seconds that are left; less than none when waiting for answers took more."""
        return self._left

    @property
    def is_overdrawn(self) -> bool:
        """Whether more was waited than the budget allows."""
        return self._left < 0

    def charge(self, since: float, until: float) -> None:
        """Take the time that one request waited for nothing, by one clock for all of them.

        What several requests wait at the same time counts once.
        """
        with self._lock:
            since = max(since, self._charged_until)
            if until > since:
                self._left -= until - since
                self._charged_until = until

    def spend(self, seconds: float) -> bool:
        """Take a pause out of the budget; False, and nothing taken, when it is longer than what is left."""
        with self._lock:
            if seconds > self._left:
                return False
            self._left -= seconds
            return True


def seconds_to_wait(attempt: int, retry_after: str = "") -> float:
    """Return the pause after try number `attempt` (from 1), in seconds."""
    asked = parse_retry_after(retry_after, now=time.time())
    if asked is not None:
        return asked
    ceiling = min(LONGEST_PAUSE_SECONDS, FIRST_PAUSE_SECONDS * 2.0 ** min(attempt - 1, 10))
    return ceiling * random.uniform(0.5, 1.0)  # noqa: S311


def parse_retry_after(value: str, *, now: float) -> float | None:
    """Read Retry-After, seconds or a date, as seconds from now (0 for the past); None when it is neither."""
    text = value.strip()
    if text.isascii() and text.isdigit():
        return float(text[:9])
    try:
        return max(0.0, parsedate_to_datetime(text).timestamp() - now)
    except (ValueError, TypeError, OverflowError, IndexError):
        return None


def in_words(seconds: float) -> str:
    """Give a duration as people say it: seconds, and what that is in minutes, hours or days."""
    for unit, length in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * length:
            return f"{seconds:.0f} s ({seconds / length:.0f} {unit})"
    return f"{seconds:.0f} s"

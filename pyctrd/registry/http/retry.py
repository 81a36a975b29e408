"""Limits for retries and resumed transfers, and the retry budget.

A request with a transient failure is sent again after a pause, which doubles each time or is what the
registry states. An interrupted body is resumed at the byte reached, as long as each connection makes
progress. All pauses, and the waiting for useless responses, are charged to one budget per session.

Sources: RFC 9110 section 10.2.3 (Retry-After); "full jitter", so that many clients do not retry at the same
time.
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
# A connection with fewer bytes than this in a stall timeout counts as stalled.
MIN_BYTES_PER_STALL: Final = 512
# In stall timeouts: how long the head of a response may take, and a manifest; a layer, whose progress is
# shown, has no total limit.
HEAD_STALLS: Final = 1.5
DOCUMENT_STALLS: Final = 3
# In stall timeouts: how long an error or a redirect may take before it is charged to the budget.
FREE_STALLS: Final = 0.1

# A download, a range or an upload fails after this many connections in a row without progress. For an upload,
# progress means UPLOAD_PROGRESS_BYTES, since a registry may store one byte at a time forever.
MAX_FRUITLESS_DOWNLOADS: Final = 3
MAX_FRUITLESS_RANGES: Final = 2
MAX_FRUITLESS_UPLOADS: Final = 4
UPLOAD_PROGRESS_BYTES: Final = 1 << 16
# After this many failed parallel ranges, a blob is downloaded over one connection.
MAX_RANGE_FAILURES: Final = 2
# One cut may be an accident, and the first host is the nearest one; after two cuts the next host is used.
MAX_CUTS_PER_HOST: Final = 2


class Budget:
    """The total number of seconds that may be spent on waiting for registries; thread safe.

    There is one for a whole session, so that many failures do not add up to a long wait.
    """

    def __init__(self, seconds: float = BUDGET_SECONDS) -> None:
        self._left = seconds
        self._charged_until = -math.inf
        self._lock = threading.Lock()

    @property
    def left(self) -> float:
        """The seconds that are left; negative if waiting for responses took more."""
        return self._left

    @property
    def is_overdrawn(self) -> bool:
        """Whether waiting took more than the budget."""
        return self._left < 0

    def charge(self, since: float, until: float) -> None:
        """Charge the time that one request has waited in vain.

        Time during which several requests wait counts once.
        """
        with self._lock:
            since = max(since, self._charged_until)
            if until > since:
                self._left -= until - since
                self._charged_until = until

    def spend(self, seconds: float) -> bool:
        """Charge a pause to the budget; if less than that is left, charge nothing and return False."""
        with self._lock:
            if seconds > self._left:
                return False
            self._left -= seconds
            return True


def seconds_to_wait(attempt: int, retry_after: str = "") -> float:
    """Return the pause after attempt number `attempt` (from 1), in seconds."""
    asked = parse_retry_after(retry_after, now=time.time())
    if asked is not None:
        return asked
    ceiling = min(LONGEST_PAUSE_SECONDS, FIRST_PAUSE_SECONDS * 2.0 ** min(attempt - 1, 10))
    return ceiling * random.uniform(0.5, 1.0)  # noqa: S311


def parse_retry_after(value: str, *, now: float) -> float | None:
    """Read Retry-After, seconds or a date, as seconds from now (0 for the past); None if it is neither."""
    text = value.strip()
    if text.isascii() and text.isdigit():
        return float(text[:9])
    try:
        return max(0.0, parsedate_to_datetime(text).timestamp() - now)
    except (ValueError, TypeError, OverflowError, IndexError):
        return None


def in_words(seconds: float) -> str:
    """Format a duration: seconds, and minutes, hours or days for longer ones."""
    for unit, length in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * length:
            return f"{seconds:.0f} s ({seconds / length:.0f} {unit})"
    return f"{seconds:.0f} s"

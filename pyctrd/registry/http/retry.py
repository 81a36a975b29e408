"""How long to wait before the next try; pure apart from the dice.

Sources: RFC 9110 section 10.2.3 (Retry-After); "full jitter" so that many clients do not come back together.
"""

from __future__ import annotations

import math
import random
import threading
from email.utils import parsedate_to_datetime
from typing import Final

# How often one request is sent, unless there is another host to ask.
TRIES: Final = 5
FIRST_SECONDS: Final = 0.5
LONGEST_SECONDS: Final = 15.0
BUDGET_SECONDS: Final = 300.0


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


def seconds_to_wait(attempt: int, retry_after: str, *, now: float) -> float:
    """Give the pause after try number `attempt` (from 1), in seconds; `now` is Unix time."""
    asked = parse_retry_after(retry_after, now=now)
    if asked is not None:
        return asked
    ceiling = min(LONGEST_SECONDS, FIRST_SECONDS * 2.0 ** min(attempt - 1, 10))
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

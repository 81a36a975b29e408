"""Times and durations as Go parses them: time.Parse with RFC 3339, and time.ParseDuration.

Go accepts more than RFC 3339: a comma before the fraction, and an hour of one digit.
"""

from __future__ import annotations

import datetime as dt
import re
from typing import Final

_TIME: Final = r"(\d{4})-(\d\d)-(\d\d)T(\d\d?):(\d\d):(\d\d)(?:[.,](\d+))?(?:Z|([+-])(\d\d):(\d\d))"
_DURATION: Final = r"(\d*)(?:\.(\d*))?(ns|us|µs|μs|ms|s|m|h)"
_MICROSECONDS: Final = 1000
_NANOSECONDS: Final = {
    "ns": 1,
    "us": 1000,
    "µs": 1000,
    "μs": 1000,
    "ms": 1_000_000,
    "s": 1_000_000_000,
    "m": 60_000_000_000,
    "h": 3_600_000_000_000,
}
_LONGEST: Final = 1 << 63
_EARLIEST: Final = dt.datetime.min.replace(tzinfo=dt.UTC)
_LATEST: Final = dt.datetime.max.replace(tzinfo=dt.UTC)


def parse_time(text: str) -> dt.datetime | None:
    """Parse a time; None if it is not valid. One that Python cannot represent is the earliest or latest."""
    found = re.fullmatch(_TIME, text, re.ASCII)
    if found is None:
        return None
    year, month, day, hour, minute, second = map(int, found.groups()[:6])
    fraction = int((found[7] or "0")[:6].ljust(6, "0"))
    hours, minutes = int(found[9] or 0), int(found[10] or 0)
    if hours > 24 or minutes > 60:
        return None
    try:
        # Year 0, which Python does not have, was a leap year.
        moment = dt.datetime(year or 4, month, day, hour, minute, second, fraction, tzinfo=dt.UTC)
    except ValueError:
        return None
    offset = dt.timedelta(hours=hours, minutes=minutes)
    try:
        moment = moment + offset if found[8] == "-" else moment - offset
    except OverflowError:
        return _LATEST if found[8] == "-" else _EARLIEST
    return moment if year else _EARLIEST


def parse_duration(text: str) -> dt.timedelta | None:
    """Parse a duration such as `1h30m`, to the microsecond; None if it is not valid."""
    sign, rest = (-1, text[1:]) if text[:1] == "-" else (1, text.removeprefix("+"))
    if rest == "0":
        return dt.timedelta()
    part = re.compile(_DURATION, re.ASCII)
    total = position = 0
    while position < len(rest):
        found = part.match(rest, position)
        if found is None or not (found[1] or found[2]):
            return None
        unit, fraction = _NANOSECONDS[found[3]], found[2] or ""
        total += int(found[1] or 0) * unit + int(fraction or 0) * unit // 10 ** len(fraction)
        position = found.end()
    if not position or total > _LONGEST - (sign > 0):
        return None
    return sign * dt.timedelta(microseconds=total // _MICROSECONDS)

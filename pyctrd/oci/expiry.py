"""When images and leases expire: at the time in a label, which containerd's garbage collector reads.

Source: containerd core/metadata/gc.go (isExpiredImage). Images expire since containerd 2.0.
"""

from __future__ import annotations

import datetime as dt
import math
import re
from typing import Final

EXPIRE_LABEL: Final = "containerd.io/gc.expire"
_TIME: Final = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d([.,]\d+)?(Z|[+-]\d\d:\d\d)")


def parse_time(text: str) -> dt.datetime | None:
    """Parse a time as RFC 3339; None if it is not valid, which containerd ignores."""
    if not _TIME.fullmatch(text):
        return None
    try:
        return dt.datetime.fromisoformat(text)
    except ValueError:
        return None


def expire_label(ttl: dt.timedelta, now: dt.datetime) -> dict[str, str]:
    """Return the label of what expires after `ttl`, rounded up to a second."""
    when = dt.datetime.fromtimestamp(math.ceil((now + ttl).timestamp()), dt.UTC)
    return {EXPIRE_LABEL: when.strftime("%Y-%m-%dT%H:%M:%SZ")}

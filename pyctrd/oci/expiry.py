"""When images and leases expire: at the time in a label, which containerd's garbage collector reads.

Source: containerd core/metadata/gc.go (isExpiredImage). Images expire since containerd 2.0.
"""

from __future__ import annotations

import datetime as dt
import math
from typing import Final

EXPIRE_LABEL: Final = "containerd.io/gc.expire"


def expire_label(ttl: dt.timedelta, now: dt.datetime) -> dict[str, str]:
    """Return the label of what expires after `ttl`, rounded up to a second."""
    when = dt.datetime.fromtimestamp(math.ceil((now + ttl).timestamp()), dt.UTC)
    return {EXPIRE_LABEL: when.strftime("%Y-%m-%dT%H:%M:%SZ")}

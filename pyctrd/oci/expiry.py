"""When images and leases expire: at the time in a label, which containerd's garbage collector reads.

Source: containerd core/metadata/gc.go (isExpiredImage). Images expire since containerd 2.0.
"""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Mapping
from typing import Final

from pyctrd.oci.gotime import parse_time

EXPIRE_LABEL: Final = "containerd.io/gc.expire"


def expiry_of(labels: Mapping[str, str]) -> dt.datetime | None:
    """Return when an object with these labels expires; None if never, which an invalid time means, too."""
    return parse_time(labels.get(EXPIRE_LABEL, ""))


def expire_label(ttl: dt.timedelta, now: dt.datetime) -> dict[str, str]:
    """Return the label of what expires after `ttl`, rounded up to a second."""
    when = dt.datetime.fromtimestamp(math.ceil((now + ttl).timestamp()), dt.UTC)
    return {EXPIRE_LABEL: when.strftime("%Y-%m-%dT%H:%M:%SZ")}

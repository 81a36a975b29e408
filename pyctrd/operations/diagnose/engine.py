"""The features of a containerd version that matter for a forecast."""

from __future__ import annotations

import re

import msgspec

_VERSION = re.compile(r"v?([0-9]+)\.([0-9]+)")


class Engine(msgspec.Struct, frozen=True, kw_only=True):
    """A containerd version, with its ctr.

    `transfer`: it has a transfer service (1.7 and later). `features`: it compares the os.features of
    platforms (2.3 and later do, 1.x does not; None: some builds of 2.0 to 2.2 do, e.g. Debian's 2.1.9).
    `skips_absent`: its exporter skips an image whose target is absent (1.7 and later).
    """

    transfer: bool = True
    features: bool | None = True
    skips_absent: bool = True


def engine(version: str, *, transfer: bool) -> Engine:
    """Return the features of a version; one that cannot be parsed is treated as the newest."""
    found = _VERSION.match(version)
    numbers = (int(found[1]), int(found[2])) if found else (99, 0)
    features = numbers >= (2, 3) or (False if numbers < (2, 0) else None)
    return Engine(transfer=transfer, features=features, skips_absent=numbers >= (1, 7))

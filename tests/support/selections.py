"""Selections of platforms that do not depend on the machine."""

from __future__ import annotations

import msgspec

from pyctrd.oci.model import Platform
from pyctrd.oci.platforms import Selection, select

HOST = Platform(os="linux", architecture="amd64")


def selected(*values: str, host: Platform = HOST) -> Selection:
    """Select platforms as a caller on this host does."""
    return msgspec.structs.replace(select(values), host=host)

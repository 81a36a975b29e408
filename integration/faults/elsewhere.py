"""Where registries direct their clients to; test_reach runs these cases in a network namespace."""

from __future__ import annotations

from typing import Final, Literal, NamedTuple

PUBLIC, PRIVATE, LINK_LOCAL, LOOPBACK = "203.0.113.10", "10.9.8.7", "169.254.169.254", "127.0.0.1"
METADATA = "100.100.100.200"
KINDS: Final = {
    PUBLIC: "public",
    PRIVATE: "private",
    LINK_LOCAL: "link-local",
    METADATA: "cloud metadata",
    LOOPBACK: "loopback",
}
NAMES: Final = {
    "innocent.example": LOOPBACK,
    "metadata.example": LINK_LOCAL,
    "cdn.example": PUBLIC,
    "storage.example": PRIVATE,
}


class Sent(NamedTuple):
    """A registry at one address that directs us to another one, called `name`, and by what means."""

    registry: str
    victim: str
    name: str
    by: Literal["redirect", "realm", "foreign layer", "upload location"]


REFUSED: Final = (
    Sent(PUBLIC, LOOPBACK, LOOPBACK, "redirect"),
    Sent(PUBLIC, LOOPBACK, "localhost", "redirect"),
    Sent(PUBLIC, LOOPBACK, "innocent.example", "redirect"),
    Sent(PUBLIC, LOOPBACK, "0.0.0.0", "redirect"),
    Sent(PUBLIC, LOOPBACK, "[::ffff:127.0.0.1]", "redirect"),
    Sent(PUBLIC, LOOPBACK, "0x7f.1", "redirect"),
    Sent(PUBLIC, LINK_LOCAL, LINK_LOCAL, "redirect"),
    Sent(PUBLIC, LINK_LOCAL, "metadata.example", "redirect"),
    Sent(PUBLIC, METADATA, METADATA, "redirect"),
    Sent(PRIVATE, METADATA, "1684301000", "redirect"),
    Sent(PRIVATE, LINK_LOCAL, "metadata.example", "redirect"),
    Sent(LOOPBACK, LINK_LOCAL, LINK_LOCAL, "redirect"),
    Sent(PUBLIC, LOOPBACK, "innocent.example", "realm"),
    Sent(PRIVATE, LINK_LOCAL, LINK_LOCAL, "realm"),
    Sent(PUBLIC, LOOPBACK, "innocent.example", "foreign layer"),
    Sent(PUBLIC, LINK_LOCAL, LINK_LOCAL, "foreign layer"),
    Sent(PUBLIC, PRIVATE, PRIVATE, "upload location"),
    Sent(PUBLIC, PRIVATE, "storage.example", "upload location"),
    Sent(PUBLIC, LOOPBACK, "innocent.example", "upload location"),
    Sent(PRIVATE, LINK_LOCAL, LINK_LOCAL, "upload location"),
    Sent(PRIVATE, METADATA, METADATA, "upload location"),
)
FOLLOWED: Final = (
    Sent(LOOPBACK, LOOPBACK, LOOPBACK, "redirect"),
    Sent(PRIVATE, LOOPBACK, "innocent.example", "redirect"),
    Sent(LINK_LOCAL, LINK_LOCAL, LINK_LOCAL, "redirect"),
    Sent(PUBLIC, PUBLIC, "cdn.example", "redirect"),
    Sent(PUBLIC, PRIVATE, PRIVATE, "redirect"),
    Sent(PUBLIC, PUBLIC, "cdn.example", "upload location"),
    Sent(PRIVATE, PRIVATE, "storage.example", "upload location"),
    Sent(PRIVATE, LOOPBACK, "innocent.example", "upload location"),
)

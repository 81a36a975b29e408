"""Read protobuf messages in part: what protobuf would copy or keep in memory as a whole.

Only the form that containerd sends is handled here; protobuf parses anything else.
"""

from __future__ import annotations

from collections.abc import Iterator

_BYTES = 2  # the wire type of strings, bytes and messages


class Raw(bytes):
    """A serialized message."""

    __slots__ = ()

    def ByteSize(self) -> int:  # noqa: N802 - protobuf's name
        """Return the number of bytes."""
        return len(self)


def repeated(message: bytes, field: int) -> Iterator[memoryview] | None:
    """Return the values of a repeated field; None if the message has anything else."""
    return _values(message) if _has_only(message, field) else None


def _has_only(message: bytes, field: int) -> bool:
    position = 0
    while position < len(message):
        if message[position] != field << 3 | _BYTES:
            return False
        start = after_varint(message, position + 1)
        position = start + varint(message[position + 1 : start])
    return position == len(message)


def _values(message: bytes) -> Iterator[memoryview]:
    view = memoryview(message)
    position = 0
    while position < len(message):
        start = after_varint(message, position + 1)
        position = start + varint(message[position + 1 : start])
        yield view[start:position]


def after_varint(message: bytes, position: int) -> int:
    """Return the position after the number at a position."""
    while position < len(message) and message[position] >= 0x80:
        position += 1
    return position + 1


def varint(encoded: bytes) -> int:
    """Return an encoded number."""
    return sum((byte & 0x7F) << (7 * number) for number, byte in enumerate(encoded))

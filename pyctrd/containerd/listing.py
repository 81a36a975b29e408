"""Limit the size of lists: another server behind the socket may send without end."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final, Protocol, TypeVar

from pyctrd.errors import DaemonError

# Enough for half a million blobs with the labels of a pull.
MAX_LISTED_BYTES: Final = 256 * 1024 * 1024
# Counted for each message, so that empty ones are limited as well.
_EACH: Final = 64


class _Message(Protocol):
    def ByteSize(self) -> int: ...  # noqa: N802 - protobuf's name


_T = TypeVar("_T", bound=_Message)


def bounded(answers: Iterable[_T], kind: str) -> Iterator[_T]:
    """Yield the messages. Raises DaemonError when their total size exceeds MAX_LISTED_BYTES."""
    listed = 0
    for answer in answers:
        listed += _EACH + answer.ByteSize()
        if listed > MAX_LISTED_BYTES:
            raise DaemonError(
                f"containerd's list of {kind} is longer than {MAX_LISTED_BYTES} bytes",
                code="RESOURCE_EXHAUSTED",
                kind=kind,
                name="list",
            )
        yield answer

"""How much a list may be: containerd sends as much as there is, and somebody else's socket without end."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final, Protocol, TypeVar

from pyctrd.errors import DaemonError

# Half a million blobs with the labels of a pull.
MAX_LISTED_BYTES: Final = 256 * 1024 * 1024
# So that answers of nothing come to an end, too.
_EACH: Final = 64


class _Message(Protocol):
    def ByteSize(self) -> int: ...  # noqa: N802 - protobuf's name


_T = TypeVar("_T", bound=_Message)


def bounded(answers: Iterable[_T], kind: str) -> Iterator[_T]:
    """Yield answers; raises DaemonError when they are more than MAX_LISTED_BYTES together."""
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

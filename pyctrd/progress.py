"""Progress events of long operations."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Literal, TypeAlias

import msgspec

from pyctrd.oci.model import Descriptor

Action: TypeAlias = Literal[
    "planned",
    "resolved",
    "exists",
    "waiting",
    "downloading",
    "downloaded",
    "retrying",
    "unpacking",
    "unpacked",
    "uploading",
    "uploaded",
    "mounted",
    "present",
    "writing",
    "verifying",
    "mended",
    "done",
]


class Progress(msgspec.Struct, frozen=True, kw_only=True):
    """An event of a long operation.

    `offset` and `total` are bytes of `descriptor`. `detail` is a short text, e.g. the reason for a retry; for
    `planned`, which announces a blob, it is `download`, `upload` or `write`. `resumed` is the number of bytes
    that an interrupted download had already stored: of the blob, or for `done` of the whole image.
    """

    action: Action
    descriptor: Descriptor | None = None
    offset: int = 0
    total: int = 0
    resumed: int = 0
    detail: str = ""


ProgressSink: TypeAlias = Callable[[Progress], None]


def no_progress(_event: Progress) -> None:
    """Ignore progress events."""


def one_at_a_time(sink: ProgressSink) -> ProgressSink:
    """Return a thread-safe sink, which calls the given one from one thread at a time."""
    if sink is no_progress:
        return sink
    lock = threading.Lock()

    def report(event: Progress) -> None:
        with lock:
            sink(event)

    return report

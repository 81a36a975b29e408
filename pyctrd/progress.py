"""Progress: what long operations report while they run."""

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
    """One step of the work, for whoever watches.

    `offset` and `total` are bytes of `descriptor`; `detail` is a short text (a platform, a reason to retry;
    with `planned`, which says that a blob's turn will come, it is `download`, `upload` or `write`).
    `resumed` are the bytes that an interrupted download had left here: of the blob, or at `done` in all.
    """

    action: Action
    descriptor: Descriptor | None = None
    offset: int = 0
    total: int = 0
    resumed: int = 0
    detail: str = ""


ProgressSink: TypeAlias = Callable[[Progress], None]


def no_progress(_event: Progress) -> None:
    """Be the sink of callers who do not watch."""


def one_at_a_time(sink: ProgressSink) -> ProgressSink:
    """Return a sink that several threads may call: the given one hears one event at a time."""
    if sink is no_progress:
        return sink
    lock = threading.Lock()

    def report(event: Progress) -> None:
        with lock:
            sink(event)

    return report

"""Write bytes to the output of a save, and explain what goes wrong."""

from __future__ import annotations

import errno
import io
import select
from collections.abc import Callable
from typing import IO, Final

from pyctrd.errors import ArchiveError
from pyctrd.ports import Chunk

_POLL_SECONDS: Final = 0.1
_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


class Sink:
    """Writes to the output, buffered or not, counts the bytes, and explains errors.

    `needed` is the size of the whole output in bytes, None if it is not known, and `what` its name in errors.
    """

    def __init__(
        self,
        output: IO[bytes],
        needed: int | None,
        check: Callable[[], None],
        what: str = "the archive",
    ) -> None:
        self._output = output
        self._needed = needed
        self._check = check
        self._what = what
        self.written = 0

    def write(self, data: Chunk) -> None:
        """Write all of the bytes. Raises ArchiveError, and what `check` raises while a pipe is full."""
        view = memoryview(data)
        try:
            while view:
                view = view[self._write(view) :]
        except OSError as error:
            raise self._explained(error) from error
        self.written += len(data)

    def _write(self, view: memoryview) -> int:
        """Write some of the bytes and return how many: 0 after waiting for a full pipe."""
        count: int | None = self._output.write(view)
        if count is None and isinstance(self._output, io.RawIOBase):  # it would block
            while not select.select([], [self._output], [], _POLL_SECONDS)[1]:
                self._check()
            return 0
        if not isinstance(count, int) or not 0 < count <= len(view):
            raise ArchiveError(
                f"cannot write {self._what}: write() of the output returned {count!r} for {len(view)} bytes",
                hint="it has to return the number of bytes written, as files do",
            )
        return count

    def flush(self) -> None:
        """Flush the output. Raises ArchiveError."""
        try:
            self._output.flush()
        except OSError as error:
            raise self._explained(error) from error

    def _explained(self, error: OSError) -> ArchiveError:
        return explained(error, needed=self._needed, written=self.written, what=self._what)


def explained(error: OSError, *, needed: int | None, written: int, what: str = "the archive") -> ArchiveError:
    """Return the error of a failed write, after `written` bytes of the `needed` ones."""
    reason = error.strerror or str(error)
    if error.errno in _FULL:
        amount = f": {needed} bytes are needed" if needed is not None else ""
        return ArchiveError(
            f"cannot write {what}: {reason}{amount}",
            hint="free some space, or choose another file as `output`",
        )
    if isinstance(error, BrokenPipeError):
        whole = f" of {needed}" if needed is not None else ""
        return ArchiveError(
            f"cannot write {what}: {reason}: the reader closed the pipe after {written}{whole} bytes"
        )
    return ArchiveError(f"cannot write {what}: {reason}")

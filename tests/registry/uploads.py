"""Helpers for tests of uploads: a blob, its source, and a registry that takes chunks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext

from pyctrd.errors import ContentError, PyctrdError
from pyctrd.oci import mediatypes
from pyctrd.oci.model import Descriptor, Digest
from pyctrd.registry.upload import RegistryUploader
from tests.registry.server import Answer, ScriptedServer, Seen

DATA = bytes(range(256)) * 4000  # 1,024,000 bytes
START, SESSION, BLOBS = "/v2/team/app/blobs/uploads/", "/v2/team/app/blobs/uploads/1", "/v2/team/app/blobs"
OPENED = Answer(202, headers={"Location": f"{SESSION}?_state=a"})


UploaderMaker = Callable[..., RegistryUploader]


class Source:
    """A blob in memory as ports.BlobSource, which records where it was opened."""

    def __init__(self, data: bytes = DATA, error: Exception | None = None) -> None:
        self.data = data
        self.error = error
        self.opened: list[int] = []

    def open(self, offset: int) -> AbstractContextManager[Iterator[bytes]]:
        self.opened.append(offset)
        return nullcontext(self._chunks(offset))

    def _chunks(self, offset: int) -> Iterator[bytes]:
        for start in range(offset, len(self.data), 300_000):
            yield self.data[start : start + 300_000]
            if self.error:
                raise self.error

    def wrong(self, text: str) -> PyctrdError:
        return ContentError(f"{text}: damaged")


def blob(data: bytes = DATA) -> Descriptor:
    return Descriptor(media_type=mediatypes.OCI_LAYER_GZIP, digest=Digest.of(data), size=len(data))


class ChunkedRegistry:
    """Answers like a registry with chunked uploads; `taken` is what it has of the blob."""

    def __init__(self) -> None:
        self.taken = b""
        self.state = 0

    def location(self) -> dict[str, str]:
        self.state += 1
        return {"Location": f"{SESSION}?_state={self.state}", "Range": f"0-{max(len(self.taken) - 1, 0)}"}

    def start(self, _seen: Seen) -> Answer:
        self.taken = b""
        return Answer(202, headers=self.location())

    def patch(self, seen: Seen) -> Answer:
        start, _, end = seen.headers["content-range"].partition("-")
        if int(start) != len(self.taken):
            return Answer(416, headers=self.location())
        assert int(end) - int(start) + 1 == len(seen.body)
        self.taken += seen.body
        return Answer(202, headers=self.location())

    def cut_after(self, size: int) -> Callable[[Seen], Answer]:
        """Return a handler that takes that many bytes of a request, and then closes the connection."""

        def cut(seen: Seen) -> Answer:
            self.taken += seen.body[:size]
            return Answer(hang_up=True)

        return cut

    def where(self, _seen: Seen) -> Answer:
        return Answer(204, headers=self.location())

    def finish(self, seen: Seen) -> Answer:
        self.taken += seen.body
        right = Digest.of(self.taken) in seen.path.replace("%3A", ":")
        return Answer(201 if right else 400, headers={"Docker-Content-Digest": Digest.of(self.taken)})


def calls(server: ScriptedServer) -> list[str]:
    return [f"{one.method} {one.path.partition('?')[0].removeprefix(BLOBS)}" for one in server.seen]

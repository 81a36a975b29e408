"""StoredRepository: an image in a store as a repository, so that another store can fetch it from there."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from pyctrd.errors import InvalidReference, NotFound
from pyctrd.oci import reference
from pyctrd.oci.errors import IncompleteContent
from pyctrd.oci.model import Descriptor, ImageRecord
from pyctrd.ports import Chunk, ContentStore


class StoredRepository:
    """An image in a content store. Implements ports.Remote."""

    def __init__(self, content: ContentStore, image: ImageRecord) -> None:
        self._content = content
        self._target = image.target
        try:
            parsed = reference.parse(image.name)
            self._host, self._repository = parsed.domain, parsed.repository
        except InvalidReference:  # any text may be the name of a record
            self._host, self._repository = "image", image.name

    @property
    def host(self) -> str:
        """The registry in the image's name."""
        return self._host

    @property
    def repository(self) -> str:
        """The repository in the image's name."""
        return self._repository

    def resolve(self) -> Descriptor:
        """Return the image's target."""
        return self._target

    @contextmanager
    def fetch(self, descriptor: Descriptor, offset: int = 0) -> Iterator[Iterator[bytes]]:
        """Open a blob of the store at a byte offset.

        The first chunk raises IncompleteContent if the blob does not exist any more.
        """
        with self._content.read(descriptor.digest, offset=offset) as chunks:
            yield _checked(chunks, descriptor, descriptor.size - offset)


def _checked(chunks: Iterable[Chunk], descriptor: Descriptor, left: int) -> Iterator[bytes]:
    """Yield at most `left` bytes, whatever the size of the blob's file is."""
    try:
        for chunk in chunks:
            data = bytes(chunk[:left])
            left -= len(data)
            if data:
                yield data
    except NotFound as error:
        raise IncompleteContent(
            error.message,
            missing=[descriptor],
            hint="another client deleted it while it was being copied; try again",
        ) from error

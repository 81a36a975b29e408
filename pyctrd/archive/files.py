"""The files of an open archive, as what is found in it by name."""

from __future__ import annotations

from typing import Protocol

import msgspec

from pyctrd.archive.reader import Member
from pyctrd.oci.model import Digest


class File(msgspec.Struct, frozen=True, kw_only=True):
    """A file of the archive: its size, and the first bytes.

    `digest` is that of its content, if it is known without reading a seekable archive. Its bytes are `data`,
    in the `member`, or, if there is neither, in the store.
    """

    name: str
    size: int
    digest: Digest | None = None
    head: bytes = b""
    data: bytes | None = None
    member: Member | None = None


class Files(Protocol):
    """The files of an archive."""

    def file(self, name: str) -> File:
        """Return the file with a name, or that a link with this name leads to. Raises ArchiveError."""

    def read(self, file: File, *, limit: int) -> bytes:
        """Return all bytes of a file. Raises ArchiveError if there are more than `limit`."""

    def head(self, file: File) -> bytes:
        """Return the first bytes of a file, enough to recognize a compression."""

    def hash(self, file: File) -> Digest:
        """Return the digest of a file's content, which is read if it has to be."""

    def add_blob(self, digest: Digest, file: File) -> None:
        """Say that a file has, or should have, the content of a digest."""

    def add_document(self, data: bytes) -> Digest:
        """Add a document that the archive does not have."""

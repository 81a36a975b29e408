"""The files of an archive that is checked: each is read once, and hashed on the way.

Documents and small files are kept in memory, so that a pipe need not be read twice; nothing is extracted.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from typing import Final

from pyctrd.archive.decompress import Decompressed, compression_of
from pyctrd.archive.files import File
from pyctrd.archive.images import DOCUMENT_BYTES
from pyctrd.archive.reader import CHUNK_BYTES, Archive, Member, read_member, resolve_links
from pyctrd.errors import ArchiveError
from pyctrd.oci import mediatypes
from pyctrd.oci.model import MAX_CONFIG_BYTES, Descriptor, Digest
from pyctrd.progress import Progress, ProgressSink

# Files that are kept in memory: all up to this size, JSON documents up to that of a config, ...
_SMALL_BYTES: Final = 64 << 10
# ... and no more than this together.
_MAX_HELD_BYTES: Final = 64 << 20
# In docker's archives, the names of layers have 64 hexadecimal digits.
_SHOWN_CHARACTERS: Final = 12
# Enough to recognize a compression.
_HEAD_BYTES: Final = 16


class CheckedFiles:
    """The files of an archive, and the digests of their content. Implements archive.files.Files.

    `documents` are the contents of the files that say what is in the archive, `blobs` the files by the digest
    that their name states, or that the images state. `missing_files` are the names of the files that docker's
    manifest.json names and the archive lacks, by the digest they should have.
    """

    def __init__(
        self, archive: Archive, *, hashing: bool, check: Callable[[], None], progress: ProgressSink
    ) -> None:
        """Read the archive; without `hashing`, only the headers of a file that is seekable.

        `check` is called before each chunk, and may raise. Raises ArchiveError.
        """
        self._archive = archive
        self._hashing = hashing
        self._check = check
        self._progress = progress
        self._held_bytes = 0
        self._links: dict[str, str] = {}
        self._files: dict[str, File] = {}
        self._hashes: dict[str, Digest] = {}
        self._unpacked: dict[str, Digest | ArchiveError] = {}
        self.documents: dict[str, bytes] = {}
        self.blobs: dict[Digest, File] = {}
        self.missing_files: dict[Digest, str] = {}
        for member in archive.members():
            check()
            if member.target:
                self._links[member.name] = member.target
            elif member.name in DOCUMENT_BYTES:
                limit = DOCUMENT_BYTES[member.name]
                self.documents[member.name] = read_member(archive, member, limit=limit)
            else:
                self._add(member)
        self.count = len(self._files)
        self.bytes = sum(file.size for file in self._files.values())

    def _add(self, member: Member) -> None:
        if self._hashing or not self._archive.is_seekable:
            file = self._hashed(member)
        else:
            file = File(name=member.name, size=member.size, digest=member.digest, member=member)
        self._files[file.name] = file
        if file.digest is not None:
            self.blobs[file.digest] = file

    # --- read it once

    def _hashed(self, member: Member) -> File:
        state = hashlib.new(member.digest.algorithm if member.digest else "sha256")
        chunks = self._chunks(member, state.update)
        first = next(chunks, b"")
        head = first[:_HEAD_BYTES]
        every: Iterator[bytes] = chain([first], chunks)
        data = None
        if self._is_held(member, first):
            data = b"".join(every)
            self._held_bytes += member.size
            every = iter([data])
        # Only the name of a blob states a digest; a layer of docker's archive is compared with its diff id.
        compression = compression_of(head)
        if self._hashing and member.digest is None and compression:
            self._unpacked[member.name] = self._decompressed(every, compression)
        for _chunk in every:
            pass
        self._hashes[member.name] = Digest(f"{state.name}:{state.hexdigest()}")
        again = member if self._archive.is_seekable else None
        return File(
            name=member.name, size=member.size, digest=member.digest, head=head, data=data, member=again
        )

    def _chunks(self, member: Member, update: Callable[[bytes], object]) -> Iterator[bytes]:
        """Yield the bytes of a file. If it is large, which most are that are layers, report the progress."""
        blob = None
        if member.digest is not None:
            blob = Descriptor(media_type=mediatypes.OCI_LAYER_GZIP, digest=member.digest, size=member.size)
        detail = "" if blob is not None else f"layer {member.name[:_SHOWN_CHARACTERS]}"
        done = 0
        for chunk in self._archive.chunks(member):
            self._check()
            update(chunk)
            done += len(chunk)
            if member.size > _SMALL_BYTES:
                self._progress(
                    Progress(
                        action="verifying", descriptor=blob, offset=done, total=member.size, detail=detail
                    )
                )
            yield chunk

    def _is_held(self, member: Member, first: bytes) -> bool:
        is_json = first[:1] in (b"{", b"[") and member.size <= MAX_CONFIG_BYTES
        fits = self._held_bytes + member.size <= _MAX_HELD_BYTES
        return (member.size <= _SMALL_BYTES or is_json) and fits

    def _decompressed(self, chunks: Iterable[bytes], compression: str) -> Digest | ArchiveError:
        """Return the digest of the decompressed data, or why it cannot be decompressed."""
        source = _Source(chunks)
        stream = Decompressed(source.read, compression)
        state = hashlib.sha256()
        try:
            while made := stream.read(CHUNK_BYTES):
                self._check()
                state.update(made)
        except ArchiveError as error:
            if source.error is not None:  # of the archive itself
                raise
            return error
        return Digest(f"sha256:{state.hexdigest()}")

    # --- look up, as archive.files.Files

    def file(self, name: str) -> File:
        """Return the file with a name; an empty one if the archive does not have it."""
        return self._files.get(resolve_links(name, self._links)) or File(name=name, size=0)

    def read(self, file: File, *, limit: int) -> bytes:
        if file.size > limit:
            raise ArchiveError(
                f"{file.name} in the archive has {file.size} bytes: more than {limit} are not read"
            )
        if file.data is not None:
            return file.data
        if file.member is not None:
            return read_member(self._archive, file.member, limit=limit)
        if file.name not in self._files:
            raise ArchiveError(f"{file.name!r} not found in the archive{self.perhaps_truncated}")
        raise ArchiveError(
            f"{file.name} cannot be read a second time from {self._archive.name}, and too many documents are "
            "in memory already",
            hint="pass a file that is not compressed",
        )

    def head(self, file: File) -> bytes:
        if file.member is None or file.head:
            return file.head
        return next(self._archive.chunks(file.member, end=_HEAD_BYTES), b"")

    def hash(self, file: File) -> Digest:
        known = self._hashes.get(file.name)
        if known is None:
            assert file.member is not None
            state = hashlib.new(file.digest.algorithm if file.digest else "sha256")
            for chunk in self._archive.chunks(file.member):
                self._check()
                state.update(chunk)
            known = self._hashes[file.name] = Digest(f"{state.name}:{state.hexdigest()}")
        return known

    def add_blob(self, digest: Digest, file: File) -> None:
        if file.name in self._files:
            self.blobs[digest] = file
        elif digest not in self.blobs:
            self.missing_files[digest] = file.name

    def add_document(self, data: bytes) -> Digest:
        digest = Digest.of(data)
        name = f"/{digest}"  # no name of the archive
        self.blobs[digest] = File(name=name, size=len(data), digest=digest, data=data)
        self._hashes[name] = digest
        return digest

    # --- what was found

    def is_hashed(self, file: File) -> bool:
        """Whether the digest of a file's content is known."""
        return file.name in self._hashes

    def is_made(self, file: File) -> bool:
        """Whether a file is not in the archive, but was made of what is."""
        return file.name not in self._files

    def unpacked(self, file: File) -> Digest | ArchiveError | None:
        """Return the digest of a layer's decompressed data, or why there is none.

        None if the layer is not compressed, or its name states the digest of the compressed data.
        """
        return self._unpacked.get(file.name)

    @property
    def perhaps_truncated(self) -> str:
        """What to add to a message about something that is missing."""
        return "" if self._archive.is_terminated else ", which lacks its end and may be truncated"


class _Source:
    """Chunks, to be read in other pieces; `error` is what they raised."""

    def __init__(self, chunks: Iterable[bytes]) -> None:
        self._chunks = iter(chunks)
        self._rest = b""
        self.error: ArchiveError | None = None

    def read(self, size: int) -> bytes:
        try:
            self._rest = self._rest or next(self._chunks, b"")
        except ArchiveError as error:
            self.error = error
            raise
        given, self._rest = self._rest[:size], self._rest[size:]
        return given

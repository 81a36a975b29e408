"""Contents: what an archive holds, and where it is: in the archive, in memory, or in the store already.

The members of a seekable archive stay where they are until they are needed. Those of a pipe pass by once,
before it is known what they are: large ones are written to the store at once, under the lease, and small ones
and JSON documents are kept in memory, so that documents can be validated before they are stored.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import chain
from typing import Final

from pyctrd.archive.files import File
from pyctrd.archive.images import DOCUMENT_BYTES
from pyctrd.archive.presumed import PRESUMED
from pyctrd.archive.reader import Archive, Member, read_member, resolve_links
from pyctrd.errors import AlreadyExists, ArchiveError, NotFound, PyctrdError, RegistryContentError
from pyctrd.oci import mediatypes
from pyctrd.oci.model import MAX_MANIFEST_BYTES, Descriptor, Digest
from pyctrd.ports import ContentStore
from pyctrd.progress import Progress, ProgressSink
from pyctrd.steps.fetch import Downloader

# Members of a pipe that are kept in memory: all up to this size, JSON documents up to that of a manifest, ...
_SMALL_BYTES: Final = 64 << 10
# ... and no more than this together.
_MAX_HELD_BYTES: Final = 16 << 20
_DAMAGED: Final = "the archive was damaged on the way: copy or save it again"
# Enough to recognize a compression.
_HEAD_BYTES: Final = 16


class Contents:
    """The files of an archive, by name and by digest. Implements archive.files.Files and ports.Fetcher.

    `written` are the bytes of the blobs that were written to the store while the archive was read.
    """

    # What the port asks for; errors of this fetcher are raised as ArchiveError, without these.
    host = ""

    def __init__(
        self,
        archive: Archive,
        content: ContentStore | None,
        progress: ProgressSink,
        *,
        presumed: Callable[[bytes], None] = lambda _statement: None,
    ) -> None:
        """Read the archive: all of a pipe, only the headers of a file.

        Without `content`, nothing is stored: then the digests of blobs in a pipe are computed. `presumed` is
        called with what a delta archive states, before anything that follows it is stored. Raises
        ArchiveError.
        """
        self._archive = archive
        self._content = content
        self._progress = progress
        self._held_bytes = 0
        self._links: dict[str, str] = {}
        self._files: dict[str, File] = {}
        self._blobs: dict[Digest, File] = {}
        self.documents: dict[str, bytes] = {}
        self.written: dict[Digest, int] = {}
        self.repository = archive.name
        for member in archive.members():
            if member.target:
                self._links[member.name] = member.target
            elif member.name in DOCUMENT_BYTES:
                limit = DOCUMENT_BYTES[member.name]
                self.documents[member.name] = read_member(archive, member, limit=limit)
                if member.name == PRESUMED:
                    presumed(self.documents[member.name])
            else:
                self._add(self._kept(member) if archive.is_seekable else self._passing(member))

    def _add(self, file: File) -> None:
        self._files[file.name] = file
        if file.digest is not None:
            self._blobs[file.digest] = file

    def add_blob(self, digest: Digest, file: File) -> None:
        """Say that a file has the content of a digest, or that the store has."""
        self._blobs[digest] = file

    def add_document(self, data: bytes) -> Digest:
        """Add a document that the archive does not have."""
        digest = Digest.of(data)
        self._blobs[digest] = File(name=str(digest), size=len(data), digest=digest, data=data)
        return digest

    # --- look up

    def file(self, name: str) -> File:
        """Return the file with a name, or that a link with this name leads to. Raises ArchiveError."""
        found = self._files.get(resolve_links(name, self._links))
        if found is None:
            raise ArchiveError(f"{name!r} not found in the archive{self._perhaps_truncated()}")
        return found

    def blob(self, descriptor: Descriptor) -> File | None:
        """Return the file with a blob. Raises ArchiveError if its size is not that of the descriptor."""
        found = self._blobs.get(descriptor.digest)
        if found is not None and found.size != descriptor.size:
            raise ArchiveError(
                f"{found.name} in the archive has {found.size} bytes, but {descriptor.size} according to the "
                "image"
            )
        return found

    def _perhaps_truncated(self) -> str:
        return "" if self._archive.is_terminated else ", which lacks its end and may be truncated"

    @property
    def is_whole(self) -> bool:
        """Whether the end of the archive was found."""
        return self._archive.is_terminated

    def head(self, file: File) -> bytes:
        """Return the first bytes of a file."""
        if file.member is None:
            return file.head
        return next(self._archive.chunks(file.member, end=_HEAD_BYTES), b"")

    def read(self, file: File, *, limit: int) -> bytes:
        """Return all bytes of a file. Raises ArchiveError if there are more than `limit`, NotFound."""
        if file.data is not None:
            return file.data
        if file.member is not None:
            return read_member(self._archive, file.member, limit=limit)
        if self._content is None or file.digest is None:
            raise _not_found(file.digest or Digest.of(b""))
        return self._content.read_all(file.digest, limit=limit)

    def hash(self, file: File) -> Digest:
        """Return the digest of a file's content, which is read if it has to be."""
        if file.digest is not None:
            return file.digest
        if file.data is not None:
            return Digest.of(file.data)
        assert file.member is not None
        state = hashlib.sha256()
        for chunk in self._archive.chunks(file.member):
            state.update(chunk)
        return Digest(f"sha256:{state.hexdigest()}")

    @contextmanager
    def fetch(self, descriptor: Descriptor, offset: int = 0) -> Iterator[Iterator[bytes]]:
        """Open a blob at a byte offset. Raises NotFound."""
        file = self.blob(descriptor)
        if file is not None and file.member is not None:
            yield self._archive.chunks(file.member, offset)
        elif file is not None and file.data is not None:
            yield iter([file.data[offset:]])
        else:
            raise _not_found(descriptor.digest)

    # --- members of a seekable archive

    def _kept(self, member: Member) -> File:
        return File(name=member.name, size=member.size, digest=member.digest, member=member)

    # --- members of a pipe

    def _passing(self, member: Member) -> File:
        chunks = self._archive.chunks(member)
        first = next(chunks, b"")
        head = first[:_HEAD_BYTES]
        every = chain([first], chunks)
        if self._is_held(member, first):
            self._held_bytes += member.size
            data = b"".join(every)
            if member.digest is not None:
                _check(member, Digest.of(data, member.digest.algorithm))
            digest = member.digest or Digest.of(data)
            return File(name=member.name, size=member.size, digest=digest, head=head, data=data)
        if self._content is None:
            digest = _hashed(every, member)
        elif member.digest is not None:
            digest = self._write_named(self._content, member, member.digest, every)
        else:
            digest = self._write_unnamed(self._content, member, every)
        return File(name=member.name, size=member.size, digest=digest, head=head)

    def _is_held(self, member: Member, first: bytes) -> bool:
        is_json = first[:1] in (b"{", b"[") and member.size <= MAX_MANIFEST_BYTES
        fits = self._held_bytes + member.size <= _MAX_HELD_BYTES
        return (member.size <= _SMALL_BYTES or is_json) and fits

    def _write_named(
        self, content: ContentStore, member: Member, digest: Digest, chunks: Iterator[bytes]
    ) -> Digest:
        """Write a blob whose name states its digest, unless the store has it."""
        # Most are layers. A pull uses the same name for a layer's ingest, so that either resumes the other.
        blob = Descriptor(media_type=mediatypes.OCI_LAYER_GZIP, digest=digest, size=member.size)
        source = _Passing(self.repository, chunks)
        downloader = Downloader(content, [source], claim_present=False, progress=self._progress)
        try:
            self.written[digest] = downloader.fetch(blob).downloaded
        except RegistryContentError as error:
            raise wrong_content(member.name, error) from error
        return digest

    def _write_unnamed(self, content: ContentStore, member: Member, chunks: Iterator[bytes]) -> Digest:
        """Write a file of which only its bytes tell the digest."""
        ref = f"pyctrd-load-{secrets.token_hex(8)}"  # nothing can resume it: who knows what it was
        state = hashlib.sha256()
        written = member.size
        try:
            with content.open_ingest(ref, digest=None, size=member.size) as ingest:
                for chunk in chunks:
                    ingest.write(chunk)
                    state.update(chunk)
                digest = Digest(f"sha256:{state.hexdigest()}")
                ingest.commit(digest)
        except AlreadyExists:  # it is added to the lease when it is needed
            written = 0
            content.abort(ref)
        except BaseException:
            content.abort(ref)
            raise
        blob = Descriptor(media_type=mediatypes.OCI_LAYER_GZIP, digest=digest, size=member.size)
        self.written[digest] = written
        self._progress(Progress(action="downloaded", descriptor=blob, offset=member.size, total=member.size))
        return digest


class _Passing:
    """The blob of a pipe that is being read. Implements ports.Fetcher."""

    host = ""

    def __init__(self, repository: str, chunks: Iterator[bytes]) -> None:
        self.repository = repository
        self._chunks: Iterator[bytes] | None = chunks

    @contextmanager
    def fetch(self, descriptor: Descriptor, offset: int = 0) -> Iterator[Iterator[bytes]]:
        chunks, self._chunks = self._chunks, None
        if chunks is None:
            raise ArchiveError(
                f"the data that an interrupted pull or load had stored of {descriptor.digest} was corrupt, "
                "and is removed now",
                hint="load the archive again",
            )
        yield _from(chunks, offset)


def _from(chunks: Iterator[bytes], offset: int) -> Iterator[bytes]:
    """Yield what comes after the first `offset` bytes."""
    for chunk in chunks:
        if offset < len(chunk):
            yield chunk[offset:]
        offset = max(offset - len(chunk), 0)


def _hashed(chunks: Iterator[bytes], member: Member) -> Digest:
    state = hashlib.new(member.digest.algorithm if member.digest else "sha256")
    for chunk in chunks:
        state.update(chunk)
    found = Digest(f"{member.digest.algorithm if member.digest else 'sha256'}:{state.hexdigest()}")
    if member.digest is not None:
        _check(member, found)
    return found


def _check(member: Member, found: Digest) -> None:
    if member.digest != found:
        raise ArchiveError(
            f"wrong content for {member.name} in the archive: its digest is {found}", hint=_DAMAGED
        )


def wrong_content(name: str, error: RegistryContentError) -> ArchiveError:
    """Return the error for a file whose bytes the store refused, for the one that a registry would get."""
    cause = error.__cause__
    if not isinstance(cause, PyctrdError):
        return ArchiveError(f"{name} in the archive: {error.message}", hint=error.hint)
    sha256_only = not name.startswith("blobs/sha256/") and "digest sha256:" in cause.message
    return ArchiveError(
        f"{cause.message}: wrong content for {name} in the archive",
        hint="this containerd only supports sha256" if sha256_only else _DAMAGED,
    )


def _not_found(digest: Digest) -> NotFound:
    return NotFound(f"content digest {digest}: not found", kind="content", name=digest)

"""Fetch missing content from an archive, in place of a registry or before one is asked."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from pyctrd.archive.decompress import MAGIC_BYTES, compression_of
from pyctrd.archive.docker_manifests import manifests
from pyctrd.archive.images import parse_documents
from pyctrd.archive.reader import Archive, Source, open_archive
from pyctrd.errors import ArchiveError, InvalidInput, PyctrdError, RegistryContentError, RegistryNotFound
from pyctrd.oci.model import Descriptor, ImageRecord, Index
from pyctrd.operations.load.contents import Contents
from pyctrd.ports import ContentStore, Fetcher, Fetchers, Store
from pyctrd.progress import no_progress

_DAMAGED: Final = "the archive was damaged on the way: copy or save it again; nothing of it was kept"


class ArchiveSource:
    """The content of an open archive, by digest. Implements ports.Fetcher.

    Of docker's archives, these are the configs, the layers as they are in it, and the manifests that an
    import makes.
    """

    # An archive is no repository, so what comes from it gets no source label.
    host = ""

    def __init__(self, archive: Archive, content: ContentStore) -> None:
        self._contents = Contents(archive, None, no_progress)
        self.repository = archive.name
        found = parse_documents(self._contents.documents)
        if not isinstance(found, Index):
            for _entry in manifests(found, self._contents, content):
                pass

    def has(self, descriptor: Descriptor) -> bool:
        """Whether the archive has a blob. Raises ArchiveError if it has another size."""
        return self._contents.blob(descriptor) is not None

    @contextmanager
    def fetch(self, descriptor: Descriptor, offset: int = 0) -> Iterator[Iterator[bytes]]:
        if not self.has(descriptor):
            raise RegistryNotFound(
                f"content {descriptor.digest}: not found in {self.repository}",
                kind="content",
                name=str(descriptor.digest),
                repository=self.repository,
            )
        with self._contents.fetch(descriptor, offset) as chunks:
            yield chunks


def fetchers_with(source: ArchiveSource | None, fetchers: Fetchers, *, offline: bool = False) -> Fetchers:
    """Return the repositories to ask for an image's content: first the archive, then, unless `offline`, the
    registries.
    """
    if source is None:
        return fetchers

    def both(image: ImageRecord) -> list[Fetcher]:
        return [source, *(() if offline else fetchers(image))]

    return both


@contextmanager
def open_source(source: Source | None, store: Store) -> Iterator[ArchiveSource | None]:
    """Open an archive to fetch content from: an uncompressed tar in a file, or the folder of an OCI layout.

    Errors of its content are raised as ArchiveError within the context. Raises InvalidInput for a pipe or a
    compressed archive: blobs are needed in the order of the image, not in that of the archive.
    """
    if source is None:
        yield None
        return
    with open_archive(source, check=store.check_open) as archive:
        if not archive.is_seekable:
            raise _not_seekable(source, archive.name)
        try:
            opened = ArchiveSource(archive, store.content)
        except ArchiveError as error:
            raise named(error, archive.name) from error
        try:
            yield opened
        except RegistryContentError as error:
            if error.host or error.repository != opened.repository:
                raise
            raise _wrong_content(error, archive.name) from error


def named(error: ArchiveError, name: str) -> ArchiveError:
    """Return the error with the name of the archive, which is one of several files of the operation."""
    message = error.message if name in error.message else f"{name}: {error.message}"
    return ArchiveError(message, hint=error.hint)


def _wrong_content(error: RegistryContentError, name: str) -> ArchiveError:
    cause = error.__cause__
    if isinstance(cause, PyctrdError):
        return ArchiveError(f"{cause.message}: wrong content in {name}", hint=_DAMAGED)
    return ArchiveError(error.message.removeprefix("/"), hint=_DAMAGED)


def _not_seekable(source: Source, name: str) -> InvalidInput:
    """Return the error with the command that makes a file of the archive that can be used."""
    if isinstance(source, str | os.PathLike) and os.fspath(source) != "-":
        path = os.fspath(source)
        with Path(path).open("rb") as file:
            program = compression_of(file.read(MAGIC_BYTES))  # it has the name of its compression
        if program:
            plain = path.rpartition(".")[0] or path
            plain = plain if plain.endswith(".tar") else f"{plain}.tar"
            return InvalidInput(
                f"cannot take missing content from {name}: it is compressed",
                hint=f"decompress it first: {program} -dc {shlex.quote(path)} > {shlex.quote(plain)}",
            )
    return InvalidInput(
        f"cannot take missing content from {name}: it is a pipe, or compressed",
        hint="write it to a file without compression first",
    )

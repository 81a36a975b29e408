"""What the target has if an older archive was loaded there.

Only the headers and the documents of an uncompressed archive are read, not its layers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain
from typing import cast

from pyctrd.archive.images import DockerImage, parse_documents
from pyctrd.archive.inventory import Have
from pyctrd.archive.presumed import PRESUMED, parse
from pyctrd.archive.reader import Archive, Source, open_archive
from pyctrd.errors import ArchiveError, ContentError, InvalidInput, NotFound
from pyctrd.oci import graph, mediatypes
from pyctrd.oci.model import MAX_CONFIG_BYTES, Descriptor, Digest, ImageConfig, Index
from pyctrd.operations.archive_source import named
from pyctrd.operations.load.contents import Contents
from pyctrd.progress import no_progress


def since_list(since: Source | Sequence[Source], *others: object) -> Sequence[Source]:
    """Return one or several older archives as a list.

    Raises InvalidInput if stdin would be read twice, for these or for the other files of a save.
    """
    found: Sequence[Source] = since if isinstance(since, list | tuple) else [cast("Source", since)]
    if [*found, *others].count("-") > 1:
        raise InvalidInput("stdin can be read once: only one of `have`, `since` and `source` can be `-`")
    return found


def with_older(have: Have | None, since: Sequence[Source], check: Callable[[], None]) -> Have | None:
    """Add what the older archives have; `check` is called while a pipe is empty."""
    for source in since:
        with open_archive(source, check=check) as archive:
            have = united([have or Have(), have_since(archive)])
    return have


def have_since(archive: Archive) -> Have:
    """Return what an archive has: the layers of its images, and what it presumes.

    Layers are recognized by their digests. Docker writes them uncompressed, with other digests than in a
    registry, so such layers also count by their chain ids, since they are unpacked when they are loaded.
    Raises ArchiveError for a damaged archive.
    """
    try:
        contents = Contents(archive, None, no_progress)
        found = parse_documents(contents.documents)
        given = _of_layout(found, contents) if isinstance(found, Index) else _of_docker(found, contents)
        statement = contents.documents.get(PRESUMED)
        presumed = parse(statement) if statement is not None else ()
    except ContentError as error:
        raise ArchiveError(f"{archive.name}: {error.message}", hint=error.hint) from error
    except ArchiveError as error:
        raise named(error, archive.name) from error
    return united([given, Have(blobs=frozenset(item.layer.digest for item in presumed))])


def united(haves: Iterable[Have]) -> Have:
    """Return what any of them has."""
    found = list(haves)
    return Have(
        blobs=frozenset(chain.from_iterable(item.blobs for item in found)),
        chain_ids=frozenset(chain.from_iterable(item.chain_ids for item in found)),
    )


def _of_layout(index: Index, contents: Contents) -> Have:
    def read(descriptor: Descriptor) -> bytes:
        return _read(contents, descriptor)

    step = graph.tolerant(graph.read_children(read), lambda _missing: None, NotFound)
    blobs = set[Digest]()
    chain_ids = set[Digest]()
    for entry in index.manifests:
        for leaf in graph.leaves_of(entry, step):
            children = step(leaf) if mediatypes.is_manifest(leaf.media_type) else ()
            layers = children[1:]
            blobs.update(layer.digest for layer in layers if contents.blob(layer) is not None)
            chain_ids.update(_unpacked(children, contents, read))
    return Have(blobs=frozenset(blobs), chain_ids=frozenset(chain_ids))


def _unpacked(
    children: Sequence[Descriptor], contents: Contents, read: graph.ReadDocument
) -> Iterator[Digest]:
    """Yield the chain ids of uncompressed layers; a snapshot needs all layers below it."""
    layers = children[1:]
    if not any(map(_is_uncompressed, layers)):
        return
    for layer, chain_id in zip(layers, graph.chain_ids(children[0], layers, read), strict=True):
        if chain_id is None or contents.blob(layer) is None:
            return
        if _is_uncompressed(layer):
            yield chain_id


def _is_uncompressed(layer: Descriptor) -> bool:
    return mediatypes.is_layer(layer.media_type) and layer.media_type.endswith("tar")


def _of_docker(images: Sequence[DockerImage], contents: Contents) -> Have:
    chain_ids = set[Digest]()
    for image in images:
        raw = contents.read(contents.file(image.config), limit=MAX_CONFIG_BYTES)
        chain_ids.update(ImageConfig.parse(raw).rootfs.chain_ids)
        for name in image.layers:
            contents.file(name)  # raises if it is not in the archive
    return Have(chain_ids=frozenset(chain_ids))


def _read(contents: Contents, descriptor: Descriptor) -> bytes:
    file = contents.blob(descriptor)
    if file is None:
        raise NotFound(
            f"content digest {descriptor.digest}: not found", kind="content", name=descriptor.digest
        )
    raw = contents.read(file, limit=graph.size_limit(descriptor))
    found = Digest.of(raw, descriptor.digest.algorithm)
    if found != descriptor.digest:
        raise ArchiveError(
            f"wrong content for {file.name}: its digest is {found}",
            hint="the archive was damaged on the way: use the one that was loaded on the other side",
        )
    return raw

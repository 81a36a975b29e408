"""Find out which images an archive has, and which of their platforms are complete in it.

Nothing ends the survey that concerns one blob: damaged documents are treated as if they had no children.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final, Literal, TypeAlias

import msgspec

from pyctrd.amounts import listed, size
from pyctrd.archive.docker_manifests import manifests
from pyctrd.archive.files import File
from pyctrd.archive.images import is_image, is_name, parse_documents
from pyctrd.archive.inventory import Have
from pyctrd.archive.layout import IMAGE_NAME, REF_NAME
from pyctrd.archive.presumed import PRESUMED, Presumed, parse
from pyctrd.errors import ArchiveError, ContentError, NotFound
from pyctrd.oci import graph, mediatypes, platforms
from pyctrd.oci.model import Descriptor, Digest, ImageConfig, Index, Manifest, Platform
from pyctrd.oci.platforms import Targets
from pyctrd.operations.archives.files import CheckedFiles
from pyctrd.operations.verify import Fault, Finding
from pyctrd.steps.validate import Validator, is_document

LayoutKind: TypeAlias = Literal["oci", "docker"]
# complete: all content is there; presumed: the archive leaves out layers that the target should have;
# incomplete: something is missing or damaged; absent: not even the manifest is there.
Completeness: TypeAlias = Literal["complete", "presumed", "incomplete", "absent"]

# Descriptors in all images together, each as often as manifests have it.
_MAX_DESCRIPTORS: Final = 300_000


class ArchivedPlatform(msgspec.Struct, frozen=True, kw_only=True):
    """A platform of an image in an archive, and how much of it is there.

    `state` is "complete", "presumed" if only layers are missing that the archive says it leaves out,
    "incomplete", or "absent" if the archive does not have the manifest. `platform` is None for an artifact,
    or if it is not known. `digest` is that of the manifest, `size` the sum in bytes of its content as far as
    it is known, and `missing` what is not there, with what is presumed.
    """

    platform: Platform | None
    digest: Digest
    state: Completeness
    size: int
    missing: tuple[Descriptor, ...] = ()


class ArchivedImage(msgspec.Struct, frozen=True, kw_only=True):
    """An image in an archive.

    `name` is what the archive says: a full name, only a tag, or empty. `attestations` is the number of
    complete ones.
    """

    name: str
    target: Descriptor
    platforms: tuple[ArchivedPlatform, ...]
    attestations: int = 0

    @property
    def complete(self) -> bool:
        """Whether the platforms are complete of which there is anything at all."""
        there = [item for item in self.platforms if item.state != "absent"]
        return bool(there) and all(item.state == "complete" for item in there)

    def having(self, state: Completeness) -> tuple[Platform, ...]:
        """Return the platforms in a state."""
        found = (item.platform for item in self.platforms if item.state == state)
        return tuple(dict.fromkeys(item for item in found if item is not None))


class _Root(msgspec.Struct):
    """An entry of index.json, under all of its names."""

    target: Descriptor
    names: dict[str, None] = {}
    leaves: list[Descriptor] = []


class Survey:
    """The images of an archive; `findings` are the problems, and `others` the entries that are no images.

    Without `targets`, the platforms have to be complete of which the archive has the manifest. `have` is what
    the target has.
    """

    def __init__(self, files: CheckedFiles, targets: Targets | None = None, have: Have | None = None) -> None:
        """Survey the archive. Raises ArchiveError if it has no images, or is made to do harm."""
        self._files = files
        self._targets = targets
        self._have = have
        self._findings: dict[Digest, Finding] = {}
        self._names: dict[Digest, dict[str, None]] = {}
        self._asking: tuple[str, ...] = ()
        self._noted = set[Digest]()
        self._validator = Validator()
        self._valid = set[tuple[Digest, str]]()
        self._media_types: dict[Digest, str] = {}
        self._count = 0
        statement = files.documents.get(PRESUMED)
        stated = parse(statement) if statement is not None else ()
        self.presumed: dict[Digest, Presumed] = {
            item.layer.digest: item for item in stated if item.layer.digest not in files.blobs
        }
        self._step = self._validator.watch(self._children, platforms.ALL)
        self.layout: LayoutKind = "oci"
        entries = self._entries()
        # As in a load, an entry without a name is an image only if there is none with a name.
        roots = _united(filter(_name, entries)) or _united(filter(is_image, entries))
        if not roots:
            raise ArchiveError(
                "there is no image in the archive", hint="attestations and referrers alone are not images"
            )
        named = {root.target.digest for root in roots}
        others = _united(entry for entry in entries if entry.digest not in named)
        self.others = tuple(root.target for root in others)
        # All indexes are read first: what they say of a manifest is compared with its config.
        for root in (*roots, *others):
            self._list(root)
        surveyed = [(root, self._image(root, is_image=True)) for root in roots]
        for root in others:
            self._image(root, is_image=False)
        self.images = tuple(
            msgspec.structs.replace(image, name=name) for root, image in surveyed for name in root.names
        )
        self._require_platforms(surveyed)
        self._check_the_rest()

    @property
    def findings(self) -> tuple[Finding, ...]:
        """The problems, sorted by digest."""
        return tuple(
            msgspec.structs.replace(self._findings[digest], images=tuple(self._names[digest]))
            for digest in sorted(self._findings)
        )

    @property
    def blobs(self) -> tuple[Descriptor, ...]:
        """The content in the archive, in its order; the media type is empty if no image has it."""
        return tuple(
            Descriptor(media_type=self._media_types.get(digest, ""), digest=digest, size=file.size)
            for digest, file in self._files.blobs.items()
            if not self._files.is_made(file)
        )

    # --- entries

    def _entries(self) -> list[Descriptor]:
        found = parse_documents(self._files.documents)
        if isinstance(found, Index):
            return list(found.manifests)
        self.layout = "docker"
        return list(manifests(found, self._files, None))

    def _list(self, root: _Root) -> None:
        """Read the indexes of an image."""
        self._ask_for(root.names)
        try:
            root.leaves = list(graph.leaves_of(root.target, self._step))
        except ContentError as error:
            raise ArchiveError(f"{listed(self._asking) or root.target.digest}: {error.message}") from error
        self._add(len(root.leaves))
        if mediatypes.is_index(root.target.media_type):
            self._state(root.target)
        elif not graph.has_children(root.target):
            text = f"it is neither an index nor a manifest: {root.target.media_type}"
            self._note(root.target, "malformed", text)

    def _add(self, count: int) -> None:
        self._count += count
        if self._count > _MAX_DESCRIPTORS:
            raise ArchiveError(
                f"the images of the archive have more than {_MAX_DESCRIPTORS} descriptors, or names of what "
                "is damaged"
            )

    # --- images

    def _image(self, root: _Root, *, is_image: bool) -> ArchivedImage:
        self._ask_for(root.names)
        found: dict[Descriptor, ArchivedPlatform] = {}
        known: dict[tuple[Digest, str], ArchivedPlatform] = {}  # an index may list one for many platforms
        for leaf in root.leaves:
            key = leaf.digest, leaf.media_type
            if key not in known:
                known[key] = self._manifest(leaf)
            found[leaf] = msgspec.structs.replace(known[key], platform=self._platform_of(leaf))
            if self._is_needed(leaf, found[leaf]):
                for item in found[leaf].missing:
                    if not self._is_presumed(item) or self._have is not None:
                        self._note(item, "missing", self._why_missing(item))
        images = {leaf: item for leaf, item in found.items() if not graph.is_attestation(leaf)}
        if root.target.digest not in self._files.blobs:
            self._note(root.target, "missing", self._why_missing(root.target))
        elif is_image and self._is_empty(root, list(images.values())):
            self._note(root.target, "missing", f"none of its platforms is {self._nowhere}")
        return ArchivedImage(
            name="",
            target=root.target,
            platforms=tuple(images.values()),
            attestations=sum(
                item.state == "complete" for leaf, item in found.items() if graph.is_attestation(leaf)
            ),
        )

    def _manifest(self, leaf: Descriptor) -> ArchivedPlatform:
        try:
            content = list(graph.by_digest(graph.preorder(leaf, self._step)).values())
        except ContentError as error:
            raise ArchiveError(f"{leaf.digest}: {error.message}") from error
        self._add(len(content))
        states = {item.digest: self._state(item) for item in content}
        missing = [item for item in content if states[item.digest] == "missing"]
        if self.layout == "docker" and states[leaf.digest] == "sound":
            self._check_diff_ids(leaf)
        state: Completeness = "complete"
        if states[leaf.digest] == "missing":
            state = "absent"
        else:
            missing = self._without_what_the_target_has(content, missing)
            if any(self._is_damaged(item.digest) for item in content):
                state = "incomplete"
            elif missing:
                is_delta = self._have is None and all(map(self._is_presumed, missing))
                state = "presumed" if is_delta else "incomplete"
        return ArchivedPlatform(
            platform=None,
            digest=leaf.digest,
            state=state,
            size=sum(item.size for item in content),
            missing=tuple(missing),
        )

    def _platform_of(self, leaf: Descriptor) -> Platform | None:
        if leaf.platform is None and not mediatypes.is_manifest(leaf.media_type):
            return None
        try:
            found = graph.platform_of(leaf, self._read)
        except (ContentError, NotFound):
            return None
        return found and platforms.normalize(found)

    def _without_what_the_target_has(
        self, content: Sequence[Descriptor], missing: Sequence[Descriptor]
    ) -> list[Descriptor]:
        """Leave out what the inventory has; as in a load, a snapshot replaces only what is presumed."""
        if self._have is None or not missing:
            return list(missing)
        absent = [item for item in missing if item.digest not in self._have.blobs]
        if not any(map(self._is_presumed, absent)):
            return absent
        chains: dict[Digest, Digest | None] = {}
        if mediatypes.is_manifest(content[0].media_type):
            document = Manifest.parse(self._read(content[0]))
            found = graph.chain_ids(document.config, document.layers, self._read)
            chains = {layer.digest: chain for layer, chain in zip(document.layers, found, strict=True)}
        return [
            item
            for item in absent
            if not self._is_presumed(item) or chains.get(item.digest) not in self._have.chain_ids
        ]

    def _is_presumed(self, item: Descriptor) -> bool:
        """Whether the archive says that it leaves out a blob, which only layers may be."""
        return item.digest in self.presumed and not is_document(item)

    # --- what has to be there

    def _is_needed(self, leaf: Descriptor, found: ArchivedPlatform) -> bool:
        if self._targets is None:
            return found.state != "absent"
        if self._targets.selection.all and graph.is_attestation(leaf):
            return found.state != "absent"
        return graph.fits(self._targets.matcher)(leaf)

    def _is_empty(self, root: _Root, found: Sequence[ArchivedPlatform]) -> bool:
        """Whether nothing of an image is there, although no platform in particular was asked for."""
        unknown = self._is_damaged(root.target.digest)
        return not unknown and self._targets is None and all(item.state == "absent" for item in found)

    def _require_platforms(self, surveyed: Sequence[tuple[_Root, ArchivedImage]]) -> None:
        """Note the platforms that were asked for, and that no index lists."""
        if self._targets is None:
            return
        by_name: dict[str, list[ArchivedImage]] = {}
        for root, image in surveyed:
            for name in root.names:
                by_name.setdefault(name or f"@{image.target.digest}", []).append(image)
        for name, images in by_name.items():
            found = [item.platform for image in images for item in image.platforms]
            absent = self._targets.absent(found)
            if absent and not any(image.target.digest in self._findings for image in images):
                self._ask_for(() if name.startswith("@") else (name,))
                has = listed([platforms.format_all(item) for item in dict.fromkeys(found) if item])
                wanted = listed([platforms.format_all(item) for item in absent])
                self._note(images[0].target, "missing", f"it is not for {wanted}: it has {has or 'none'}")

    # --- blobs

    def _state(self, item: Descriptor) -> Literal["sound", "missing", "damaged"]:
        """Check a blob, and note it if it is damaged."""
        file = self._files.blobs.get(item.digest)
        if file is None:
            return "missing"
        self._media_types.setdefault(item.digest, item.media_type)
        problem = self._problem(item, file)
        if problem is not None:
            self._note(item, *problem)
        elif is_document(item):
            self._validate(item)
        return "damaged" if self._is_damaged(item.digest) else "sound"

    def _problem(self, item: Descriptor, file: File) -> tuple[Fault, str] | None:
        is_known = self._files.is_hashed(file) or (is_document(item) and file.size <= graph.size_limit(item))
        found = self._files.hash(file) if is_known else item.digest
        if found != item.digest and file.size >= item.size:
            return "corrupt", f"unexpected digest {found}"
        if file.size < item.size and (found != item.digest or not is_known):
            return "truncated", f"it has {file.size} bytes instead of {item.size}"
        if file.size != item.size:
            return "malformed", f"it has {file.size} bytes, but {item.size} according to the image"
        return None

    def _validate(self, item: Descriptor) -> None:
        key = item.digest, item.media_type
        if key in self._valid:
            return
        self._valid.add(key)
        try:
            self._validator.check(item, self._read(item))
        except ContentError as error:
            self._note(item, "malformed", error.message)

    def _read(self, item: Descriptor) -> bytes:
        """Return a document. Raises NotFound if it is absent or damaged, ContentError if it is too large."""
        file = self._files.blobs.get(item.digest)
        limit = graph.size_limit(item)
        if file is not None and file.size > limit:
            kind = mediatypes.document_kind(item.media_type)
            raise ContentError(f"rejecting {file.size} byte {kind} {item.digest}: more than {limit} bytes")
        if file is None or self._files.hash(file) != item.digest:
            text = f"content digest {item.digest}: not found"
            raise NotFound(text, kind="content", name=item.digest)
        return self._files.read(file, limit=limit)

    def _children(self, item: Descriptor) -> Sequence[Descriptor]:
        if not graph.has_children(item) or self._state(item) != "sound":
            return ()
        return graph.children_in(item, self._read(item))

    def _check_diff_ids(self, leaf: Descriptor) -> None:
        """Compare compressed layers of docker's archive with the config, which has the only known digests."""
        document = Manifest.parse(self._read(leaf))
        try:
            diff_ids = ImageConfig.parse(self._read(document.config)).rootfs.diff_ids
        except (ContentError, NotFound):
            return
        for layer, diff_id in zip(document.layers, diff_ids, strict=False):
            file = self._files.blobs.get(layer.digest)
            found = self._files.unpacked(file) if file is not None else None
            if isinstance(found, ArchiveError):
                self._note(layer, "corrupt", f"{file.name if file else ''}: {found.message}")
            elif found is not None and found != diff_id:
                self._note(layer, "corrupt", f"its decompressed data has the digest {found}, not {diff_id}")

    def _check_the_rest(self) -> None:
        """Note damaged blobs that no image has."""
        self._ask_for(())
        for digest, file in self._files.blobs.items():
            if digest not in self._findings and self._files.is_hashed(file):
                found = self._files.hash(file)
                if found != digest:
                    blob = Descriptor(media_type="", digest=digest, size=file.size)
                    self._note(blob, "corrupt", f"unexpected digest {found}")

    # --- findings

    def _is_damaged(self, digest: Digest) -> bool:
        found = self._findings.get(digest)
        return found is not None and found.fault != "missing"

    def _ask_for(self, names: Iterable[str]) -> None:
        """Note the problems that are found from here on for the images with these names."""
        self._asking = tuple(filter(None, names))
        self._noted.clear()

    def _note(self, item: Descriptor, fault: Fault, detail: str) -> None:
        if item.digest in self._noted:
            return
        self._noted.add(item.digest)
        self._findings.setdefault(
            item.digest,
            Finding(
                digest=item.digest, fault=fault, detail=detail, size=item.size, media_type=item.media_type
            ),
        )
        names = self._names.setdefault(item.digest, {})
        names.update(dict.fromkeys(self._asking))
        self._add(len(self._asking))

    def _why_missing(self, item: Descriptor) -> str:
        name = self._files.missing_files.get(item.digest)
        if name is not None:
            return f"{name!r} not found in the archive{self._files.perhaps_truncated}"
        if self._is_presumed(item):
            return f"the archive leaves out this layer of {size(item.size)}, but the inventory lacks it"
        return f"not {self._nowhere}"

    @property
    def _nowhere(self) -> str:
        either = "in the archive or the inventory" if self._have is not None else "in the archive"
        return f"{either}{self._files.perhaps_truncated}"


def _name(entry: Descriptor) -> str:
    """Return the name that the archive gives to an image. Raises ArchiveError for an invalid one."""
    name = entry.annotations.get(IMAGE_NAME) or entry.annotations.get(REF_NAME, "")
    if name and not is_name(name):
        raise ArchiveError(f"invalid name of an image in the archive: {name[:100]!r}")
    return name


def _united(entries: Iterable[Descriptor]) -> list[_Root]:
    """Return each target once, with its names."""
    found: dict[tuple[Digest, str], _Root] = {}
    for entry in entries:
        root = found.setdefault((entry.digest, entry.media_type), _Root(target=entry))
        root.names[_name(entry)] = None
    return list(found.values())

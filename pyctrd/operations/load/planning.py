"""Decide what is loaded of each image of an archive, and check that it is there, before anything is recorded.

The index of an image may list platforms and attestations that the archive does not have, as long as the
selected platforms are complete: containerd's own archives of one platform do.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Final

import msgspec

from pyctrd.amounts import count, listed, size
from pyctrd.errors import ArchiveError, ContentError, NoMatchingPlatform, NotFound, Remedy
from pyctrd.oci import graph, mediatypes, platforms
from pyctrd.oci.errors import IncompleteContent
from pyctrd.oci.model import Descriptor, Digest, Platform
from pyctrd.oci.platforms import Targets
from pyctrd.operations.load.contents import Contents
from pyctrd.operations.load.presumed import Presumption
from pyctrd.ports import ContentStore
from pyctrd.steps.fetch import is_present
from pyctrd.steps.validate import Validator, is_document

# Documents that were read last stay in memory up to this size together.
_MAX_HELD_BYTES: Final = 4 << 20
_BROKEN: Final = "the archive is broken or malicious; the document was not stored"


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """An image to load: its target under each of its names, which differ in annotations only.

    `left_out` are manifests that are incomplete, `platforms` those of the others. `replaced` are layers that
    are not stored, since their snapshots exist. `complete` says whether all selected platforms are there.
    """

    targets: Mapping[str, Descriptor]
    platforms: tuple[Platform, ...]
    left_out: frozenset[Digest]
    replaced: frozenset[Digest]
    complete: bool

    @property
    def target(self) -> Descriptor:
        """The root of the image."""
        return next(iter(self.targets.values()))


class Planner:
    """Plans the loading of images, one after the other.

    `adopt` tries to get a blob that the archive does not have from another namespace. `unpacks` says whether
    an image, given by its target, is unpacked for a platform.
    """

    def __init__(
        self,
        contents: Contents,
        content: ContentStore,
        adopt: Callable[[Descriptor], bool],
        presumption: Presumption,
        *,
        targets: Targets,
        unpacks: Callable[[Descriptor, Platform], bool],
        skip: bool,
    ) -> None:
        self._contents = contents
        self._content = content
        self._adopt = adopt
        self._presumption = presumption
        self._unpacks = unpacks
        self._targets = targets
        self._skip = skip
        self.validator = Validator()
        self._available: dict[Digest, bool] = {}
        self._valid = set[tuple[Digest, str]]()
        self._documents: dict[tuple[Digest, str], bytes] = {}
        self._children: dict[tuple[Digest, str], Sequence[Descriptor]] = {}
        self._held_bytes = 0

    def read(self, descriptor: Descriptor) -> bytes:
        """Return a document, of the archive or else of the store; that of the archive is validated.

        Raises ArchiveError, NotFound.
        """
        key = descriptor.digest, descriptor.media_type
        known = self._documents.get(key)
        if known is not None and len(known) == descriptor.size:
            return known
        raw = self._read(descriptor)
        if self._held_bytes + len(raw) > _MAX_HELD_BYTES:
            self._documents.clear()
            self._children.clear()
            self._held_bytes = 0
        self._documents[key] = raw
        self._held_bytes += len(raw)
        return raw

    def _read(self, descriptor: Descriptor) -> bytes:
        limit = graph.size_limit(descriptor)
        file = self._contents.blob(descriptor)
        if file is None:
            return self._content.read_all(descriptor.digest, limit=limit)
        if file.size > limit:
            kind = mediatypes.document_kind(descriptor.media_type)
            raise ArchiveError(
                f"rejecting {file.size} byte {kind} {descriptor.digest}: more than {limit} bytes",
                hint=_BROKEN,
            )
        raw = self._contents.read(file, limit=limit)
        found = Digest.of(raw, descriptor.digest.algorithm)
        if found != descriptor.digest:
            raise ArchiveError(f"wrong content for {file.name} in the archive: its digest is {found}")
        key = descriptor.digest, descriptor.media_type
        if key not in self._valid:
            try:
                self.validator.check(descriptor, raw)
            except ContentError as error:
                raise ArchiveError(
                    f"{file.name} in the archive: {error.message}", hint=error.hint or _BROKEN
                ) from error
            self._valid.add(key)
        return raw

    @property
    def children(self) -> graph.Children:
        """The step of a walk, which raises NotFound for an absent document."""
        step = graph.read_children(self.read)

        def children(descriptor: Descriptor) -> Sequence[Descriptor]:
            key = descriptor.digest, descriptor.media_type
            found = self._children.get(key)
            if found is None:
                found = step(descriptor)
                if found:
                    self._children[key] = found
            return found

        return self.validator.watch(children, self._targets.matcher)

    def fits(self, entry: Descriptor) -> bool:
        """Whether an entry is for a selected platform, or does not say for which it is."""
        return graph.fits(self._targets.matcher)(entry)

    def plan(self, targets: Mapping[str, Descriptor]) -> Plan:
        """Plan one image, which has several names.

        Raises NoMatchingPlatform, IncompleteContent, ArchiveError.
        """
        names = tuple(targets)
        target = targets[names[0]]
        if not graph.has_children(target):
            raise ArchiveError(f"{listed(names)} is neither an index nor a manifest: {target.media_type}")
        absent_indexes: list[Descriptor] = []

        def note(descriptor: Descriptor) -> None:
            if mediatypes.is_index(descriptor.media_type):
                absent_indexes.append(descriptor)

        step = graph.tolerant(self.children, note, NotFound)
        # What does not fit the platforms is left out at the top of the archive as in an index.
        fitting = graph.only_platforms(step, self._targets.matcher)
        leaves = list(graph.leaves_of(target, fitting)) if self.fits(target) else []
        replaced = {leaf.digest: self._replaced(target, leaf, step) for leaf in leaves}
        missing = {leaf.digest: self._missing(leaf, step, replaced[leaf.digest]) for leaf in leaves}
        whole = [leaf for leaf in leaves if not missing[leaf.digest]]
        images = [leaf for leaf in whole if not graph.is_attestation(leaf)]
        found = self._platforms(images)
        lacking = [blob for leaf in leaves if not graph.is_attestation(leaf) for blob in missing[leaf.digest]]
        lacking = list(graph.by_digest([*absent_indexes, *lacking]).values())
        absent = self._absent(target, step, found)
        if not images or not self._skip:
            # An index lists platforms that the archive does not have: their manifests are absent.
            not_in_it = {blob.digest for blob in lacking} <= {leaf.digest for leaf in leaves}
            if lacking and not (absent and not_in_it and self._contents.is_whole):
                raise self._incomplete(names, lacking, found)
            if absent or not images:
                raise self._no_match(names, target, step, absent or self._targets.required)
        return Plan(
            targets=targets,
            platforms=tuple(dict.fromkeys(platform for platform in found if platform is not None)),
            left_out=frozenset(leaf.digest for leaf in leaves if missing[leaf.digest]),
            replaced=frozenset().union(*replaced.values()),
            complete=not lacking and not absent,
        )

    # --- what is there

    def has(self, descriptor: Descriptor) -> bool:
        """Whether the archive or the store has a blob."""
        return self._is_available(descriptor)

    def missing(self, descriptor: Descriptor) -> list[Descriptor]:
        """Return what is missing of a manifest or an index, of any platform. Raises ArchiveError."""
        return self._missing(descriptor, graph.tolerant(self.children, lambda _absent: None, NotFound))

    def _missing(
        self, leaf: Descriptor, step: graph.Children, replaced: frozenset[Digest] = frozenset()
    ) -> list[Descriptor]:
        """Return what is missing of a manifest and not replaced; validates the documents that are not."""
        missing = []
        for item in graph.by_digest(graph.preorder(leaf, step)).values():
            if item.digest in replaced:
                continue
            if not self._is_available(item):
                missing.append(item)
            elif is_document(item) and not graph.has_children(item):  # the walk reads the others
                self.read(item)
        return missing

    def _replaced(self, target: Descriptor, leaf: Descriptor, step: graph.Children) -> frozenset[Digest]:
        """Return the layers of a manifest that are missing, but whose snapshots exist."""
        found = list(step(leaf)) if mediatypes.is_manifest(leaf.media_type) else []
        if not found or all(map(self._is_available, found)):
            return frozenset()
        platform = self._platform_of(leaf)
        if platform is None or not self._unpacks(target, platform):
            return frozenset()
        chains = graph.chain_ids(found[0], found[1:], self.read)
        return frozenset(
            layer.digest
            for layer, chain in zip(found[1:], chains, strict=True)
            if not self._is_available(layer) and self._presumption.is_replaced(layer, chain)
        )

    def is_stored(self, descriptor: Descriptor) -> bool:
        """Whether the store has a blob."""
        return is_present(self._content, descriptor)

    def _is_available(self, descriptor: Descriptor) -> bool:
        known = self._available.get(descriptor.digest)
        if known is None:
            known = (
                self._contents.blob(descriptor) is not None
                or self.is_stored(descriptor)
                or self._adopt(descriptor)
            )
            self._available[descriptor.digest] = known
        return known

    def _platforms(self, images: Sequence[Descriptor]) -> list[Platform | None]:
        return [self._platform_of(leaf) for leaf in images]

    def _platform_of(self, leaf: Descriptor) -> Platform | None:
        """Return the platform of a manifest, from the index or else its config; None for an artifact."""
        if leaf.platform is None and not mediatypes.is_manifest(leaf.media_type):
            return None
        found = graph.platform_of(leaf, self.read)
        return found and platforms.normalize(found)

    def _absent(
        self, target: Descriptor, step: graph.Children, found: Sequence[Platform | None]
    ) -> Sequence[Platform]:
        """Return the selected platforms that the image does not have.

        As in ctr, a manifest without a platform may be for any, unless the caller has named platforms.
        """
        selected = self._targets.selection.platforms
        if not selected and any(leaf.platform is None for leaf in self._images(target, step)):
            return ()
        return self._targets.absent(found)

    def _images(self, target: Descriptor, step: graph.Children) -> Iterator[Descriptor]:
        return filter(graph.is_image, graph.leaves_of(target, step))

    # --- errors

    def _incomplete(
        self, names: Sequence[str], lacking: Sequence[Descriptor], found: Sequence[Platform | None]
    ) -> IncompleteContent:
        text = f"content digest {lacking[0].digest}: not found"
        if len(lacking) > 1:
            text += f", and {count(len(lacking) - 1, 'more blob')}"
        amount = f"{count(len(lacking), 'blob')}, {size(sum(item.size for item in lacking))}"
        hint = "neither the archive nor this namespace has it: save the image again"
        if not self._contents.is_whole:
            hint = "the archive lacks its end and may be truncated: copy or save it again"
        have = [platforms.format_all(platform) for platform in found if platform is not None]
        if have:
            hint = f"complete in it is {listed(have)}"
        return IncompleteContent(
            f"{text}: {listed(names)} is incomplete (missing: {amount})",
            missing=lacking,
            hint=hint,
            remedy=Remedy(platforms=(have[0],)) if have else None,
        )

    def _no_match(
        self,
        names: Sequence[str],
        target: Descriptor,
        step: graph.Children,
        absent: Sequence[Platform],
    ) -> NoMatchingPlatform:
        has = list(
            dict.fromkeys(
                platforms.format_all(platform)
                for leaf in self._images(target, step)
                if not self._missing(leaf, step) and (platform := self._platform_of(leaf)) is not None
            )
        )
        wanted = listed([platforms.format_all(platform) for platform in absent])
        return NoMatchingPlatform(
            f"no match for platform in the archive: not found: {listed(names)} is not in it for "
            f"{wanted or 'any platform'}",
            name=wanted,
            hint=f"it has {listed(has)}" if has else "it has no complete platform at all",
            remedy=Remedy(platforms=(has[0],)) if has else None,
        )

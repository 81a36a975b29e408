"""Survey: one pass over an image's documents that finds out which content is in the store."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import suppress
from functools import cached_property
from typing import NamedTuple

import msgspec

from pyctrd.errors import ContentError, InvalidReference, NotFound, Unsupported
from pyctrd.oci import graph, mediatypes, platforms
from pyctrd.oci.model import Descriptor, Digest, ImageConfig, ImageRecord, Manifest, Platform, SnapshotInfo
from pyctrd.oci.platforms import Targets
from pyctrd.operations.diagnose.inspection import Inspection
from pyctrd.operations.diagnose.model import Kind
from pyctrd.operations.diagnose.parent_document import ParentDocument

# The total of manifests and layers in all rows, which may share a manifest and list it several times.
_MAX_ROWS = 10 * graph.MAX_DESCRIPTORS


class Layer(msgspec.Struct, frozen=True, kw_only=True):
    """A layer (or other content) of a manifest, and the snapshots of its chain id by snapshotter."""

    descriptor: Descriptor
    present: bool
    diff_id: Digest | None
    snapshots: dict[str, SnapshotInfo]


class Branch(msgspec.Struct, frozen=True, kw_only=True):
    """One manifest of the image, with what the store has of it.

    `manifest` is None if the document is absent, or not a manifest (then `readable` is false). `parent` is
    the index that lists it, and `through` are the platforms of the indexes above it. `unpacked_in` are the
    snapshotters that have the whole chain.
    """

    descriptor: Descriptor
    parent: Descriptor | None
    through: tuple[Platform, ...]
    present: bool
    readable: bool
    manifest: Manifest | None
    config: ImageConfig | None
    config_present: bool
    layers: tuple[Layer, ...]
    unpacked_in: tuple[str, ...]

    @property
    def platform(self) -> Platform | None:
        """The descriptor's platform, or else the config's; None if neither is known."""
        if self.descriptor.platform is not None:
            return self.descriptor.platform
        if self.config is None or not (self.config.os or self.config.architecture):
            return None
        return self.config.platform

    @property
    def platform_text(self) -> str:
        """The platform as a text; empty if it is unknown."""
        return platforms.format_all(self.platform) if self.platform else ""

    @property
    def missing(self) -> tuple[Descriptor, ...]:
        """What is known to be missing, each digest once, in document order."""
        absent = [] if self.present else [self.descriptor]
        if self.manifest is not None:
            absent += [] if self.config_present else [self.manifest.config]
            absent += [layer.descriptor for layer in self.layers if not layer.present]
        return tuple({item.digest: item for item in absent}.values())

    @property
    def kind(self) -> Kind:
        """What the manifest is, according to its descriptor and the document itself."""
        if not self.readable:
            return "other"
        if mediatypes.ATTESTATION_TYPE in self.descriptor.annotations or self._is_statement:
            return "attestation"
        config_type = self.manifest.config.media_type if self.manifest else mediatypes.OCI_CONFIG
        artifact = self.descriptor.artifact_type or (self.manifest and self.manifest.artifact_type)
        return "artifact" if artifact or not mediatypes.is_image_config(config_type) else "image"

    @property
    def attests(self) -> Digest | None:
        """The digest of the manifest that this one is an attestation for (in either of BuildKit's forms)."""
        if self.kind != "attestation":
            return None
        if self.manifest is not None and self.manifest.subject is not None:
            return self.manifest.subject.digest
        with suppress(InvalidReference):  # the annotation may contain anything
            return Digest(self.descriptor.annotations.get(mediatypes.ATTESTED_DIGEST, ""))
        return None

    @property
    def _is_statement(self) -> bool:
        if self.manifest is None or self.manifest.subject is None:
            return False
        return any(item.media_type == mediatypes.IN_TOTO for item in self.manifest.layers)


class _Contents(NamedTuple):
    manifest: Manifest | None
    config: ImageConfig | None
    layers: tuple[Layer, ...]
    unpacked_in: tuple[str, ...]


class Survey:
    """The input of the rows, the forecasts and the causes."""

    def __init__(self, inspection: Inspection, image: ImageRecord, snapshotter: str) -> None:
        self.inspection = inspection
        self.image = image
        self.snapshotter = snapshotter
        self._parents: dict[Digest, Descriptor] = {}
        self._documents: dict[tuple[Digest, str], ParentDocument] = {}
        self._contents: dict[tuple[Digest, str, bool], _Contents] = {}
        self.unread: list[Descriptor] = []

    @cached_property
    def branches(self) -> tuple[Branch, ...]:
        """The image's manifests in document order, including those in nested indexes.

        Adds absent indexes to `unread`. Raises ContentError for a document that does not match its media
        type.
        """
        step = graph.tolerant(self._below_index, self.unread.append, NotFound)
        branches: list[Branch] = []
        rows = 0
        for item in graph.preorder(self.image.target, step):
            if not mediatypes.is_index(item.media_type) and self._is_wanted(item):
                branches.append(self._branch(item))
                rows += 1 + len(branches[-1].layers)
                graph.check_count(self.image.target, rows, _MAX_ROWS)
        return tuple(branches)

    @cached_property
    def layers_of_complete(self) -> frozenset[Digest]:
        """The layers of all complete manifests."""
        complete = [item for item in self.branches if item.manifest is not None and not item.missing]
        return frozenset(layer.descriptor.digest for item in complete for layer in item.layers)

    def parent_document(self, descriptor: Descriptor) -> ParentDocument:
        """Return an index or a manifest with its children. Raises what Inspection.children raises."""
        key = descriptor.digest, descriptor.media_type
        if key not in self._documents:
            self._documents[key] = ParentDocument(self.inspection, descriptor)
        return self._documents[key]

    def parent_of(self, descriptor: Descriptor) -> Descriptor | None:
        """Return the index that lists a manifest or an index of the image; None for the target."""
        return self._parents.get(descriptor.digest)

    def _through(self, descriptor: Descriptor) -> Iterator[Platform]:
        """Yield the platforms of the indexes above: one that does not match excludes everything below it."""
        parent = self.parent_of(descriptor)
        while parent is not None:
            if parent.platform is not None:
                yield parent.platform
            parent = self.parent_of(parent)

    def labels(self, digest: Digest) -> dict[str, str]:
        """Return a blob's labels."""
        return self.inspection.labels(digest)

    def for_image(self, image: ImageRecord) -> Survey:
        """Return the same survey for another record of the same target."""
        other = copy.copy(self)
        other.image = image
        return other

    def _is_wanted(self, _manifest: Descriptor) -> bool:
        """Whether a manifest gets a branch."""
        return True

    def _below_index(self, descriptor: Descriptor) -> Sequence[Descriptor]:
        if not mediatypes.is_index(descriptor.media_type):
            return ()
        children = self.inspection.children(descriptor)
        for child in children:
            self._parents.setdefault(child.digest, descriptor)
        return children

    def _branch(self, descriptor: Descriptor) -> Branch:
        found = self._read(descriptor)
        return Branch(
            descriptor=descriptor,
            parent=self.parent_of(descriptor),
            through=tuple(self._through(descriptor)),
            present=self.inspection.is_present(descriptor),
            readable=mediatypes.is_manifest(descriptor.media_type),
            manifest=found.manifest,
            config=found.config,
            config_present=found.manifest is not None and self.inspection.is_present(found.manifest.config),
            layers=found.layers,
            unpacked_in=found.unpacked_in,
        )

    def _read(self, descriptor: Descriptor) -> _Contents:
        """Read a manifest, once for all platforms that it is listed for."""
        key = descriptor.digest, descriptor.media_type, descriptor.platform is None
        if key not in self._contents:
            manifest = self._manifest(descriptor)
            config = self._config(descriptor, manifest)
            layers = self._layers(manifest, config)
            chain = [layer for layer in layers if mediatypes.is_layer(layer.descriptor.media_type)]
            unpacked_in = tuple(chain[-1].snapshots) if chain else ()
            self._contents[key] = _Contents(manifest, config, layers, unpacked_in)
        return self._contents[key]

    def _manifest(self, descriptor: Descriptor) -> Manifest | None:
        if not mediatypes.is_manifest(descriptor.media_type):
            return None
        try:
            self.inspection.children(descriptor)  # refuses an ambiguous document, as containerd does
            return Manifest.parse(self.inspection.read(descriptor))
        except NotFound:
            return None

    def _config(self, _descriptor: Descriptor, manifest: Manifest | None) -> ImageConfig | None:
        if manifest is None or not mediatypes.is_image_config(manifest.config.media_type):
            return None
        return self.inspection.config(manifest.config)

    def _layers(self, manifest: Manifest | None, config: ImageConfig | None) -> tuple[Layer, ...]:
        """Match the manifest's layers with the config's diff ids; only file system layers have one."""
        if manifest is None:
            return ()
        links = iter(_links(config) if config else ())
        snapshotters = self._snapshotters(manifest.config)
        layers: list[Layer] = []
        for item in manifest.layers:
            diff_id, chain_id = (
                next(links, (None, None)) if mediatypes.is_layer(item.media_type) else (None, None)
            )
            found = {name: self._snapshot(name, chain_id) for name in snapshotters if chain_id}
            layers.append(
                Layer(
                    descriptor=item,
                    present=self.inspection.is_present(item),
                    diff_id=diff_id,
                    snapshots={name: snapshot for name, snapshot in found.items() if snapshot},
                )
            )
        return tuple(layers)

    def _snapshot(self, snapshotter: str, chain_id: Digest) -> SnapshotInfo | None:
        """Return a snapshot; a snapshotter that only a label names may no longer be loaded."""
        try:
            return self.inspection.snapshot(snapshotter, chain_id)
        except Unsupported:
            if snapshotter == self.snapshotter:
                raise
            return None

    def _snapshotters(self, config: Descriptor) -> list[str]:
        """Return the snapshotters to check: the chosen one, and those in the config's labels."""
        prefix = mediatypes.GC_REF_SNAPSHOT
        labelled = [key.removeprefix(prefix) for key in self.labels(config.digest) if key.startswith(prefix)]
        return list(dict.fromkeys(filter(None, [self.snapshotter, *sorted(labelled)])))


class TargetSurvey(Survey):
    """A survey of the manifests that may be targets, without snapshots: whether they are complete."""

    def __init__(self, inspection: Inspection, image: ImageRecord, targets: Targets) -> None:
        super().__init__(inspection, image, "")
        self._targets = targets

    def _is_wanted(self, manifest: Descriptor) -> bool:
        matcher = self._targets.matcher
        listed = [*self._through(manifest), *filter(None, [manifest.platform])]
        return all(map(matcher.match, listed))

    def _config(self, descriptor: Descriptor, manifest: Manifest | None) -> ImageConfig | None:
        return super()._config(descriptor, manifest) if descriptor.platform is None else None

    def _snapshotters(self, config: Descriptor) -> list[str]:  # noqa: ARG002 - they need not be known
        return []


def _links(config: ImageConfig) -> tuple[tuple[Digest, Digest], ...]:
    """Return pairs of diff id and chain id; none if the config's diff ids are invalid."""
    try:
        return tuple(zip(config.rootfs.diff_ids, config.rootfs.chain_ids, strict=True))
    except ContentError:
        return ()

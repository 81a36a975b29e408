"""What containerd's archive exporter would do with the content that is here, error text included.

Source: containerd core/images/archive/exporter.go Export, getRecords, manifestsRecord, writeTar.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import msgspec

from pyctrd import mediatypes, reference, walk
from pyctrd.diagnose.inspection import Inspection
from pyctrd.diagnose.model import ExportForecast
from pyctrd.errors import ContentError, InvalidReference, NotFound
from pyctrd.model import Descriptor, ImageRecord, Manifest
from pyctrd.platforms import Matcher

_EMPTY_ARCHIVE = (
    "writes an archive without the image, and calls that success: the exporter passes over an image whose "
    "target is absent (containerd 1.6 fails instead: {error})"
)


class Export(msgspec.Struct, frozen=True, kw_only=True):
    """One run of the exporter: what it matches, and what it would find.

    `all_platforms` takes along what does not match; `present` tells of content that is here by then.
    """

    inspection: Inspection
    matcher: Matcher
    all_platforms: bool
    present: Callable[[Descriptor], bool]

    def forecast(self, image: ImageRecord) -> ExportForecast:
        """Tell how exporting this image would end."""
        if not self.present(image.target):
            error = _not_found(image.target)
            return ExportForecast(ok=False, error=error, exit_code=0, note=_EMPTY_ARCHIVE.format(error=error))
        error = self._planning_error(image) or self._writing_error(image)
        return ExportForecast(ok=not error, error=error, exit_code=1 if error else 0)

    def _planning_error(self, image: ImageRecord) -> str:
        """Give the error before the first byte: documents that cannot be read, no manifest to choose."""
        try:
            roots = self._roots(image.target)
            for root in roots:
                for _ in self._tree(root):
                    pass
            return self._docker_manifest_error(image)
        except _AbsentError as error:
            return _not_found(error.descriptor)
        except ContentError as error:
            return error.message

    def _writing_error(self, image: ImageRecord) -> str:
        """Give the error at the first absent blob; the archive's entries are sorted by their names."""
        blobs = [image.target, *(item for root in self._roots(image.target) for item in self._tree(root))]
        for blob in sorted(blobs, key=lambda item: (item.digest.algorithm, item.digest.encoded)):
            if not self.present(blob):
                return f"failed to get reader: {_not_found(blob)}"
        return ""

    def _roots(self, target: Descriptor) -> list[Descriptor]:
        """List the trees that go in: the manifest itself, or an index's children that are to be exported."""
        if mediatypes.is_manifest(target.media_type):
            return [target]
        if not mediatypes.is_index(target.media_type):
            raise ContentError("only manifests may be exported: invalid argument")
        return [child for child in self._children(target) if self.all_platforms or self._matches(child)]

    def _docker_manifest_error(self, image: ImageRecord) -> str:
        """Give the error of choosing and writing the manifest.json of `docker load`."""
        chosen = image.target
        if mediatypes.is_index(image.target.media_type):
            candidates = [child for child in self._children(image.target) if self._matches(child)]
            if not candidates:
                return "no manifest found for platform: not found"
            chosen = walk.closest(candidates, self.matcher)[0]
        error = self._chosen_error(chosen)
        if not error:
            try:
                reference.parse(image.name)
            except InvalidReference:
                error = f'failed to parse "{image.name}"'
        return f"unable to create manifests file: {error}" if error else ""

    def _chosen_error(self, chosen: Descriptor) -> str:
        if not self.present(chosen):
            return _not_found(chosen)
        if not mediatypes.is_manifest(chosen.media_type):
            return "invalid checksum digest format"  # an index has no config to name
        Manifest.parse(self.inspection.read(chosen))
        return ""

    def _matches(self, child: Descriptor) -> bool:
        return child.platform is None or self.matcher.match(child.platform)

    def _tree(self, root: Descriptor) -> Iterator[Descriptor]:
        return walk.preorder(root, self._children)

    def _children(self, descriptor: Descriptor) -> tuple[Descriptor, ...]:
        try:
            return tuple(self.inspection.children(descriptor))
        except NotFound:
            if self.present(descriptor):  # it comes with the fetch before the export, and brings its own
                return ()
            raise _AbsentError(descriptor) from None


class _AbsentError(Exception):
    """A document that the exporter has to read is not here."""

    def __init__(self, descriptor: Descriptor) -> None:
        super().__init__(str(descriptor.digest))
        self.descriptor = descriptor


def _not_found(descriptor: Descriptor) -> str:
    return f"content digest {descriptor.digest}: not found"

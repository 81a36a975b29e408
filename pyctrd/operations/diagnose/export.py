"""Predict what containerd's archive exporter would do with the local content, including its errors.

Source: containerd core/images/archive/exporter.go Export, getRecords, manifestsRecord, writeTar.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence

import msgspec

from pyctrd.errors import ContentError, InvalidReference, NotFound
from pyctrd.oci import graph, mediatypes, reference
from pyctrd.oci.model import Descriptor, ImageRecord, parse_json
from pyctrd.oci.platforms import Matcher
from pyctrd.operations.diagnose.inspection import Inspection
from pyctrd.operations.diagnose.model import ExportForecast

_EMPTY_ARCHIVE = (
    "writes an archive without the image and reports success: the exporter skips an image whose target is "
    "absent (containerd 1.6 fails instead)"
)
_ABSENT = "content digest"
_UNREAD_INDEX = (
    "an index is fetched first, but not its children for other platforms, which the export may need"
)


_NO_CONFIG = "invalid checksum digest format"  # for a document without a config
_FAILS = ""  # with an error of Go's decoder that is not predicted here
# What Go prints of the first byte of a compressed layer.
_FIRST_BYTE = {"gzip": r"\x1f", "zstd": "("}
_JSON_STARTS = tuple(bytes([byte]) for byte in b'{["-0123456789tfn')


class Export(msgspec.Struct, frozen=True, kw_only=True):
    """One run of the exporter.

    `all_platforms` also exports what does not match. `present` says what will be in the store by then: what
    is fetched before the export cannot be read yet, so the children of a fetched index are unknown.
    `skips_absent` says whether the exporter skips an image whose target is absent.
    """

    inspection: Inspection
    matcher: Matcher
    all_platforms: bool
    present: Callable[[Descriptor], bool]
    skips_absent: bool = True
    _unread: list[Descriptor] = msgspec.field(default_factory=list)

    def forecast(self, image: ImageRecord) -> ExportForecast:
        """Predict the export of an image."""
        if not self.present(image.target):
            error = _not_found(image.target)
            if self.skips_absent:
                return ExportForecast(ok=False, error=error, exit_code=0, note=_EMPTY_ARCHIVE)
            return ExportForecast(ok=False, error=error, exit_code=1)
        self._unread.clear()
        error = self._planning_error(image) or self._writing_error(image)
        if self._unread:
            # The export may find content missing below the index first, but it fails in any case.
            certain = _ABSENT in error
            return ExportForecast(ok=False, error=_ABSENT, exit_code=1, note=_UNREAD_INDEX, certain=certain)
        return ExportForecast(ok=not error, error=error, exit_code=1 if error else 0)

    def _planning_error(self, image: ImageRecord) -> str:
        """Return the error before anything is written: unreadable documents, or no matching manifest."""
        try:
            for _ in self._blobs(image.target):
                pass
            return self._docker_manifest_error(image)
        except _AbsentError as error:
            return _not_found(error.descriptor)
        except ContentError as error:
            return error.message

    def _writing_error(self, image: ImageRecord) -> str:
        """Return the error for the first absent blob; the exporter writes entries sorted by name."""
        for blob in sorted(
            self._blobs(image.target), key=lambda item: (item.digest.algorithm, item.digest.encoded)
        ):
            if not self.present(blob):
                return f"failed to get reader: {_not_found(blob)}"
        return ""

    def _blobs(self, target: Descriptor) -> Iterator[Descriptor]:
        """Yield the exported blobs: the target, the selected children of an index, and all below."""
        if not graph.has_children(target):
            raise ContentError("only manifests may be exported: invalid argument")

        def step(descriptor: Descriptor) -> Sequence[Descriptor]:
            children = self._children(descriptor)
            if descriptor.digest != target.digest or not mediatypes.is_index(target.media_type):
                return children
            return [child for child in children if self.all_platforms or self._matches(child)]

        return graph.preorder(target, step)

    def _docker_manifest_error(self, image: ImageRecord) -> str:
        """Return the error of selecting and writing the manifest.json for `docker load`."""
        chosen = image.target
        if mediatypes.is_index(image.target.media_type):
            candidates = [child for child in self._children(image.target) if self._matches(child)]
            if not candidates:
                return "no manifest found for platform: not found"
            chosen = graph.closest(candidates, self.matcher)[0]
        error = self._chosen_error(chosen)
        if error is None:
            try:
                reference.parse(image.name)
            except InvalidReference:
                error = f'failed to parse "{image.name}"'
            else:
                return ""
        return f"unable to create manifests file: {error}".removesuffix(": ")

    def _chosen_error(self, chosen: Descriptor) -> str | None:
        if not self.present(chosen):
            return _not_found(chosen)
        if mediatypes.is_index(chosen.media_type):
            return _NO_CONFIG
        if mediatypes.is_manifest(chosen.media_type):
            return None
        return self._reading_error(chosen)

    def _reading_error(self, chosen: Descriptor) -> str:
        """Return the error of Go's JSON decoder, or of the config's digest, for other content."""
        if not self.inspection.is_present(chosen):
            return _FAILS
        if mediatypes.is_layer(chosen.media_type):
            first = _FIRST_BYTE.get(re.split("[.+]", chosen.media_type)[-1])
            return _invalid_character(first) if first else _FAILS  # layers may be large: not read
        try:
            raw = self.inspection.read(chosen)
        except ContentError:
            return _FAILS
        text = raw.lstrip(b" \t\r\n")
        if text[:1] not in _JSON_STARTS:
            return _invalid_character(text[:1].decode("latin-1")) if text else "unexpected end of JSON input"
        try:
            document = parse_json(raw)
        except ContentError:
            return _FAILS
        return _NO_CONFIG if isinstance(document, dict) and not document.get("config") else _FAILS

    def _matches(self, child: Descriptor) -> bool:
        return child.platform is None or self.matcher.match(child.platform)

    def _children(self, descriptor: Descriptor) -> tuple[Descriptor, ...]:
        try:
            return tuple(self.inspection.children(descriptor))
        except NotFound:
            if self.present(descriptor):  # it is fetched before the export, with its children
                if mediatypes.is_index(descriptor.media_type):
                    self._unread.append(descriptor)
                return ()
            raise _AbsentError(descriptor) from None


class _AbsentError(Exception):
    """A document that the exporter has to read is absent."""

    def __init__(self, descriptor: Descriptor) -> None:
        super().__init__(str(descriptor.digest))
        self.descriptor = descriptor


def _invalid_character(character: str) -> str:
    return f"invalid character '{character}' looking for beginning of value"


def _not_found(descriptor: Descriptor) -> str:
    return f"{_ABSENT} {descriptor.digest}: not found"
